"""Save Subject and Load Subject in the real host, and what the host's own embedding and LoRA loaders make of the files.

Where two ways read the same file the result must be the same to the bit. A change of weights comes back within the
rounding of 16 bit: 2^-11 of each number, so 1e-3 of the norm of the change leaves room for that of two factors.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_model import CONFIG, WIDTH, write_tiny_checkpoint

from blipdiff_impl.stable_diffusion.base_fingerprint import base_fingerprint
from tools.places import ROOT

ROUNDING = 1e-3
VECTORS = 16


@pytest.fixture(scope="module")
def pack(comfy):
    """The pack's own modules, under the name by which the host loaded them."""
    return SimpleNamespace(
        tuning_record=comfy.module("nodes.host.blip_diffusion.tuning_record"),
        models=comfy.module("nodes.host.blip_diffusion.loader"),
        sources=comfy.module("nodes.host.blip_diffusion.sources"),
        subject_folders=comfy.module("nodes.host.blip_diffusion.subject_folders"),
        tuned_weights=comfy.module("nodes.host.blip_diffusion.tuned_weights"),
        errors=comfy.module("blipdiff_impl.errors"),
        subject=comfy.module("blipdiff_impl.blip_diffusion.subject"),
        subject_file=comfy.module("blipdiff_impl.blip_diffusion.subject_file"),
    )


@pytest.fixture(scope="module")
def load_base(pack, tmp_path_factory):
    """The tiny model as the loader node gives it, read anew at each call."""

    def load(config=CONFIG, seed=41, weight_dtype="fp32"):
        path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
        write_tiny_checkpoint(path, config, seed)
        with torch.inference_mode():
            return pack.models.load_model(pack.sources.Source(str(path)), weight_dtype)

    return load


@pytest.fixture(scope="module")
def base(load_base):
    return load_base()


@pytest.fixture(scope="module")
def other(load_base):
    """Another model of the same sizes."""
    return load_base(seed=42)


@pytest.fixture(scope="module")
def saved_folder(comfy):
    return Path(comfy.folder_paths.get_output_directory()) / "subjects"


@pytest.fixture
def make_subject(pack):
    def make(count=1, seed=0, category="dog"):
        vectors = torch.randn(count, VECTORS, WIDTH, generator=torch.Generator().manual_seed(seed))
        return pack.subject.Subject(vectors, category, "an encoder", "a test")

    return make


@pytest.fixture
def save(comfy):
    """SubjectSave as a function; returns (name, report)."""

    def run(subject, prefix, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectSave").execute(subject, prefix, **inputs).result

    return run


@pytest.fixture
def load(comfy):
    """SubjectLoad as a function; returns (MODEL, SUBJECT)."""

    def run(name, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectLoad").execute(name, **inputs).result

    return run


@pytest.fixture
def stock_lora(comfy):
    def run(model, clip, name):
        with torch.inference_mode():
            return comfy.node("LoraLoader")().load_lora(model, clip, name, 1.0, 1.0)

    return run


@pytest.fixture
def stock_encode(comfy):
    def run(clip, text):
        with torch.inference_mode():
            return comfy.node("CLIPTextEncode")().encode(clip, text)[0]

    return run


def changes_of_all_weights(model, seed=0, size=4e-4):
    """What a full tune learns: a change of every weight and bias, about as large as Adam makes it."""
    generator = torch.Generator().manual_seed(seed)
    weights = model.model_state_dict("diffusion_model.")
    return {key: ("diff", (size * torch.randn(w.shape, generator=generator),)) for key, w in weights.items()}


def changes_of_attention(model, seed=0, rank=4, alpha=2.0):
    """What a LoRA tune learns, and one convolution, as LoRAs of convolutions are shaped."""
    from comfy.weight_adapter import LoRAAdapter

    generator = torch.Generator().manual_seed(seed)
    patches = {}
    for key, weight in model.model_state_dict("diffusion_model.").items():
        if key.endswith(("to_q.weight", "to_v.weight", "in_layers.2.weight")):
            up = 0.02 * torch.randn(len(weight), rank, generator=generator)
            down = torch.randn(rank, *weight.shape[1:], generator=generator)
            up = up.reshape(*up.shape, *[1] * (weight.ndim - 2))
            patches[key] = LoRAAdapter(set(), (up, down, alpha, None, None, None))
    return patches


@pytest.fixture
def tune(pack):
    """A MODEL as tuning gives it: a clone with patches of strength 1 and their record."""

    def run(model, patches, steps=80, method="full"):
        clone = model.clone()
        clone.add_patches(patches)
        base = pack.tuned_weights.fingerprint_of_base(model)
        pack.tuning_record.attach_tuning(clone, pack.tuning_record.TuningRecord(patches, steps, method, base))
        return clone

    return run


def effective(model):
    """The weights that sampling would use: those of the model with all patches applied."""
    with torch.inference_mode():
        keys = model.model_state_dict("diffusion_model.")
        return {key: model.patch_weight_to_device(key, return_weight=True).clone() for key in keys}


def distance(found, expected, start):
    """||found - expected|| / ||expected - start|| over all weights."""
    lost = sum((found[key] - expected[key]).square().sum() for key in start)
    return float(lost / sum((expected[key] - start[key]).square().sum() for key in start)) ** 0.5


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_saved_subject_is_listed_at_once_and_comes_back(comfy, save, load, make_subject, saved_folder):
    subject = make_subject(category="Teekanne")
    name, report = save(subject, "listed")
    assert name == "listed_00001_.safetensors" and (saved_folder / name).is_file()
    assert report.startswith("1 subject (Teekanne), 0.00")
    assert name in comfy.node("SubjectLoad").define_schema().inputs[0].options
    assert comfy.node("SubjectLoad").validate_inputs(name) is True
    found = load(name)[1]
    assert torch.equal(found.embeddings, subject.embeddings) and found.category == "Teekanne"


def test_nothing_is_overwritten_names_are_counted_up(save, load, make_subject):
    names = [save(make_subject(seed=seed), "sub/counted")[0] for seed in range(3)]
    assert names == [str(Path("sub") / f"counted_0000{i}_.safetensors") for i in (1, 2, 3)]
    assert torch.equal(load(names[0])[1].embeddings, make_subject(seed=0).embeddings)


@pytest.mark.parametrize(
    "given, stem",
    [
        ("犬" * 60, "犬犬"),
        ("کتاب\u200cخانه", "کتاب\u200c"),
        ("\U0001f469\u200d\U0001f33e", "\U0001f469\u200d"),
        ("my dog", "my_dog"),
        (" typed.safetensors", "typed"),
        ("pets\\cat", "pets/cat"),
        ("a%year%", "a20"),
    ],
)
def test_names_are_made_fit_for_a_prompt(save, make_subject, given, stem):
    name, _ = save(make_subject(), given)
    assert Path(name).as_posix().startswith(stem) and " " not in name


BAD_NAMES = ["", "  ", "..", "../escaped", "a/../../escaped", "/etc/escaped", "C:\\escaped", "a\\..\\..\\escaped",
             ".hidden", "a\0b", "a<b", "dog, cat", "dog (1)", "x" * 300, "a//b", "a/", "\U0001f436" * 60,
             "\U0001f436" * 51 + "/a", "dog\u202egnp.s", "dog\u2066", "\u200edog", "do\u200bg", "dog\x7f", "\x1bdog",
             "\ufeffdog", "dog\u0085\u0090", "dog\ue000/\u2069"]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_break_it_are_refused(comfy, save, make_subject, pack, name):
    output = Path(comfy.folder_paths.get_output_directory())
    before = sorted(output.parent.rglob("*"))
    with pytest.raises(pack.errors.SubjectError, match="cannot be saved as"):
        save(make_subject(), name)
    assert sorted(output.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["missing.safetensors", "../../secret.safetensors", "/etc/passwd", "", "notes.txt"])
def test_only_files_of_the_list_are_loaded(comfy, load, pack, saved_folder, name):
    saved_folder.mkdir(parents=True, exist_ok=True)
    (saved_folder / "notes.txt").touch()
    (saved_folder.parent.parent / "secret.safetensors").touch()
    with pytest.raises(pack.errors.SubjectError, match="There is no saved subject"):
        load(name)
    assert "There is no saved subject" in comfy.node("SubjectLoad").validate_inputs(name)


def test_a_file_that_changes_is_read_again(comfy, save, make_subject, saved_folder, pack):
    name, _ = save(make_subject(), "changing")
    first = comfy.node("SubjectLoad").fingerprint_inputs(name)
    pack.subject_file.write_subject(saved_folder / name, make_subject(2), overwrite=True)
    assert comfy.node("SubjectLoad").fingerprint_inputs(name) != first


def test_folders_of_the_user_are_kept_and_offered_to_the_stock_loaders(comfy, pack, monkeypatch, tmp_path):
    registered = comfy.folder_paths.folder_names_and_paths
    for kind in ("embeddings", "loras"):
        monkeypatch.setitem(registered, kind, ([*registered[kind][0]], registered[kind][1]))
    monkeypatch.setitem(registered, "blipdiffusion_subjects", ([str(tmp_path)], set()))
    pack.subject_folders.register()
    pack.subject_folders.register()
    paths = registered["blipdiffusion_subjects"][0]
    assert paths[0] == str(tmp_path) and len(paths) == len(set(paths)) == 4
    saved = str(Path(comfy.folder_paths.get_output_directory()) / "subjects")
    assert {str(tmp_path), saved} <= set(registered["embeddings"][0]) & set(registered["loras"][0])


def spliced_by_hand(clip, vectors):
    """`a <vectors> dog` as rows of the host, without a node of this pack."""
    (row,) = clip.tokenize("a dog")["l"]
    return {"l": [[*row[:2], *[(vector, 1.0) for vector in vectors], *row[2:-VECTORS]]]}


@pytest.mark.parametrize("kind", ["vectors", "lora", "full", "batch"])
def test_the_stock_prompt_reads_it_as_an_embedding(base, save, stock_encode, make_subject, tune, kind, saved_folder):
    from comfy.sd1_clip import bundled_embed

    subject = make_subject(3 if kind == "batch" else 1, seed=5)
    patches = {"lora": changes_of_attention, "full": changes_of_all_weights}.get(kind, lambda model: None)(base.model)
    name, _ = save(subject, f"emb_{kind}", model=tune(base.model, patches) if patches else None)
    found = stock_encode(base.clip, f"a embedding:{name.removesuffix('.safetensors')} dog")
    with torch.inference_mode():
        expected = base.clip.encode_from_tokens_scheduled(spliced_by_hand(base.clip, subject.embeddings[0]))
    assert torch.equal(found[0][0], expected[0][0])
    assert not torch.equal(found[0][0], stock_encode(base.clip, "a dog")[0][0])
    # The host takes the first tensor of a file when no name fits; here it must be the name.
    content = load_file(saved_folder / name)
    named = bundled_embed(content, "bundle_emb.", ".clip_l") if patches else content["clip_l"]
    assert torch.equal(named, subject.embeddings[0])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_tuned_weights_come_back_through_both_loaders(base, save, load, stock_lora, make_subject, tune, method):
    changes = {"full": changes_of_all_weights, "lora": changes_of_attention}[method]
    tuned = tune(base.model, changes(base.model), method=method)
    name, report = save(make_subject(), f"tuned_{method}", model=tuned)
    start, expected = effective(base.model), effective(tuned)
    loaded = effective(load(name, model=base.model)[0])
    assert distance(loaded, expected, start) < ROUNDING
    assert equal(effective(stock_lora(base.model, base.clip, name)[0]), loaded)
    assert f"weights of 80 steps ({method}), 0.0" in report
    assert equal(effective(base.model), start), "the base model is as it was"


def test_stock_lora_loader_leaves_a_subject_without_weights_alone(base, save, stock_lora, make_subject):
    name, _ = save(make_subject(), "no_lora")
    assert equal(effective(stock_lora(base.model, base.clip, name)[0]), effective(base.model))


def picture(comfy, model, clip, vae, subject, seed=3):
    with torch.inference_mode():
        positive = comfy.node("SubjectPromptInfix").execute(clip, subject, "on a beach")[0]
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        empty = {"samples": torch.zeros(1, 4, 8, 8)}
        latent = comfy.nodes.common_ksampler(model, seed, 4, 4.0, "euler", "normal", positive, negative, empty)[0]
        return vae.decode(latent["samples"])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_picture_is_the_same_after_saving_and_loading(comfy, load_base, save, load, make_subject, tune, method):
    """The base model is read anew in between, as after a restart."""
    changes = {"full": changes_of_all_weights, "lora": changes_of_attention}[method]
    before, subject = load_base(), make_subject(seed=9)
    tuned = tune(before.model, changes(before.model))
    expected = picture(comfy, tuned, before.clip, before.vae, subject)
    name, _ = save(subject, f"picture_{method}", model=tuned)
    after = load_base()
    model, found = load(name, model=after.model)
    again = picture(comfy, model, after.clip, after.vae, found)
    untuned = picture(comfy, after.model, after.clip, after.vae, found)
    changed = (expected - untuned).abs().max()
    # The sampler carries the rounding of the weights along; a tenth of the change would be plainly visible.
    assert (again - expected).abs().max() < 0.02 * changed
    comfy.model_management.unload_all_models()
    assert torch.equal(picture(comfy, after.model, after.clip, after.vae, found), untuned)


def test_low_rank_is_small_and_the_report_tells_what_it_loses(base, save, load, stock_lora, make_subject, tune):
    tuned = tune(base.model, changes_of_all_weights(base.model))
    start, expected = effective(base.model), effective(tuned)
    sizes, losses = [], []
    for rank in (2, 16):
        name, report = save(make_subject(), f"low_rank_{rank}", model=tuned, full_tune="low rank", rank=rank)
        loaded = effective(load(name, model=base.model)[0])
        told = float(report.split("(full), ")[1].split("%")[0]) / 100
        assert abs(distance(loaded, expected, start) - told) < 1e-3  # float32 sums of the weights themselves
        assert equal(effective(stock_lora(base.model, base.clip, name)[0]), loaded)
        sizes.append(float(report.split(", ")[-1].removesuffix(" MB")))
        losses.append(told)
    whole = float(save(make_subject(), "low_rank_whole", model=tuned)[1].split(", ")[-1].removesuffix(" MB"))
    assert sizes[0] < sizes[1] < whole and losses[0] > losses[1] > 0.1


def test_a_change_of_low_rank_survives_it(base, save, load, make_subject, tune):
    lora = changes_of_attention(base.model, rank=3)
    dense = {
        key: ("diff", ((2.0 / 3 * patch.weights[0].flatten(1) @ patch.weights[1].flatten(1)).reshape(
            base.model.model_state_dict()[key].shape),))
        for key, patch in lora.items()
    }  # fmt: skip
    tuned = tune(base.model, dense)
    name, report = save(make_subject(), "rank_three", model=tuned, full_tune="low rank", rank=3)
    assert distance(effective(load(name, model=base.model)[0]), effective(tuned), effective(base.model)) < ROUNDING
    assert ", 0.0" in report


def test_tiny_changes_are_not_lost_in_16_bit(base, save, load, make_subject, tune):
    """A few steps at a low rate change weights by less than the smallest number of half precision."""
    tuned = tune(base.model, changes_of_all_weights(base.model, size=1e-8), steps=1)
    _, report = save(make_subject(), "gentle", model=tuned)
    assert "0.00% of their change lost" in report


def test_loras_of_others_stay_out_of_the_file(base, save, load, make_subject, tune):
    own, other = changes_of_attention(base.model, seed=1), changes_of_attention(base.model, seed=2)
    stacked = tune(base.model, own)
    stacked.add_patches(other, 0.7)
    stacked = stacked.clone()
    name, _ = save(make_subject(), "stacked", model=stacked)
    alone = tune(base.model, own)
    assert distance(effective(load(name, model=base.model)[0]), effective(alone), effective(base.model)) < ROUNDING


@pytest.mark.parametrize("second", ["lora", "full"])
def test_a_subject_tuned_further_is_saved_whole(base, save, load, make_subject, tune, second):
    changes = {"full": changes_of_all_weights, "lora": changes_of_attention}[second]
    name, _ = save(make_subject(), "first", model=tune(base.model, changes_of_attention(base.model), steps=50))
    model, subject = load(name, model=base.model)
    twice = tune(model, changes(base.model, seed=8), steps=30)
    name, report = save(subject, "twice", model=twice)
    assert distance(effective(load(name, model=base.model)[0]), effective(twice), effective(base.model)) < ROUNDING
    assert "weights of 80 steps" in report


@pytest.fixture
def merge(comfy):
    """A merging node of the host by its id, as a function of MODELs."""
    from comfy_extras import nodes_model_merging

    def run(name, *inputs, **blocks):
        with torch.inference_mode():
            return getattr(nodes_model_merging, name)().merge(*inputs, **blocks)[0]

    return run


def add_as_another_pack(model, strength, strength_model):
    """All weights moved to random ones, as merging nodes of other packs do it, without a MODEL to merge with."""
    generator = torch.Generator().manual_seed(77)
    weights = model.model_state_dict("diffusion_model.")
    clone = model.clone()
    clone.add_patches(
        {k: ("diff", (torch.randn(w.shape, generator=generator),)) for k, w in weights.items()},
        strength,
        strength_model,
    )
    return clone


def set_as_another_pack(model):
    clone = model.clone()
    key = next(key for key in model.patches)
    clone.add_patches({key: ("set", (torch.full_like(model.model_state_dict()[key], 0.5),))})
    return clone


LATER = {
    "ratio 1": lambda merge, tuned, base, other: merge("ModelMergeSimple", tuned, base, 1.0),
    "ratio 0.3": lambda merge, tuned, base, other: merge("ModelMergeSimple", tuned, base, 0.3),
    "as second": lambda merge, tuned, base, other: merge("ModelMergeSimple", base, tuned, 0.3),
    "twice": lambda merge, tuned, base, other: merge(
        "ModelMergeSimple", merge("ModelMergeSimple", tuned, base, 0.5), tuned, 0.5),
    "with itself": lambda merge, tuned, base, other: merge("ModelMergeSimple", tuned, tuned, 0.4),
    "blocks": lambda merge, tuned, base, other: merge(
        "ModelMergeBlocks", tuned, base, input=0.2, middle=0.9, out=0.0),
    "another model": lambda merge, tuned, base, other: merge("ModelMergeSimple", tuned, other, 0.6),
    "subtracted": lambda merge, tuned, base, other: merge("ModelSubtract", tuned, base, 1.0),
    "difference added": lambda merge, tuned, base, other: merge(
        "ModelAdd", base, merge("ModelSubtract", tuned, base, 1.0)),
    "half of a difference added": lambda merge, tuned, base, other: merge(
        "ModelAdd", base, merge("ModelSubtract", tuned, base, 0.5)),
    "another pack's merge": lambda merge, tuned, base, other: add_as_another_pack(tuned, 0.01, 0.8),
    "a weight set by another pack": lambda merge, tuned, base, other: set_as_another_pack(tuned),
}  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_the_file_holds_what_the_model_samples_with(base, other, save, load, make_subject, tune, merge, method, later):
    """Whatever merging came after the tuning: loaded onto the base, the file gives the MODEL that was saved."""
    changes = {"full": changes_of_all_weights, "lora": changes_of_attention}[method]
    tuned = tune(base.model, changes(base.model), method=method)
    merged = later(merge, tuned, base.model, other.model)
    name, report = save(make_subject(), "merged", model=merged)
    start, expected = effective(base.model), effective(merged)
    lost = distance(effective(load(name, model=base.model)[0]), expected, start)
    assert lost < ROUNDING
    assert f"weights of 80 steps ({method})" in report
    told = float(report.split("% of their change lost")[0].split(", ")[-1]) / 100
    assert abs(lost - told) < 3e-4
    assert ("as merged later" in report) == (distance(expected, effective(tuned), start) > 1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tuning_that_was_merged_away_is_not_saved(base, save, load, make_subject, tune, merge, method, caplog):
    changes = {"full": changes_of_all_weights, "lora": changes_of_attention}[method]
    gone = merge("ModelMergeSimple", tune(base.model, changes(base.model)), base.model, 0.0)
    name, report = save(make_subject(), "gone", model=gone)
    assert "merged away" in report and "steps" not in report and "merged away" in caplog.text
    assert equal(effective(load(name, model=base.model)[0]), effective(base.model))


def test_the_picture_of_a_merged_model_is_the_same_after_loading(
    comfy, load_base, save, load, make_subject, tune, merge
):
    before, subject = load_base(), make_subject(seed=9)
    merged = merge("ModelMergeSimple", tune(before.model, changes_of_all_weights(before.model)), before.model, 0.4)
    expected = picture(comfy, merged, before.clip, before.vae, subject)
    name, _ = save(subject, "merged_picture", model=merged)  # the MODEL is on its device now, patches and all
    after = load_base()
    model, found = load(name, model=after.model)
    again = picture(comfy, model, after.clip, after.vae, found)
    untuned = picture(comfy, after.model, after.clip, after.vae, found)
    assert (again - expected).abs().max() < 0.02 * (expected - untuned).abs().max()


@pytest.mark.parametrize("when", ["before", "after", "nested"])
def test_loras_stay_out_of_a_merged_model_too_and_the_report_says_so(base, save, load, make_subject, tune, merge, when):
    own, other = changes_of_attention(base.model, seed=1), changes_of_attention(base.model, seed=2)
    start = base.model.clone()
    if when == "before":
        start.add_patches(other, 0.7)
    tuned = tune(start, own)
    second = base.model.clone()
    if when == "after":
        tuned.add_patches(other, 0.7)
    if when == "nested":
        second.add_patches(other, 0.7)
    name, report = save(make_subject(), "with_lora", model=merge("ModelMergeSimple", tuned, second, 0.5))
    alone = effective(merge("ModelMergeSimple", tune(base.model, own), base.model, 0.5))
    assert distance(effective(load(name, model=base.model)[0]), alone, effective(base.model)) < ROUNDING
    assert "LoRAs and changes of other nodes left out" in report
    assert "left out" not in save(make_subject(), "without_lora", model=tune(base.model, own))[1]


def test_what_was_merged_before_the_tuning_is_its_base(base, other, save, load, make_subject, tune, merge):
    mixed = merge("ModelMergeSimple", base.model, other.model, 0.5)
    own = changes_of_attention(base.model)
    tuned = tune(mixed, own)
    name, report = save(make_subject(), "of_a_merge", model=tuned)
    assert "as merged" not in report
    assert distance(effective(load(name, model=mixed)[0]), effective(tuned), effective(mixed)) < ROUNDING
    later = merge("ModelMergeSimple", tuned, mixed, 0.25)
    name, report = save(make_subject(), "of_a_merge_later", model=later)
    assert distance(effective(load(name, model=mixed)[0]), effective(later), effective(mixed)) < ROUNDING


def test_a_merge_without_a_tuning_saves_vectors_alone(base, other, save, make_subject, merge, caplog):
    merged = merge("ModelMergeSimple", base.model, other.model, 0.5)
    assert "weights" not in save(make_subject(), "untuned_merge", model=merged)[1]
    assert "carries no weights" in caplog.text


def test_what_cannot_be_told_is_refused(base, save, make_subject, tune, pack, saved_folder):
    own = changes_of_attention(base.model)
    key = next(iter(own))
    with_function, with_part, wrapped, replaced = (tune(base.model, own) for _ in range(4))
    change = {key: ("diff", (torch.ones(base.model.model_state_dict()[key].shape),))}
    with_function.patches[key].append((1.0, change[key], 0.5, None, torch.sin))
    with_part.patches[key].append((1.0, change[key], 0.5, (0, 0, 1), None))
    wrapped.weight_wrapper_patches[key] = [torch.sin]
    replaced.object_patches[key] = torch.nn.Parameter(torch.zeros(1))
    for model in (with_function, with_part, wrapped, replaced):
        with pytest.raises(pack.errors.SubjectError, match=f"{key.split('.')[-1]}.*before that node"):
            save(make_subject(), "untold", model=model)
    assert not list(saved_folder.glob("*untold*"))


def test_another_base_model_warns_and_works(base, load_base, save, load, make_subject, tune, caplog):
    name, _ = save(make_subject(), "base", model=tune(base.model, changes_of_attention(base.model)))
    load(name, model=load_base().model)
    load(name, model=load_base(weight_dtype="bf16").model)
    load(name, model=load(name, model=base.model)[0])
    assert "another base model" not in caplog.text
    other = load_base(seed=42).model
    start = effective(other)
    loaded = effective(load(name, model=other)[0])
    assert "another base model" in caplog.text
    assert not equal(loaded, start)


def test_the_fingerprint_is_the_same_outside_the_host(pack, tmp_path):
    """There the UNet has diffusers' names."""
    unet = write_tiny_checkpoint(tmp_path / "tiny.safetensors", CONFIG, seed=43)["unet"]
    with torch.inference_mode():
        loaded = pack.models.load_model(pack.sources.Source(str(tmp_path / "tiny.safetensors")))
    assert pack.tuned_weights.fingerprint_of_base(loaded.model) == base_fingerprint(unet)


def test_the_fingerprint_does_not_see_patches_of_a_loaded_model(comfy, base, pack, tune):
    name = pack.tuned_weights.fingerprint_of_base(base.model)
    tuned = tune(base.model, changes_of_all_weights(base.model, size=1.0))
    comfy.model_management.load_models_gpu([tuned])
    assert pack.tuned_weights.fingerprint_of_base(tuned) == name
    comfy.model_management.unload_all_models()


def test_a_model_of_another_size_or_kind_is_refused(base, load_base, save, load, make_subject, pack, tune):
    name, _ = save(make_subject(), "fits_not", model=tune(base.model, changes_of_all_weights(base.model)))
    wide = dataclasses.replace(CONFIG.unet, block_out_channels=(64, 64, 64), num_attention_heads=8)
    shallow = dataclasses.replace(CONFIG.unet, block_out_channels=(32, 64), attention_levels=(True, True))
    for unet in (wide, shallow):
        model = load_base(dataclasses.replace(CONFIG, unet=unet)).model
        with pytest.raises(
            pack.errors.SubjectError, match="do not fit this MODEL: .*lora_unet_|do not fit .*diffusion_model"
        ):
            load(name, model=model)


def test_without_a_model_the_vectors_come_alone(base, save, load, make_subject, tune, caplog):
    from comfy_execution.graph_utils import ExecutionBlocker

    name, _ = save(make_subject(), "alone", model=tune(base.model, changes_of_attention(base.model)))
    model, subject = load(name)
    assert isinstance(model, ExecutionBlocker) and "only if one is connected" in model.message
    assert len(subject) == 1 and "connect a MODEL" in caplog.text


def test_a_subject_without_weights_lets_the_model_pass(base, save, load, make_subject, caplog):
    name, report = save(make_subject(), "pass", model=base.model)
    assert "carries no weights" in caplog.text and "weights" not in report
    assert load(name, model=base.model)[0] is base.model


def test_a_stopped_saving_leaves_no_file(comfy, base, save, make_subject, tune, monkeypatch, saved_folder, pack):
    tuned = tune(base.model, changes_of_all_weights(base.model))
    store = pack.tuned_weights.store_change

    def stop(*given):
        comfy.model_management.interrupt_current_processing(True)
        return store(*given)

    monkeypatch.setattr(pack.tuned_weights, "store_change", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        save(make_subject(), "stopped", model=tuned)
    assert not list(saved_folder.rglob("*stopped*"))
    monkeypatch.undo()
    assert save(make_subject(), "stopped", model=tuned)[0] == "stopped_00001_.safetensors"


def test_the_record_survives_clones_and_stock_loaders(base, save, stock_lora, make_subject, tune, pack):
    name, _ = save(make_subject(), "survive", model=tune(base.model, changes_of_attention(base.model)))
    tuned = tune(base.model, changes_of_attention(base.model, seed=3), steps=5)
    model = stock_lora(tuned.clone(), base.clip, name)[0]
    assert pack.tuning_record.tuning_of(model).steps == 5
    assert pack.tuning_record.tuning_of(base.model) is None


def test_the_shipped_example_belongs_to_the_embedded_model(comfy, load, pack):
    """Else: python -m tools.make_example_subject."""
    subject = load("blipdiffusion_mug.safetensors")[1]
    with safe_open(ROOT / "blipdiff_impl" / "toybox" / "toybox.safetensors", framework="pt") as file:
        assert subject.encoder_fingerprint == file.metadata()["fingerprint.subject_encoder"]


def few_steps(prompt):
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 3
    return prompt


def test_the_workflow_makes_the_picture_that_the_photo_would_make(host):
    """Through the real server: the shipped file in place of photo and encoder, pixel by pixel.

    The file was made on one kind of CPU; on others the vectors differ by 3e-6, which can move a pixel by a step or two.
    """
    from PIL import ImageChops

    prompt = few_steps(host.to_api(ROOT / "workflows" / "load_saved_subject.json"))
    loader, loaded = (next(key for key, node in prompt.items() if node["class_type"] == kind)
                      for kind in ("SubjectModelLoader", "SubjectLoad"))  # fmt: skip
    from_file = host.run_prompt(prompt)
    prompt[loaded] = {"class_type": "SubjectEncoder", "inputs": {
        "subject_encoder": [loader, 3], "images": ["photo", 0], "category": "mug", "fit": "crop"}}  # fmt: skip
    prompt["photo"] = {"class_type": "LoadImage", "inputs": {"image": "blipdiffusion_mug.png"}}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == loaded:
                node["inputs"][name] = [loader, 0] if value[1] == 0 else [loaded, 0]
    from_photo = host.run_prompt(prompt)
    assert from_file.error == from_photo.error == ""
    pictures = [Image.open(saved(host, result)).convert("RGB") for result in (from_file, from_photo)]
    assert max(high for _, high in ImageChops.difference(*pictures).getextrema()) <= 2
    assert len(pictures[0].getcolors(1 << 16)) > 100


def saved(host, result):
    return next(path for path in result.pictures if path.is_relative_to(Path(host.base_dir) / "output"))


def test_saving_through_the_server(host):
    """From the photo to a file, which the lists of the next request hold: subjects, embeddings, LoRAs."""
    prompt = {
        "loader": {"class_type": "SubjectModelLoader", "inputs": {
            "model_name": "toybox (built in, toy world only)", "weight_dtype": "default"}},
        "photo": {"class_type": "LoadImage", "inputs": {"image": "blipdiffusion_mug.png"}},
        "encoder": {"class_type": "SubjectEncoder", "inputs": {
            "subject_encoder": ["loader", 3], "images": ["photo", 0], "category": "mug", "fit": "crop"}},
        "save": {"class_type": "SubjectSave", "inputs": {
            "subject": ["encoder", 0], "filename_prefix": "through server", "full_tune": "whole", "rank": 64}},
    }  # fmt: skip
    assert host.run_prompt(prompt).error == ""
    name = "through_server_00001_.safetensors"
    assert (Path(host.base_dir) / "output" / "subjects" / name).is_file()
    info = host.object_info()
    assert name in info["SubjectLoad"]["input"]["required"]["subject_name"][1]["options"]
    assert name in info["LoraLoader"]["input"]["required"]["lora_name"][0]
    assert name.removesuffix(".safetensors") in host.get("/embeddings")
    prompt["save"]["inputs"]["filename_prefix"] = "../out"
    refused = host.run_prompt(prompt)
    assert refused.failed_node == "SubjectSave" and "cannot be saved as '../out'" in refused.error


def test_the_node_says_the_word_for_a_prompt(save, make_subject, on_node):
    name, report = save(make_subject(), "pets/said")
    assert on_node == [f"Saved {name}: {report}.\nIn a prompt, for ComfyUI's own nodes: embedding:pets/said_00001_"]


def test_load_subject_shows_the_picture_of_the_file(comfy, save, make_subject):
    picture = torch.zeros(1, 64, 64, 3)
    picture[..., 0] = 1
    with_picture, without = (save(make_subject(), "shown", **more)[0] for more in ({"image": picture}, {}))
    load = comfy.node("SubjectLoad").execute
    shown = load(with_picture).ui.as_dict()["images"]
    path = Path(comfy.folder_paths.get_temp_directory()) / shown[0]["subfolder"] / shown[0]["filename"]
    red, green, blue = Image.open(path).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert len(shown) == 1 and red > 200 and max(green, blue) < 60
    assert load(without).ui is None
