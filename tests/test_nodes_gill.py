"""GILL's nodes in the real host, with a tiny random OPT: what comes out, what is drawn from it, what is refused."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gill_fixtures import SMALL, host_clip_vision, host_gill, host_vision, photo, random_parts
from ms_world import host_clip, text_config
from PIL import Image

from blipdiff_impl.gill.checkpoint import save_gill

TOYBOX = "toybox (built in, toy world only)"


@pytest.fixture(scope="module")
def toybox(comfy):
    with torch.inference_mode():
        model, clip, vae, *_ = comfy.node("SubjectModelLoader").execute(TOYBOX, "fp32").result
    return model, clip, vae


@pytest.fixture(scope="module")
def files(comfy, toybox):
    """models/gill with a second model that is for another OPT; what belongs to the first is the CLIP_VISION."""
    clip_vision = host_gill(comfy, toybox[1])
    root = comfy.module("nodes.host.folders")._roots("gill")[0]
    (root / "other").mkdir(exist_ok=True)
    with torch.inference_mode(False):
        wide = random_parts(config=dataclasses.replace(SMALL, language_width=40))
    save_gill(wide, root / "other" / "wide.safetensors", torch.float32, overwrite=True)
    return clip_vision


@pytest.fixture(scope="module")
def gill_model(comfy, files):
    with torch.inference_mode():
        return comfy.node("GILLLoader").execute("tiny.safetensors", "tiny-opt", "fp32", files)[0]


@pytest.fixture(scope="module")
def run(comfy):
    """A node by its id, as the host runs it; all outputs."""

    def call(name, *inputs, **named):
        with torch.inference_mode():
            return comfy.node(name).execute(*inputs, **named).result

    return call


def is_blocked(value):
    return type(value).__name__ == "ExecutionBlocker"


# --- what comes out


def test_lists_of_files(comfy, files):
    info = comfy.node("GILLLoader").GET_NODE_INFO_V1()["input"]["required"]
    names = comfy.module("nodes.host.gill.model_folder")
    own = ["other/wide.safetensors", "tiny.safetensors"]
    assert info["checkpoint"][1]["options"][:-1] == [*names.built_in(), *own]
    assert info["language_model"][1]["options"][:-1] == [names.OWN, "tiny-opt"]
    assert (info["checkpoint"][1]["default"], info["language_model"][1]["default"]) == (names.TOY, names.OWN)
    assert "without commercial use" in info["language_model"][1]["tooltip"]


def test_a_forced_picture(run, gill_model):
    (prompt,) = run("GILLPrompt", "<image1> the same in snow", images={"image1": photo(), "image2": None})
    conditioning, negative, reply, choice, probability, embedding, count = run("GILLGenerate", gill_model, prompt)
    ((tensor, options),) = conditioning
    assert tensor.shape == (1, 77, gill_model.gill.config.mapper.output_width) and tensor.dtype == torch.float32
    assert options["pooled_output"].shape == (1, tensor.shape[2]) and not options["pooled_output"].any()
    assert is_blocked(negative) and "Connect the CLIP" in negative.message
    assert reply == "" and choice in ("gen", "ret") and 0.5 <= probability <= 1 and count == 1
    assert embedding.vectors.shape == (1, 10)


def test_the_picture_matters(run, gill_model):
    def drawn(seed):
        (prompt,) = run("GILLPrompt", "<image1> the same", images={"image1": photo(seed)})
        return run("GILLGenerate", gill_model, prompt)[0][0][0]

    assert torch.equal(drawn(1), drawn(1)) and not torch.allclose(drawn(1), drawn(2), atol=1e-3)


def test_pictures_are_seen_as_transformers_pools_them(comfy):
    """The host's model, read behind its last norm, against transformers' pooled output of the same pixels."""
    ours, theirs = host_vision(comfy)
    tower = comfy.module("nodes.host.gill.loader").HostVision(ours)
    picture = photo(5, 28, 28)
    pixels = sys.modules["comfy.clip_vision"].clip_preprocess(picture, size=28)
    with torch.no_grad():
        expected = theirs.vision_model(pixel_values=pixels.float()).pooler_output
        assert torch.allclose(tower.pooled(picture), expected, atol=1e-5)
    assert tower.width == 20


def test_text_only_and_undecided_replies_draw_nothing(run, gill_model, on_node):
    """Where it was left to the model, its node says so as well: the message of a blocked output comes but once."""
    (prompt,) = run("GILLPrompt", "a cat")
    for mode in ({"mode": "text only"}, {"mode": "let it decide", "picture_bias": 0.0, "min_words": 32}):
        conditioning, _, reply, choice, probability, embedding, count = run("GILLGenerate", gill_model, prompt, **mode)
        assert is_blocked(conditioning) and is_blocked(embedding) and choice == "none" and probability == count == 0
        assert "no picture in it" in conditioning.message and "force picture" in conditioning.message
        assert len(conditioning.message) < 500 and isinstance(reply, str)
        assert any("No picture in this reply" in text for text in on_node) == (mode["mode"] == "let it decide")


def test_several_pictures_make_a_batch(run, gill_model):
    (prompt,) = run("GILLPrompt", "a cat")
    found = run("GILLGenerate", gill_model, prompt, mode="let it decide", picture_bias=1000.0, max_pictures=3)
    assert len(found[0]) == 1 and found[0][0][0].shape[0] == 3 and found[6] == 3
    assert found[5].vectors.shape == (3, 10)


def test_words_by_chance_follow_the_seed(run, gill_model):
    (prompt,) = run("GILLPrompt", "a cat")

    def said(seed):
        return run("GILLGenerate", gill_model, prompt, mode="text only", temperature=5.0, top_p=0.99, seed=seed)[2]

    assert said(1) == said(1) and len({said(seed) for seed in range(4)}) > 1


def test_the_first_sentence(run, gill_model, monkeypatch):
    monkeypatch.setattr(gill_model.gill.language.tokenizer, "text", lambda ids: " here it is. And more. ")
    (prompt,) = run("GILLPrompt", "a cat")
    assert run("GILLGenerate", gill_model, prompt)[2] == "here it is. And more."
    assert run("GILLGenerate", gill_model, prompt, reply="first sentence")[2] == "here it is."


def test_a_conversation_is_a_chain(run, gill_model):
    (first,) = run("GILLTurn", "what is it?", images={})
    reply = run("GILLGenerate", gill_model, first, mode="text only", max_new_tokens=4)[2]
    (second,) = run("GILLTurn", "<image1> and this?", first, reply, images={"image1": photo()})
    text = f"Q: what is it?\nA: {reply}\n" if reply else "Q: what is it?\nA:\n"
    assert second.items[0] == text and second.items[2] == "Q: and this?\nA:" and len(second.pictures) == 1
    assert run("GILLGenerate", gill_model, second)[6] == 1


def test_the_language_model_leaves_the_device(comfy, run, gill_model):
    """Nothing of it is held for the host's memory manager once the reply is there, so sampling has all the room."""
    held = comfy.model_management.current_loaded_models
    (prompt,) = run("GILLPrompt", "a cat")
    seen = []
    language, read = gill_model.gill.language, gill_model.gill.language.read
    language.read = lambda *inputs: seen.append(any(m.model is gill_model.patcher for m in held)) or read(*inputs)
    try:
        run("GILLGenerate", gill_model, prompt)
    finally:
        del language.read
    assert seen == [True] and not any(loaded.model is gill_model.patcher for loaded in held)


def test_progress_by_token_and_cancel_within_one(comfy, run, gill_model, monkeypatch):
    (prompt,) = run("GILLPrompt", "a cat")
    bar, told = comfy.utils.ProgressBar, []
    monkeypatch.setattr(
        bar, "update_absolute", lambda self, value, total=None, preview=None: told.append((value, total))
    )
    run("GILLGenerate", gill_model, prompt, mode="text only", max_new_tokens=3, temperature=0.0)
    assert told == [(n, 3) for n in range(1, len(told) + 1)] and told
    mm = comfy.model_management
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        run("GILLGenerate", gill_model, prompt, mode="text only", max_new_tokens=3)
    assert len(told) <= 3 and not any(loaded.model is gill_model.patcher for loaded in mm.current_loaded_models)


# --- what is drawn from it


def sampled(comfy, model, positive, negative, batch=1):
    latent = {"samples": torch.zeros(batch, 4, 12, 12)}
    with torch.inference_mode():
        return comfy.nodes.common_ksampler(model, 7, 2, 2.5, "euler", "normal", positive, negative, latent)[0][
            "samples"
        ]


def test_the_text_encoders_output_in_the_mappers_place_draws_the_plain_prompt(
    comfy, run, gill_model, toybox, monkeypatch
):
    """Bit for bit: so what is handed over is what the host's own text node hands over."""
    model, clip, _ = toybox
    encode = comfy.nodes.CLIPTextEncode().encode
    with torch.inference_mode():
        (plain,), (empty,) = encode(clip, "a cat in the snow"), encode(clip, "")
    monkeypatch.setattr(gill_model.gill.parts, "conditioning", lambda states: plain[0][0])
    (prompt,) = run("GILLPrompt", "a cat in the snow")
    conditioning, negative, *_ = run("GILLGenerate", gill_model, prompt, clip=clip, model=model)
    assert torch.equal(negative[0][0], empty[0][0])
    expected = sampled(comfy, model, plain, empty)
    assert torch.equal(sampled(comfy, model, conditioning, negative), expected) and expected.std() > 0.1


def test_a_batch_is_drawn_as_its_pictures_alone(comfy, run, gill_model, toybox):
    model, clip, _ = toybox
    (prompt,) = run("GILLPrompt", "a cat")
    conditioning, negative, *_ = run("GILLGenerate", gill_model, prompt, mode="let it decide", picture_bias=1000.0,
                                     max_pictures=2, clip=clip)  # fmt: skip
    both = sampled(comfy, model, conditioning, negative, 2)
    assert both.shape[0] == 2
    combined = comfy.nodes.ConditioningCombine().combine(conditioning, negative)[0]
    (masked,) = comfy.nodes.ConditioningSetMask().append(conditioning, torch.ones(1, 96, 96), "default", 0.5)
    (ranged,) = comfy.nodes.ConditioningSetTimestepRange().set_range(conditioning, 0.0, 0.5)
    for positive in (combined, masked, [*ranged, *negative]):
        assert torch.isfinite(sampled(comfy, model, positive, negative, 2)).all()


def test_beside_a_subject_and_a_controlnet(comfy, run, gill_model, toybox):
    """A subject of the pack in the left half, GILL's scene everywhere, edges over all: each changes the picture."""
    model, clip, _ = toybox
    with torch.inference_mode():
        *_, encoder, _ = comfy.node("SubjectModelLoader").execute(TOYBOX, "fp32").result
        subject = comfy.node("SubjectEncoder").execute(encoder, photo(9, 96, 96), "mug")[0]
        (words,) = comfy.node("SubjectPromptInfix").execute(clip, subject, "on the beach").result
        net = comfy.nodes.ControlNetLoader().load_controlnet(
            next(name for name in comfy.folder_paths.get_filename_list("controlnet") if "toybox" in name)
        )[0]
    (prompt,) = run("GILLPrompt", "a cat")
    scene, negative, *_ = run("GILLGenerate", gill_model, prompt, clip=clip, model=model)
    left = torch.zeros(1, 96, 96)
    left[..., :48] = 1
    (placed,) = comfy.nodes.ConditioningSetMask().append(words, left, "default", 1.0)
    both = comfy.nodes.ConditioningCombine().combine(scene, placed)[0]
    held, bare = comfy.nodes.ControlNetApplyAdvanced().apply_controlnet(
        both, negative, net, photo(8, 96, 96), 1.0, 0.0, 1.0
    )
    pictures = [sampled(comfy, model, *pair) for pair in ((scene, negative), (both, negative), (held, bare))]
    assert all(torch.isfinite(each).all() for each in pictures)
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-3)
    assert not torch.allclose(pictures[1], pictures[2], atol=1e-3)


# --- pictures of a folder


@pytest.fixture(scope="module")
def folder(comfy):
    folder = Path(comfy.folder_paths.get_input_directory()) / "album"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "more/c.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    (folder / "note.txt").write_text("no picture")
    return folder


def test_index_and_retrieve(comfy, run, gill_model, folder, caplog):
    assert "album" in comfy.node("GILLIndex").GET_NODE_INFO_V1()["input"]["required"]["folder"][1]["options"]
    (index,) = run("GILLIndex", gill_model, "album")
    assert index.index.names == ("a.png", "b.jpg", "more/c.png")
    assert "1 of 4 files are left out of the index" in caplog.text and "broken.png" in caplog.text
    assert len(list((Path(comfy.folder_paths.get_output_directory()) / "gill").glob("album_*.safetensors"))) == 1
    (prompt,) = run("GILLPrompt", "a cat")
    embedding = run("GILLGenerate", gill_model, prompt)[5]
    pictures, names, scores = run("GILLRetrieve", index, embedding)
    assert (
        len(pictures) == 3
        and scores == sorted(scores, reverse=True)
        and set(names.split("\n")) == set(index.index.names)
    )
    first = names.split("\n")[0]
    height = {"a.png": 40, "b.jpg": 41, "more/c.png": 42}[first]
    assert pictures[0].shape == (1, height, 50, 3)
    again = run("GILLRetrieve", index, embedding, 2, 1, names.split("\n")[0])
    assert again[1].split("\n") == names.split("\n")[1:]


def test_an_index_looks_at_new_pictures_only(comfy, run, gill_model, folder, monkeypatch):
    (before,) = run("GILLIndex", gill_model, "album")
    state = comfy.node("GILLIndex").fingerprint_inputs(folder="album")
    Image.new("RGB", (30, 30), "red").save(folder / "new.png")
    assert comfy.node("GILLIndex").fingerprint_inputs(folder="album") != state
    looked, whole = [], gill_model.gill.picture_embeddings
    monkeypatch.setattr(gill_model.gill, "picture_embeddings", lambda each: looked.append(each.shape) or whole(each))
    (after,) = run("GILLIndex", gill_model, "album")
    (folder / "new.png").unlink()
    assert looked == [(1, 30, 30, 3)] and after.index.names == ("a.png", "b.jpg", "new.png", "more/c.png")
    assert torch.equal(after.index.vectors[[0, 1, 3]], before.index.vectors)


def test_folders_whose_names_read_alike_have_indices_of_their_own(comfy, run, gill_model):
    """Each keeps what it has seen, though no file can be called a/b."""
    root, kept = (
        Path(get()) for get in (comfy.folder_paths.get_input_directory, comfy.folder_paths.get_output_directory)
    )
    for seed, name in enumerate(("one/two", "one_two")):
        (root / name).mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name / f"{seed}.png")
        run("GILLIndex", gill_model, name)
    names = {each.name: each.stat().st_mtime_ns for each in (kept / "gill").glob("one_two_*.safetensors")}
    assert len(names) == 2
    assert run("GILLIndex", gill_model, "one/two")[0].index.names == ("0.png",)
    assert run("GILLIndex", gill_model, "one_two")[0].index.names == ("1.png",)


def test_rank(run, gill_model):
    images = torch.cat([photo(seed, 40, 60) for seed in range(4)])
    (prompt,) = run("GILLPrompt", "a cat")
    embedding = run("GILLGenerate", gill_model, prompt)[5]
    placed, best, scores = run("GILLRank", gill_model, embedding, images)
    values = [float(line) for line in scores.split("\n")]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4
    with torch.inference_mode():
        plain = [float(gill_model.gill.picture_embeddings(each, squash=True)[0] @ embedding.vectors[0])
                 for each in images.split(1)]  # fmt: skip
    order = sorted(range(4), key=lambda i: -plain[i])
    assert torch.equal(placed, images[order]) and torch.equal(best, images[order[:1]])


# --- what cannot be


@pytest.mark.parametrize("names, said", [
    (("other/wide.safetensors", "tiny-opt"), "is 24 wide, but this GILL model was trained for one of 40"),
    (("nothing.safetensors", "tiny-opt"), "There is no GILL model 'nothing.safetensors'. Looked for a file or folder"),
    (("tiny.safetensors", "opt-6.7b"), "There is no language model 'opt-6.7b'"),
    (("../tiny.safetensors", "tiny-opt"), "There is no GILL model"),
    (("tiny-opt/model.safetensors", "tiny-opt"), "it looks like a language model (OPT)"),
])  # fmt: skip
def test_files_that_do_not_fit(comfy, files, run, subject_error, names, said):
    with pytest.raises(subject_error) as error:
        run("GILLLoader", *names, "fp32")
    assert said in str(error.value)
    if "There is no" in said:
        assert said in comfy.node("GILLLoader").validate_inputs(*names) and "found there: " in str(error.value)


def test_clip_vision_of_another_kind(comfy, files, run, subject_error):
    for changes, said in [
        ({"hidden_size": 24}, "vectors that are 24 wide, this GILL model takes 20"),
        ({"model_type": "siglip_vision_model"}, "of the kind siglip_vision_model, but GILL sees with CLIP"),
        ({"hidden_size": 1024, "num_hidden_layers": 1, "image_size": 42}, "is a ViT-L/14 for 42 pixels"),
    ]:
        with pytest.raises(subject_error, match=said):
            run("GILLLoader", "tiny.safetensors", "tiny-opt", "fp32", host_clip_vision(comfy, **changes))


def test_models_of_another_kind(comfy, run, gill_model, toybox, subject_error, monkeypatch):
    model, clip, _ = toybox
    (prompt,) = run("GILLPrompt", "a cat")
    config = gill_model.gill.config

    def with_config(**changes):
        monkeypatch.setattr(gill_model.gill, "config", dataclasses.replace(config, **changes))

    with_config(mapper=dataclasses.replace(config.mapper, output_width=768))
    with pytest.raises(
        subject_error, match="This CLIP is .* wide, but .* one that is 768 wide. Use a Stable Diffusion 1.5"
    ):
        run("GILLGenerate", gill_model, prompt, clip=clip)
    with pytest.raises(subject_error, match="This MODEL reads text that is .* but this GILL model gives 768"):
        run("GILLGenerate", gill_model, prompt, model=model)
    unet_config = model.model.model_config.unet_config
    for context, said in ((1024, "a Stable Diffusion 2 is"), (2048, "an SDXL is"), (None, "of another family")):
        monkeypatch.setitem(unet_config, "context_dim", context)
        with pytest.raises(subject_error, match=said):
            run("GILLGenerate", gill_model, prompt, model=model)
    monkeypatch.undo()
    with_config(text_encoder="0" * 64)
    with pytest.raises(subject_error, match="not the one that this GILL model was trained for"):
        run("GILLGenerate", gill_model, prompt, clip=clip)
    weights = clip.cond_stage_model.clip_l.transformer.text_model.state_dict()
    own = comfy.module("blipdiff_impl.gill.text_encoder").text_encoder_fingerprint(weights)
    with_config(text_encoder=own)
    assert run("GILLGenerate", gill_model, prompt, clip=clip)[6] == 1


def sd2_clip():
    """A small CLIP of Stable Diffusion 2 in the host."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer

    options = {"clip_h_model_config": text_config(32, "gelu"), "dtype": torch.float32}
    return comfy.sd.CLIP(ClipTarget(SD2Tokenizer, SD2ClipModel), embedding_directory=None, model_options=options)


@pytest.mark.parametrize("make, kinds", [(host_clip, "encoders 'g' and 'l'"), (sd2_clip, "encoder 'h'")])
@pytest.mark.parametrize("width, cure", [(768, "Use a Stable Diffusion 1.5 model"), (32, "Use the model that it was")])
def test_a_clip_of_another_family(comfy, run, gill_model, subject_error, monkeypatch, make, kinds, width, cure):
    """SDXL's and SD 2's own classes: what GILL needs is said, not what subjects do."""
    config = gill_model.gill.config
    mapper = dataclasses.replace(config.mapper, output_width=width)
    monkeypatch.setattr(gill_model.gill, "config", dataclasses.replace(config, mapper=mapper))
    (prompt,) = run("GILLPrompt", "a cat")
    with torch.inference_mode():
        clip = make()
    with pytest.raises(subject_error) as error:
        run("GILLGenerate", gill_model, prompt, clip=clip)
    said = str(error.value)
    assert f"it has the text {kinds} where 'l' alone is due" in said and cure in said and "ubject" not in said


@pytest.mark.parametrize("node, inputs, said", [
    ("GILLPrompt", {"text": " "}, "The prompt is empty"),
    ("GILLPrompt", {"text": "a <image3>"}, "has <image3>, but no picture is connected to image3"),
    ("GILLPrompt", {"text": "a cat", "images": {"image2": torch.zeros(1, 32, 32, 3)}}, "image2 has no place in"),
    ("GILLPrompt", {"text": "<image1>", "images": {"image1": torch.full((1, 32, 32, 3), torch.nan)}}, "NaN"),
    ("GILLPrompt", {"text": "<image1>", "images": {"image1": "a picture"}}, "image1 cannot be used"),
    ("GILLTurn", {"text": "a cat", "reply": "yes"}, "nothing that it answers"),
])  # fmt: skip
def test_prompts_that_cannot_be(run, subject_error, node, inputs, said):
    with pytest.raises(subject_error) as error:
        run(node, **inputs)
    assert said in str(error.value)


def test_replies_that_cannot_be(run, gill_model, subject_error):
    (long,) = run("GILLPrompt", "x" * 100)
    with pytest.raises(subject_error, match="takes 101 positions and the reply up to 40, together more than the 96"):
        run("GILLGenerate", gill_model, long)
    assert run("GILLGenerate", gill_model, long, too_long="leave out the oldest")[6] == 1
    (short,) = run("GILLPrompt", "a cat")
    with pytest.raises(subject_error, match="top_p = 0.5 has nothing to choose from at temperature 0"):
        run("GILLGenerate", gill_model, short, top_p=0.5)
    with pytest.raises(subject_error, match="top_p = 1.5 is out of range"):
        run("GILLGenerate", gill_model, short, top_p=1.5, temperature=1.0)
    with pytest.raises(subject_error, match="The input prompt takes a GILL_PROMPT, but .* came in"):
        run("GILLGenerate", gill_model, "a cat")
    with pytest.raises(subject_error, match="too_long = 'x' is unknown"):
        run("GILLGenerate", gill_model, short, too_long="x")


def test_retrieval_that_cannot_be(comfy, run, gill_model, folder, subject_error):
    (index,) = run("GILLIndex", gill_model, "album")
    (prompt,) = run("GILLPrompt", "a cat")
    embedding = run("GILLGenerate", gill_model, prompt)[5]
    other = dataclasses.replace(embedding, model="0" * 64)
    with pytest.raises(subject_error, match="index was made by another GILL model"):
        run("GILLRetrieve", index, other)
    with pytest.raises(subject_error, match="reply was made by another GILL model"):
        run("GILLRank", gill_model, other, photo())
    with pytest.raises(subject_error, match="which = 2, but the reply has 1 picture"):
        run("GILLRetrieve", index, embedding, which=2)
    with pytest.raises(subject_error, match="There is no folder '../album'"):
        run("GILLIndex", gill_model, "../album")
    (folder / "more" / "only").mkdir(exist_ok=True)
    with pytest.raises(subject_error, match="There is no picture in album/more/only that can be read"):
        run("GILLIndex", gill_model, "album/more/only")
    with pytest.raises(subject_error, match="NaN"):
        run("GILLRank", gill_model, embedding, photo() * torch.nan)
    (folder / "a.png").rename(folder / "gone.txt")
    try:
        with pytest.raises(subject_error, match="It was there when the folder was indexed"):
            run("GILLRetrieve", index, embedding)
    finally:
        (folder / "gone.txt").rename(folder / "a.png")


def test_pictures_without_a_model_to_see_them(run, files, subject_error):
    (blind,) = run("GILLLoader", "tiny.safetensors", "tiny-opt", "fp32")
    (prompt,) = run("GILLPrompt", "<image1>", images={"image1": photo()})
    with pytest.raises(subject_error, match="no CLIP vision model to see them with"):
        run("GILLGenerate", blind, prompt)
