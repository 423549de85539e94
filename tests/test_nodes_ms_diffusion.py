"""The nodes of MS-Diffusion in the real host: what they take, what they show, what they say of what does not fit."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from also_connected import extra
from ms_fixtures import released_tables, sparse_pickle, sparse_safetensors
from ms_world import CONFIG, IMAGE_WIDTH, VISION, picture, random_adapter, relative, the_world

from blipdiff_impl.ms_diffusion.checkpoint import save_adapter

LEFT = (0.0, 0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def world(comfy):
    return the_world(comfy)


@pytest.fixture(scope="module")
def error(comfy):
    return comfy.module("blipdiff_impl.errors").SubjectError


@pytest.fixture(scope="module")
def folder(comfy):
    path = Path(comfy.folder_paths.get_folder_paths("msdiffusion")[0])
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def load(comfy):
    def run(name):
        with torch.inference_mode():
            return comfy.node("MSDiffusionLoader").execute(name)[0]

    return run


# The loader


def test_an_adapter_is_listed_and_loaded(comfy, world, folder, load):
    save_adapter(random_adapter(), folder / "small.safetensors", torch.float32, overwrite=True)
    (folder / "notes.txt").touch()
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "other.bin").touch()
    names = comfy.node("MSDiffusionLoader").define_schema().inputs[0].options
    assert names == ["toybox (built in, toy world only)", "deep/other.bin", "small.safetensors"]
    (folder / "deep" / "other.bin").unlink()
    loaded = load("small.safetensors")
    subjects = world.two()
    found, expected = (
        world.sample(world.apply(subjects, ms_adapter=each)[0], size=(8, 8), steps=1)
        for each in (loaded, world.ms_adapter)
    )
    assert torch.equal(found, expected)


def test_sixteen_bit_files_are_nearly_the_same(world, folder, load):
    save_adapter(random_adapter(), folder / "half.safetensors", torch.float16, overwrite=True)
    loaded = load("half.safetensors")
    weights = loaded.adapter.state_dict()
    assert weights["ms_adapter.1.to_k_ip.weight"].dtype == torch.float16
    assert weights["image_proj.proj_in.weight"].dtype == torch.float32
    found, expected = (
        world.sample(world.apply(world.two(), ms_adapter=each)[0], size=(8, 8), steps=1)
        for each in (loaded, world.ms_adapter)
    )
    assert relative(found, expected) < 0.02


def test_folders_of_the_user_are_searched(comfy, monkeypatch, tmp_path):
    own = str(tmp_path / "mine")
    Path(own).mkdir()
    registered = comfy.folder_paths.folder_names_and_paths
    monkeypatch.setitem(registered, "msdiffusion", ([own], set()))
    comfy.module("nodes.host.setup").prepare()
    assert registered["msdiffusion"][0] == [own, str(Path(comfy.folder_paths.models_dir) / "msdiffusion")]
    (tmp_path / "mine" / "an.safetensors").touch()
    assert "an.safetensors" in comfy.node("MSDiffusionLoader").define_schema().inputs[0].options


def test_a_missing_file_says_what_was_looked_for_where_and_what_is_there(comfy, folder, error, load):
    save_adapter(random_adapter(), folder / "small.safetensors", torch.float32, overwrite=True)
    sentence = comfy.node("MSDiffusionLoader").validate_inputs("gone.bin")
    for part in ("'gone.bin'", str(folder), "small.safetensors", "ms_adapter.bin", "doge1516/MS-Diffusion"):
        assert part in sentence
    assert comfy.node("MSDiffusionLoader").validate_inputs("small.safetensors") is True
    with pytest.raises(error, match="no MS-Diffusion adapter '../../small"):
        load("../../small.safetensors")


def ip_adapter(path):
    tables = {"image_proj": {"latents": (1, 16, 8)}, "ip_adapter": {"1.to_k_ip.weight": (8, 8)}}
    return sparse_pickle(path.with_suffix(".bin"), tables)


def incomplete(path):
    tables = released_tables()
    del tables["ms_adapter"]["71.to_k_ip.weight"]
    return sparse_pickle(path.with_suffix(".bin"), tables)


@pytest.mark.parametrize("make, said", [
    (ip_adapter, "no MS-Diffusion adapter: it looks like an IP-Adapter"),
    (lambda path: sparse_safetensors(path, {"control_model.zero_convs.0.0.weight": (4,)}), "looks like a ControlNet"),
    (lambda path: sparse_safetensors(path, {"query_tokens": (1, 16, 8)}), "looks like a BLIP-Diffusion checkpoint"),
    (incomplete, "1 tensor is missing: ms_adapter.71.to_k_ip.weight"),
])  # fmt: skip
def test_other_files_are_called_what_they_are(folder, load, error, make, said):
    path = make(folder / "strange.safetensors")
    try:
        with pytest.raises(error, match=said):
            load(path.name)
    finally:
        path.unlink()


# The subject


def only(subjects):
    (subject,) = subjects.placed
    return subject


def mask_of(rows, columns, size=(80, 160)):
    mask = torch.zeros(1, *size)
    mask[:, slice(*rows), slice(*columns)] = 1
    return mask


BOX = {"x": 40, "y": 20, "width": 80, "height": 40}  # on 160 x 80: 0.25, 0.25, 0.75, 0.75


@pytest.mark.parametrize("more", [
    {"box": BOX}, {"box": [BOX]}, {"box": [[BOX]]}, {"box": [[BOX | {"label": "dog", "score": 0.9}]]},
    {"box": [[{"x": 0, "y": 0, "width": 9, "height": 9}], [BOX]], "box_number": 2},
    {"box": {"x": 120, "y": 60, "width": -80, "height": -40}}, {"box_mask": mask_of((20, 60), (40, 120))},
])  # fmt: skip
def test_every_form_of_a_box_is_the_same_box(world, more):
    found = only(world.subject(**{"canvas_width": 160, "canvas_height": 80, **more}))
    assert dataclasses.astuple(found.box) == (0.25, 0.25, 0.75, 0.75) and found.canvas == (160, 80)


def test_four_numbers_with_corners_in_any_order(world):
    assert dataclasses.astuple(only(world.subject(box=(0.75, 0.5, 0.25, 0.0))).box) == (0.25, 0.0, 0.75, 0.5)


@pytest.mark.parametrize("given, kept", [
    ((-0.1, 0.2, 0.5, 1.2), (0.0, 0.2, 0.5, 1.0)), ((1.2, 2.0, 0.5, -1.0), (0.5, 0.0, 1.0, 1.0)),
])  # fmt: skip
def test_four_numbers_outside_the_picture_are_cut_off(world, given, kept):
    assert dataclasses.astuple(only(world.subject(box=given)).box) == kept


def test_boxes_of_the_hosts_own_nodes(world):
    boxes = [{"x": 256, "y": 128, "width": 512, "height": 384}]
    if find_spec("comfy_extras.nodes_bounding_boxes"):  # the oldest host has no canvas to draw them on
        boxes.append(extra("nodes_images", "BoundingBox").execute(256, 128, 512, 384)[0])
        drawn = [{"x": 256, "y": 128, "width": 512, "height": 384, "metadata": {"type": "obj", "desc": "a dog"}}]
        boxes.append(extra("nodes_bounding_boxes", "CreateBoundingBoxes").execute(1024, 512, drawn)[1])
    for box in boxes:
        found = only(world.subject(box=box, canvas_width=1024, canvas_height=512))
        assert dataclasses.astuple(found.box) == (0.25, 0.25, 0.75, 1.0)


def test_subjects_are_chained_and_the_ones_before_stay(world):
    one = world.subject("dog")
    two = world.subject("cat", strength=0.5, previous=one)
    assert [each.phrase for each in two.placed] == ["dog", "cat"] and len(one.placed) == 1
    assert two.placed[1].strength == 0.5


def test_a_mask_cuts_the_subject_out_on_black(world):
    photo, mask = picture(1, (80, 160)), mask_of((10, 50), (20, 80))
    found = only(world.subject(photo=photo, mask=mask)).image
    assert found.shape == (1, 40, 60, 3) and torch.equal(found, photo[:, 10:50, 20:80])


@pytest.mark.parametrize("change, said", [
    ({"phrase": "  "}, "phrase of a subject is empty"),
    ({"phrase": "x" * 300}, "too long to name a subject"),
    ({"photo": picture(0, (1, 1))}, "1x1 pixels, too small"),
    ({"photo": torch.full((1, 32, 32, 3), torch.nan)}, "NaN or infinite pixels"),
    ({"photo": torch.rand(3, 32, 32, 3)}, "3 came in. Choose one"),
    ({"mask": torch.ones(1, 8, 8)}, "mask is 8x8 pixels but the photo is 40x40"),
    ({"mask": torch.zeros(1, 40, 40)}, "selects nothing"),
    ({"box": {"x": 2000, "y": 0, "width": 10, "height": 10}}, "outside the picture: x 2000.*1024x1024"),
    ({"box": []}, "no box in what is connected"),
    ({"box": [[]]}, "no box in what is connected"),
    ({"box": BOX | {"width": 0}}, "has no area: x 40, y 20, width 0, height 40"),
    ({"box": {"x": 1, "y": 2}}, "has no width, height"),
    ({"box": "here"}, "connected as box is 'here'"),
    ({"box": [BOX], "box_number": 2}, "Box 2 is asked for, but 1 came in"),
    ({"box_mask": torch.zeros(1, 8, 8)}, "mask that gives the box is empty"),
    ({"box_mask": torch.full((1, 8, 8), torch.nan)}, "box holds NaN"),
    ({"box": BOX, "box_mask": torch.ones(1, 8, 8)}, "Both box and box_mask are connected"),
    ({"x1": 0.75}, "has no area: x1 0.75, y1 0.25, x2 0.75, y2 0.75"),
    ({"x1": 1.2, "x2": 1.5}, "outside the picture: x1 1.2, y1 0.25, x2 1.5, y2 0.75"),
    ({"x1": float("nan")}, "x1 = nan is out of range"),
    ({"y2": 768.0}, "y2 = 768.0 is out of range. Use a number from -1.0 to 2.0"),
    ({"strength": 9.0}, "strength = 9.0 is out of range"),
])  # fmt: skip
def test_subjects_that_cannot_be_used(world, error, change, said):
    given = {"image": picture(), "phrase": "dog", "x1": 0.25, "y1": 0.25, "x2": 0.75, "y2": 0.75, "strength": 1.0}
    if "photo" in change:
        change = {"image": change["photo"]}
    with pytest.raises(error, match=said):
        world.comfy.node("MSDiffusionSubject").execute(**{**given, **change})


# The applier


def test_the_image_shows_the_boxes_on_the_canvas(world):
    red, green = (torch.zeros(1, 32, 32, 3) for _ in range(2))
    red[..., 0], green[..., 1] = 1, 1
    first = world.subject("dog", (0.0, 0.0, 0.5, 1.0), photo=red, canvas_width=200, canvas_height=100)
    _, shown = world.apply(world.subject("cat", (0.5, 0.0, 1.0, 1.0), photo=green, previous=first))
    assert shown.shape == (1, 384, 768, 3) and 0 <= float(shown.min()) and float(shown.max()) <= 1
    left, right = shown[0, 200, 192], shown[0, 200, 576]
    assert left[0] > left[1] + 0.3 and right[1] > right[0] + 0.3


def test_the_image_holds_boxes_of_every_size(world):
    """Some of less than a pixel, at the edge, with phrases that do not fit and others that no font has."""
    subjects = world.subject("dog " * 40, (0.0, 0.0, 0.02, 0.02))
    subjects = world.subject("茶壶 ☕", (0.999, 0.999, 1.0, 1.0), previous=subjects, canvas_width=3000, canvas_height=1)
    assert world.apply(subjects)[1].shape[0] == 1


def test_grounding_off_uses_the_learned_queries(world):
    """Phrases change nothing then, boxes still say where."""
    dog, cat = (world.subject(words, LEFT, photo=picture()) for words in ("dog", "cat"))
    runs = {
        (name, grounding): world.sample(world.apply(each, grounding=grounding)[0], size=(8, 8), steps=1)
        for name, each in (("dog", dog), ("cat", cat)) for grounding in (True, False)
    }  # fmt: skip
    assert torch.equal(runs["dog", False], runs["cat", False])
    assert not torch.equal(runs["dog", True], runs["cat", True])
    assert not torch.equal(runs["dog", True], runs["dog", False])


def test_parentheses_in_a_phrase_are_letters(world):
    plain, weighted = (world.subject(words, LEFT, photo=picture()) for words in ("(dog:1.5)", "dog"))
    found, other = (world.sample(world.apply(each)[0], size=(8, 8), steps=1) for each in (plain, weighted))
    assert torch.isfinite(found).all() and not torch.equal(found, other)


def test_the_clip_is_left_as_it_was(world):
    before = world.text("a dog")
    world.apply(world.two())
    after = world.text("a dog")
    assert torch.equal(before[0][0], after[0][0])
    assert torch.equal(before[0][1]["pooled_output"], after[0][1]["pooled_output"])
    assert world.clip.cond_stage_model.clip_l.return_projected_pooled


@pytest.fixture
def told(world, monkeypatch):
    sentences = []
    apply = world.comfy.module("nodes.host.ms_diffusion.apply")
    monkeypatch.setattr(apply, "tell", sentences.append)
    return sentences


def test_five_subjects_work_with_a_note(world, told):
    subjects = None
    for number in range(5):
        subjects = world.subject("dog", (0.2 * number, 0.0, 0.2 * number + 0.2, 1.0), previous=subjects)
        model, _ = world.apply(subjects)
    assert torch.isfinite(world.sample(model, size=(8, 8), steps=1)).all()
    (sentence,) = told
    assert "There are 5 subjects" in sentence and "trained on 4" in sentence


def test_a_vision_model_of_another_width(world, error):
    other = world.host_vision({**VISION, "hidden_size": 32, "num_attention_heads": 2}, None)
    with pytest.raises(error, match=f"features that are 32 wide, the adapter takes {IMAGE_WIDTH}"):
        world.apply(world.two(), clip_vision=other)


def test_a_vision_model_that_is_no_clip(world, error):
    class Other:
        def encode_image(self, image, crop):
            return object()

    with pytest.raises(error, match="gives no states of its second-last layer.*bigG"):
        world.apply(world.two(), clip_vision=Other())


@pytest.fixture(scope="module")
def small_sd15(comfy):
    from tiny_model import CONFIG as TINY
    from tiny_model import canonical, reference_modules

    parts = reference_modules(TINY, seed=5)
    load_unet, load_clip = (comfy.module(f"nodes.host.{name}") for name in ("unet", "clip"))
    with torch.inference_mode():
        model = load_unet.load_unet(canonical("unet", parts["unet"]), TINY.unet, torch.float32)
        clip = load_clip.load_clip(canonical("text_encoder", parts["text_encoder"]), TINY.text_encoder, torch.float32)
    return model, clip


def test_a_model_of_another_structure(world, error, small_sd15):
    with pytest.raises(
        error, match="This MODEL .BaseModel. has 7 cross-attention layers of width 32, 64; the MS-Diff.* 17 cr"
    ):
        world.apply(world.two(), model=small_sd15[0])


def test_the_released_adapter_asks_for_stable_diffusion_xl(comfy, world, error):
    apply = comfy.module("nodes.host.ms_diffusion.apply")
    MSAdapter = comfy.module("blipdiff_impl.ms_diffusion.adapter").MSAdapter
    with torch.device("meta"):
        released = MSAdapter(comfy.module("blipdiff_impl.ms_diffusion.config").RELEASED)
    with pytest.raises(
        error, match="with 70 cross-attention layers of width 640, 1280. Connect a Stable Diffusion XL model"
    ):
        apply.require_fitting(world.model, released)


def test_an_adapter_for_stable_diffusion_one(comfy, small_sd15, world, error):
    """Same classes, other sizes: a CLIP with one encoder and a UNet with attention in its finest level."""
    config = dataclasses.replace(
        CONFIG,
        resampler=dataclasses.replace(CONFIG.resampler, phrase_width=64, context_width=64),
        unet=dataclasses.replace(CONFIG.unet, widths=(32, 64, 64), depths=(1, 1, 0), middle_depth=1, transformers=1),
    )
    adapter = world.host_adapter(config)
    model, clip = small_sd15
    patched, _ = world.apply(world.two(), model=model, clip=clip, ms_adapter=adapter)
    with torch.inference_mode():
        texts = [comfy.node("CLIPTextEncode")().encode(clip, words)[0] for words in ("a dog", "")]
    found, expected = (world.sample(each, *texts, size=(8, 8), steps=1) for each in (patched, model))
    assert torch.isfinite(found).all() and relative(found, expected) > 0.01
    with pytest.raises(
        error, match="has 17 cross-attention layers.*Connect the MODEL that the adapter was trained for"
    ):
        world.apply(world.two(), clip=clip, ms_adapter=adapter)


def test_a_clip_of_another_width(world, error, small_sd15):
    with pytest.raises(error, match="phrases' vectors are 64 wide, the adapter takes 32. Connect the CLIP"):
        world.apply(world.two(), clip=small_sd15[1])


def test_a_clip_without_clip_l(world, error):
    class Other:
        cond_stage_model = object()

        def tokenize(self, text, **kwargs):
            return {"g": [], "t5xxl": []}

    with pytest.raises(error, match="text encoders 'g', 't5xxl'; phrases need CLIP-L"):
        world.apply(world.two(), clip=Other())


def test_no_subject(comfy, world, error):
    nothing = comfy.module("blipdiff_impl.ms_diffusion.subjects").PlacedSubjects()
    with pytest.raises(error, match="no subject. Connect MS-Diffusion Subject"):
        world.apply(nothing)


@pytest.mark.parametrize("how, said", [
    ({"auto_layout": True, "prompt": "a dog in the snow"}, "'tea pot' is not in the prompt.*would vanish"),
    ({"auto_layout": True}, "is not in the prompt"),
    ({"auto_layout": True, "prompt": "dog", "threshold": 1.5}, "threshold = 1.5 is out of range"),
    ({"start": 0.5, "end": 0.5}, "start_percent = 0.5 and end_percent = 0.5 leave no step"),
    ({"scale": float("nan")}, "scale = nan is out of range"),
])  # fmt: skip
def test_settings_that_cannot_be_used(world, error, how, said):
    with pytest.raises(error, match=said):
        world.apply(world.two(), **how)


def test_other_things_on_the_sockets(world, error):
    with pytest.raises(error, match="ms_adapter takes an MS_ADAPTER, but something else .a Python str. came in"):
        world.apply(world.two(), ms_adapter="file")
    with pytest.raises(error, match="subjects takes an MS_SUBJECTS"):
        world.apply("dog")
    with pytest.raises(error, match="clip_vision takes a CLIP_VISION"):
        world.apply(world.two(), clip_vision="file")
    with pytest.raises(error, match="No clip_vision is connected, and only the built-in adapter brings its own"):
        world.apply(world.two(), clip_vision=None)
