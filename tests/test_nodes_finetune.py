"""SubjectFinetune in the real host: what it delivers, what it leaves alone, how it stops, and what it refuses."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from held_memory import HeldMemory
from PIL import Image
from tiny_model import CONFIG, WIDTH, write_tiny_checkpoint

from blipdiff_impl.blip_diffusion.finetuning.settings import METHODS

SIDE = 64


@pytest.fixture(scope="module")
def loaded(load_tiny):
    return load_tiny(seed=51)


@pytest.fixture(scope="module")
def photos():
    return torch.rand(3, SIDE, 80, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def subject(loaded, photos):
    with torch.inference_mode():
        return loaded.encoder.encode(photos, "dog")


@pytest.fixture(scope="module")
def run_module(comfy):
    return comfy.module("nodes.host.blip_diffusion.finetuning.run")


@pytest.fixture
def finetune(comfy, loaded, subject, photos):
    """The node as a function of what differs from a short run; returns the NodeOutput."""
    node = comfy.node("SubjectFinetune").PREPARE_CLASS_CLONE({"hidden_inputs": {}})

    def run(**changes):
        inputs = {
            "model": loaded.model, "clip": loaded.clip, "vae": loaded.vae, "subject": subject, "images": photos,
            "method": "full", "steps": 3, "learning_rate": 1e-4, "batch_size": 2, "rank": 4, "seed": 7,
            "resolution": SIDE, "preview_every": 0,
        }  # fmt: skip
        with torch.inference_mode():
            return node.execute(**inputs | changes)

    return run


def digest(model):
    """Of every byte of the loaded model, after the host has taken its patches off again."""
    model.model.current_patcher = None
    sha = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


@pytest.fixture
def unchanged(comfy, loaded):
    """Fails the test if the loaded UNet or text encoder is another one afterwards."""
    comfy.model_management.unload_all_models()
    before = digest(loaded.model), digest(SimpleNamespace(model=loaded.clip.cond_stage_model))
    yield
    comfy.model_management.unload_all_models()
    assert (digest(loaded.model), digest(SimpleNamespace(model=loaded.clip.cond_stage_model))) == before


def eps(comfy, model, subject):
    """What a MODEL predicts, as sampled: with all of its patches."""
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([400])
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        return model.model.diffusion_model(x, t, context=subject.embeddings)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_result_is_a_patch_that_moves_the_prediction(comfy, finetune, loaded, subject, unchanged, method):
    before = eps(comfy, loaded.model, subject)
    model, tuned, curve = finetune(method=method).result
    assert model.model is loaded.model.model and model is not loaded.model
    assert (eps(comfy, model, subject) - before).abs().max() > 1e-5
    assert torch.equal(eps(comfy, loaded.model, subject), before)  # the base is back at once
    assert tuned.embeddings.shape == (1, 16, WIDTH) and not torch.equal(tuned.embeddings, subject.embeddings)
    assert (tuned.category, tuned.encoder_fingerprint) == ("dog", subject.encoder_fingerprint)
    assert "3 steps" in tuned.source
    assert curve.shape == (1, 320, 640, 3)


def test_the_tuned_model_is_the_trained_one(comfy, finetune, loaded, subject, run_module, monkeypatch):
    """Sampling with the patches computes what the module under training computed last."""
    seen = {}
    learned = run_module.Tuner.learned

    def keep(tuner):
        x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([400])
        with torch.no_grad():
            seen["eps"] = tuner.predict(x, t, subject.embeddings)
        return learned(tuner)

    monkeypatch.setattr(run_module.Tuner, "learned", keep)
    for method in ("full", "lora"):
        model = finetune(method=method).result[0]
        found = eps(comfy, model, subject)
        torch.testing.assert_close(found, seen["eps"], rtol=0, atol=1e-5 * float(found.abs().max()))


def test_it_stacks_with_loras_and_on_itself(comfy, finetune, loaded, subject, unchanged):
    """A LoRA on the MODEL counts while training, and stays under the result."""
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    patched = loaded.model.clone()
    patched.add_patches({key: ("diff", (torch.randn(32, WIDTH),))}, 0.5)
    once = finetune(model=patched).result[0]
    twice = finetune(model=once).result[0]
    predictions = [eps(comfy, model, subject) for model in (loaded.model, patched, once, twice)]
    for one, other in zip(predictions[:-1], predictions[1:], strict=True):
        assert (one - other).abs().max() > 1e-5
    record = comfy.module("nodes.host.blip_diffusion.tuning_record").tuning_of(twice)
    assert (record.steps, record.method, record.earlier.steps) == (3, "full", 3)
    assert key in record.patches and patched.patches[key][0][1] is twice.patches[key][0][1]


def test_the_same_seed_gives_the_same_subject(finetune):
    first, again, other = (finetune(seed=seed).result[1].embeddings for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_options_change_the_result(finetune, photos):
    plain = finetune().result[1].embeddings
    masks = torch.zeros(1, SIDE, 80)
    masks[:, 16:48, 24:56] = 1
    for options in (
        {"masks": masks, "background_weight": 0.0},
        {"flip": True},
        {"ema_decay": 0.9},
        {"class_images": photos.flip(0).flip(1)},
    ):
        found = finetune(**options).result
        assert torch.isfinite(found[1].embeddings).all()
        if "class_images" in options:  # the vectors do not see them; the UNet does
            key, entries = next(iter(found[0].patches.items()))
            assert not torch.equal(entries[-1][1][1][0], finetune().result[0].patches[key][-1][1][1][0])
        else:
            assert not torch.equal(found[1].embeddings, plain)
    assert torch.equal(finetune(masks=masks).result[1].embeddings, plain)


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}, {"method": "vectors"}, {"precision": "bf16"}])
def test_the_bar_moves_and_shows_previews(comfy, finetune, monkeypatch, changes):
    seen = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, preview, **_: seen.append((done, total, preview))
    )
    finetune(preview_every=2, steps=4, preview_prompt="on a beach", **changes)
    steps = [(done, total) for done, total, _ in seen if total == 4]
    assert steps[0] == (0, 4) and steps[-1] == (4, 4)
    pictures = [preview for _, total, preview in seen if total == 4 and preview]
    assert [kind for kind, _, _ in pictures] == ["JPEG"] * 3 and pictures[0][1].size == (SIDE, SIDE)
    assert pictures[0][1].tobytes() != pictures[1][1].tobytes()
    both = pictures[2][1]  # the last preview, and beside it the curve
    assert both.size == (960, 480)
    left = both.crop((0, 0, 480, 480)).resize((SIDE, SIDE), Image.Resampling.BOX)
    assert np.abs(np.asarray(left, float) - np.asarray(pictures[1][1], float)).mean() < 8


def cancel_after(comfy, run_module, monkeypatch, steps):
    """The artist presses cancel while step `steps` + 1 runs."""
    step, count = run_module.Tuner._step, []

    def stepping(tuner):
        count.append(1)
        if len(count) > steps:
            comfy.model_management.interrupt_current_processing(True)
        step(tuner)

    monkeypatch.setattr(run_module.Tuner, "_step", stepping)
    return count


def test_cancel_stops_within_a_step(comfy, finetune, run_module, monkeypatch, unchanged):
    count = cancel_after(comfy, run_module, monkeypatch, 2)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        finetune(steps=50, keep_on_cancel=False)
    assert len(count) == 3
    monkeypatch.undo()
    assert finetune().result  # the host is usable


def test_cancel_can_keep_what_was_learned(comfy, finetune, run_module, monkeypatch, unchanged, on_node):
    whole = finetune(steps=2).result[1].embeddings
    cancel_after(comfy, run_module, monkeypatch, 2)
    model, tuned, curve = finetune(steps=50).result
    assert torch.equal(tuned.embeddings, whole) and "2 steps" in tuned.source
    assert model.patches and ((curve[..., 0] > 0.8) & (curve[..., 1] < 0.6)).any()  # the curve says so in red
    assert "Cancelled after step 2 of 50; what it learned is kept." in on_node[-1]
    comfy.model_management.throw_exception_if_processing_interrupted()  # nothing is left to interrupt the next node


def test_vectors_alone_leave_the_model_as_it_is(comfy, finetune, loaded, subject, unchanged):
    model, tuned, _ = finetune(method="vectors").result
    assert model is loaded.model and not torch.equal(tuned.embeddings, subject.embeddings)
    assert "3 steps of vectors" in tuned.source
    with torch.inference_mode():
        name, report = comfy.node("SubjectSave").execute(tuned, "vectors_alone", model).result
        loaded_again = comfy.node("SubjectLoad").execute(name).result[1]
    assert "weights" not in report and torch.equal(loaded_again.embeddings, tuned.embeddings)


def test_what_is_said_while_it_runs(comfy, finetune, monkeypatch):
    said = []
    progress = comfy.module("nodes.host.blip_diffusion.finetuning.progress")
    monkeypatch.setattr(progress, "say_on_node", lambda text, node: said.append(text))
    monkeypatch.setattr(progress, "_TEXT_SECONDS", -1.0)
    finetune(steps=3)
    assert [text.split(",")[0] for text in said] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert all("loss " in text for text in said) and " s left\n" in said[0]
    assert "Cancel keeps what was learned" in said[0] and "took" in said[-1] and "Cancel" not in said[-1]
    said.clear()
    finetune(steps=2, keep_on_cancel=False)
    assert "Cancel" not in said[0]


def test_a_new_node_does_not_train_again_at_the_next_run(comfy):
    """The seed stays, and keeping what was learned is on where everybody sees it."""
    inputs = comfy.node("SubjectFinetune").GET_NODE_INFO_V1()["input"]
    assert inputs["required"]["seed"][1]["control_after_generate"] == "fixed"
    keep = inputs["optional"]["keep_on_cancel"][1]
    assert keep["default"] is True and not keep.get("advanced")


def test_cancel_before_anything_was_learned_ends_the_prompt(comfy, finetune, run_module, monkeypatch):
    cancel_after(comfy, run_module, monkeypatch, 0)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        finetune(steps=50, keep_on_cancel=True)


def test_a_failing_step_leaves_the_host_as_it_was(finetune, run_module, monkeypatch, unchanged):
    monkeypatch.setattr(run_module.Tuner, "_step", lambda tuner: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune()
    monkeypatch.undo()
    assert finetune().result


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["GPU", "CPU"],
)
def test_out_of_memory_names_settings_that_fit(finetune, run_module, subject_error, monkeypatch, unchanged, error):
    def fail(tuner):
        raise error

    monkeypatch.setattr(run_module.Tuner, "_step", fail)
    with pytest.raises(subject_error, match="Out of memory: method full, batch_size 2, resolution 64.*What fits"):
        finetune()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_held_before_the_first_step_stays_below_the_estimate(
    comfy, finetune, loaded, run_module, monkeypatch, method
):
    """The copy of the MODEL is float32, whatever is trained in; it counts as operations ask for memory."""
    estimates = comfy.module("blipdiff_impl.blip_diffusion.finetuning.memory")
    text = sum(weight.numel() for weight in loaded.clip.cond_stage_model.clip_l.parameters())
    monkeypatch.setattr(estimates, "_RESERVE", 4 * text + 2**18)  # nothing for libraries, a little for latents
    prepare, need, held = run_module._prepare, [], HeldMemory()

    class Room(run_module.Room):
        def make(self, reason):
            need.extend(self._need)
            return False

    def watched(*arguments):
        with held:
            return prepare(*arguments)

    monkeypatch.setattr(run_module, "Room", Room)
    monkeypatch.setattr(run_module, "_prepare", watched)
    finetune(method=method, precision="bf16", steps=1)
    assert 4 * need[0].weights <= held.peak <= estimates.bytes_needed(*need, checkpointing=True)


def test_little_memory_means_checkpointing_with_the_same_result(comfy, finetune, monkeypatch, caplog):
    expected = finetune().result[1].embeddings
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: 2**20)
    with caplog.at_level("INFO"):
        found = finetune().result[1].embeddings
    assert "gradient checkpointing: about" in caplog.text and "free" in caplog.text
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_loss_that_is_no_number_gives_the_last_good_weights(finetune, run_module, monkeypatch, caplog, unchanged):
    predict_with, calls = run_module.predict_with, []

    def breaking(unet):
        predict = predict_with(unet)

        def broken(*inputs):
            calls.append(1)
            return predict(*inputs) * (float("nan") if len(calls) > 3 else 1.0)

        return broken

    monkeypatch.setattr(run_module, "predict_with", breaking)
    found = finetune(steps=20).result
    assert "step 4 of 20" in caplog.text and "2 steps" in found[1].source
    monkeypatch.undo()
    torch.testing.assert_close(found[1].embeddings, finetune(steps=2).result[1].embeddings, rtol=0, atol=1e-6)


def bad_inputs(loaded, subject, photos, kinds):
    """What is wrong -> (changed inputs, the sentence)."""
    empty_mask = torch.zeros(1, SIDE, 80)
    wide = kinds.Subject(torch.randn(1, 16, 2 * WIDTH), "dog", "x")
    two = kinds.Subject(subject.embeddings.repeat(2, 1, 1), "dog", "x")
    nameless = kinds.Subject(subject.embeddings, "", "x")
    return {
        "no photo": ({"images": photos[:0]}, "no photo"),
        "NaN photo": ({"images": photos * float("nan")}, "NaN"),
        "empty mask": ({"masks": empty_mask, "background_weight": 0.5}, "selects nothing"),
        "mask of another size": ({"masks": torch.ones(1, 30, 30)}, "30x30.*80x64"),
        "0 steps": ({"steps": 0}, "steps = 0"),
        "100,000 steps": ({"steps": 100_000}, "steps = 100000"),
        "rate 0": ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        "rate 1": ({"learning_rate": 1.0}, "learning_rate = 1.0"),
        "rate NaN": ({"learning_rate": float("nan")}, "learning_rate = nan"),
        "resolution": ({"resolution": 100}, "resolution = 100"),
        "other width": ({"subject": wide}, f"width {2 * WIDTH}, the CLIP {WIDTH}"),
        "several subjects": ({"subject": two}, "one subject, but this batch holds 2"),
        "no category": ({"subject": nameless}, "does not say what it is"),
    }


NAMES = ["no photo", "NaN photo", "empty mask", "mask of another size", "0 steps", "100,000 steps", "rate 0", "rate 1",
         "rate NaN", "resolution", "other width", "several subjects", "no category"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused_with_a_sentence(comfy, finetune, loaded, subject, photos, subject_error, name):
    kinds = comfy.module("blipdiff_impl.blip_diffusion.subject")
    cases = bad_inputs(loaded, subject, photos, kinds)
    assert list(cases) == NAMES
    changes, sentence = cases[name]
    with pytest.raises(subject_error, match=sentence):
        finetune(**changes)


def test_one_photo_is_enough(finetune, photos):
    assert torch.isfinite(finetune(images=photos[:1]).result[1].embeddings).all()


def other_model(comfy, kind):
    """A MODEL that this node cannot train, as the host builds it (a small one, where it is about the class alone)."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    sizes = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_middle": 1, "num_heads": 4,
        "transformer_depth_output": [1] * 4, "context_dim": WIDTH, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }  # fmt: skip
    if kind == "sdxl":
        config = comfy.supported_models.SDXL(sizes | {"adm_in_channels": 2816, "num_classes": "sequential"})
    elif kind == "flux":
        config = comfy.supported_models.Flux({
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 32,
            "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
            "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False,
            "txt_ids_dims": [],
        })  # fmt: skip
    else:
        config = comfy.supported_models.SD15(sizes | ({"in_channels": 9} if kind == "inpainting" else {}))
        config.unet_config["num_heads"] = 4
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    if kind == "v":
        model.model_type = comfy.model_base.ModelType.V_PREDICTION
    if kind == "fp8":
        model.diffusion_model.to(torch.float8_e4m3fn)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("sdxl", "SDXL.*not one of Stable Diffusion 1.5"),
        ("flux", "Flux.*not one of Stable Diffusion 1.5"),
        ("inpainting", "9 latent channels"),
        ("v", "V_PREDICTION"),
        ("fp8", "quantised.*float8_e4m3fn"),
    ],
)
def test_other_models_are_refused(comfy, finetune, subject_error, kind, sentence):
    with pytest.raises(subject_error, match=sentence):
        finetune(model=other_model(comfy, kind))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_models_in_16_bit_can_be_tuned(comfy, finetune, subject, tmp_path, precision, method):
    write_tiny_checkpoint(tmp_path / "half.safetensors", seed=51)
    source = comfy.module("nodes.host.blip_diffusion.sources").Source(str(tmp_path / "half.safetensors"))
    with torch.inference_mode():
        half = comfy.module("nodes.host.blip_diffusion.loader").load_model(source, precision)
    model, tuned, _ = finetune(model=half.model, clip=half.clip, method=method).result
    assert torch.isfinite(tuned.embeddings).all()
    for entries in model.patches.values():
        patch = entries[-1][1]
        assert isinstance(patch, tuple) == (method == "full")
        if method == "full":
            assert patch[1][0].dtype == torch.float16 and not patch[1][0].requires_grad


def test_the_models_own_picture_size_is_the_default(comfy, finetune, loaded, run_module, monkeypatch):
    seen = []
    monkeypatch.setattr(run_module, "squares", lambda images, side: seen.append(side) or 1 / 0)
    monkeypatch.delattr(loaded.model.model, run_module.PICTURE_SIZE_OF_MODEL, raising=False)
    for size in (None, CONFIG.picture_size):
        if size:
            monkeypatch.setattr(loaded.model.model, run_module.PICTURE_SIZE_OF_MODEL, size, raising=False)
        with pytest.raises(ZeroDivisionError):
            finetune(resolution=0)
    assert seen == [512, CONFIG.picture_size]
