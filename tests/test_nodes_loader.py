"""SubjectModelLoader on the real host: layouts, precision, fine-tuned files, and what it says when something lacks."""

from pathlib import Path

import pytest
import torch
from checkpoint_fixtures import (
    fine_tuned_state,
    fine_tuned_with_qformer,
    write_component_configs,
    write_diffusers_folder,
)
from tiny_model import CONFIG, PIECES, WIDTH, write_tiny_checkpoint

TOYBOX = "toybox (built in, toy world only)"
VECTORS = CONFIG.qformer.num_query_tokens


@pytest.fixture(scope="module")
def folder(comfy):
    """The first model folder of the pack, with a complete tiny checkpoint in it."""
    path = Path(comfy.folder_paths.get_folder_paths("blipdiffusion")[0])
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def parts(folder):
    return write_tiny_checkpoint(folder / "tiny.safetensors", seed=11)


@pytest.fixture
def load(comfy):
    def run(name, weight_dtype="fp32", **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectModelLoader").execute(name, weight_dtype, **inputs).result

    return run


@pytest.fixture(scope="module")
def checkpoint_error(comfy):
    return comfy.module("blipdiff_impl.errors").CheckpointError


def make_picture(comfy, loaded, steps=3, seed=5):
    """The whole way: encoder, prompt, KSampler, decode."""
    model, clip, vae, encoder, _ = loaded
    photo = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        subject = encoder.encode(photo, "dog")
        positive = comfy.node("SubjectPromptInfix").execute(clip, subject, "on a beach")[0]
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        latent = comfy.nodes.common_ksampler(model, seed, steps, 4.0, "euler", "normal", positive, negative, latent)[0]
        return vae.decode(latent["samples"])


def test_the_toybox_loads_and_makes_a_picture(comfy, load):
    picture = make_picture(comfy, load(TOYBOX, "default"), steps=2)
    assert picture.shape == (1, 64, 64, 3)
    assert torch.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1


def test_every_layout_gives_the_same_picture(comfy, load, folder, parts):
    expected = make_picture(comfy, load("tiny.safetensors"))
    write_diffusers_folder(folder / "tiny-diffusers", parts, config=CONFIG)
    write_component_configs(folder / "tiny-diffusers", CONFIG)
    for vocabulary in (folder / "tiny-diffusers").rglob("vocab.txt"):
        vocabulary.write_text("\n".join(PIECES))
    names = comfy.node("SubjectModelLoader").define_schema().inputs[0].options
    assert {"tiny.safetensors", "tiny-diffusers"} <= set(names) and names[0] == TOYBOX
    assert torch.equal(make_picture(comfy, load("tiny-diffusers")), expected)


@pytest.mark.parametrize("name, dtype", [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weight_dtype_is_that_of_unet_and_text_encoder(load, parts, name, dtype):
    model, clip, vae, _, _ = load("tiny.safetensors", name)
    assert model.model.get_dtype() == dtype
    assert model.model.diffusion_model.out[2].weight.dtype == dtype
    assert clip.cond_stage_model.clip_l.transformer.text_model.final_layer_norm.weight.dtype == dtype
    assert vae.vae_dtype == torch.float32  # the host's choice on the CPU


@pytest.mark.parametrize("which", ["model", "clip", "vae"])
def test_the_host_can_make_each_part_anew(load, parts, which):
    """Its own training and multi-GPU nodes do: through `cached_patcher_init`, into other tensors with equal weights."""
    model, clip, vae, _, _ = load("tiny.safetensors")
    patcher = {"model": model, "clip": clip.patcher, "vae": vae.patcher}[which]
    make, arguments = patcher.cached_patcher_init
    copy = make(*arguments)
    old, new = patcher.model.state_dict(), copy.model.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert all(old[name].data_ptr() != new[name].data_ptr() for name in old)
    assert not make(*arguments, disable_dynamic=True).is_dynamic()


def test_a_complete_checkpoint_blocks_its_subject_output(comfy, load, parts):
    from comfy_execution.graph_utils import ExecutionBlocker

    blocked = load("tiny.safetensors")[4]
    assert isinstance(blocked, ExecutionBlocker)
    assert "tiny.safetensors" in blocked.message and "Subject Encoder" in blocked.message


def test_a_fine_tuned_file_takes_the_rest_from_its_base(comfy, load, folder, parts):
    trained = {name: tensor * 1.1 for name, tensor in parts["unet"].items()}
    vectors = torch.randn(1, VECTORS, WIDTH)
    torch.save(fine_tuned_state({"unet": trained}, vectors), folder / "checkpoint_40.pth")
    model, clip, vae, encoder, subject = load("checkpoint_40.pth", base_model="tiny.safetensors")
    base = load("tiny.safetensors")
    assert torch.equal(subject.embeddings, vectors) and subject.category == ""
    assert subject.encoder_fingerprint == encoder.encoder.fingerprint == base[3].encoder.fingerprint
    weight = "out.2.weight"
    found = model.model.diffusion_model.state_dict()[weight]
    assert torch.equal(found, base[0].model.diffusion_model.state_dict()[weight] * 1.1)
    tuned = comfy.node("SubjectPromptInfix").execute(clip, subject, "on a beach", category="dog")[0]
    assert tuned[0][0].shape == (1, 77, WIDTH)
    assert torch.equal(vae.get_sd()["quant_conv.weight"], base[2].get_sd()["quant_conv.weight"])


def doubled(parts):
    return {part: {name: 2 * tensor for name, tensor in tensors.items()} for part, tensors in parts.items()}


def test_a_fine_tuned_qformer_comes_with_the_tower_of_its_base(load, folder, parts, caplog):
    """Tensor by tensor: what the file holds is its own, tower and projection are those of the base."""
    torch.save(fine_tuned_with_qformer(doubled(parts), torch.ones(1, VECTORS, WIDTH)), folder / "trained.pth")
    with caplog.at_level("INFO"):
        module = load("trained.pth", base_model="tiny.safetensors")[3].encoder.module
    found, untrained = module.canonical_state_dict(), ("visual_encoder.", "proj_layer.")
    for name, tensor in parts["subject_encoder"].items():
        frozen = name.startswith(untrained) and "post_layernorm" not in name
        assert torch.equal(found[name], tensor if frozen else 2 * tensor), name
    (sentence,) = [line for line in caplog.messages if "trained.pth" in line and "tiny.safetensors" in line]
    frozen = sum(n.startswith(untrained) and "post_layernorm" not in n for n in parts["subject_encoder"])
    assert f"{len(parts['subject_encoder']) - frozen} tensors of trained.pth" in sentence
    assert f"{frozen} of its base model tiny.safetensors" in sentence


def test_the_encoder_of_two_files_has_a_name_of_its_own(load, folder, parts):
    """Subjects remember which encoder made them."""
    torch.save(fine_tuned_with_qformer(doubled(parts), torch.ones(1, VECTORS, WIDTH)), folder / "named.pth")
    found = load("named.pth", base_model="tiny.safetensors")[3].encoder.fingerprint
    torch.save(fine_tuned_with_qformer(parts, torch.ones(1, VECTORS, WIDTH)), folder / "same.pth")
    base = load("tiny.safetensors")[3].encoder.fingerprint
    assert found != base
    assert load("same.pth", base_model="tiny.safetensors")[3].encoder.fingerprint == base


def test_a_fine_tuned_qformer_alone_asks_for_its_base(load, folder, parts, checkpoint_error):
    from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
    from blipdiff_impl.errors import CheckpointError

    torch.save(fine_tuned_with_qformer(parts, torch.ones(1, VECTORS, WIDTH)), folder / "towerless.pth")
    with pytest.raises(CheckpointError, match="towerless.pth.*tensors are missing.*Choose as base_model"):
        open_checkpoint(folder / "towerless.pth", CONFIG).part("subject_encoder")
    with pytest.raises(checkpoint_error, match="towerless.pth.*another size"):
        load("towerless.pth", base_model=TOYBOX)


def test_the_union_of_file_and_base_is_checked_strictly(load, folder, parts, checkpoint_error):
    """What neither holds is named; what does not belong is named; a shape of another model is named."""
    base = {name: dict(tensors) for name, tensors in parts.items()}
    del base["subject_encoder"]["proj_layer.dense1.bias"]
    write_diffusers_folder(folder / "lacking", base, config=CONFIG)
    for vocabulary in (folder / "lacking").rglob("vocab.txt"):
        vocabulary.write_text("\n".join(PIECES))
    state = fine_tuned_with_qformer(parts, torch.ones(1, VECTORS, WIDTH))
    torch.save(state, folder / "strict.pth")
    with pytest.raises(checkpoint_error, match="strict.pth.*1 tensor is missing: proj_layer.dense1.bias"):
        load("strict.pth", base_model="lacking")
    state["model"]["blip.Qformer.bert.pooler.dense.weight"] = torch.zeros(2, 2)
    torch.save(state, folder / "strict.pth")
    with pytest.raises(checkpoint_error, match="1 tensor is unexpected: Qformer.bert.pooler"):
        load("strict.pth", base_model="tiny.safetensors")
    del state["model"]["blip.Qformer.bert.pooler.dense.weight"]
    state["model"]["blip.ln_vision.weight"] = torch.zeros(7)
    torch.save(state, folder / "strict.pth")
    with pytest.raises(checkpoint_error, match="of another shape: visual_encoder.post_layernorm.weight .found 7"):
        load("strict.pth", base_model="tiny.safetensors")


def test_a_fine_tuned_file_alone_asks_for_its_base(load, folder, parts, checkpoint_error):
    torch.save(fine_tuned_state(parts, torch.randn(1, VECTORS, WIDTH)), folder / "alone.pth")
    with pytest.raises(checkpoint_error, match="UNet, subject vectors.*base_model"):
        load("alone.pth")


def test_a_base_of_other_sizes_is_refused(load, folder, parts, checkpoint_error):
    import dataclasses

    from blipdiff_impl.blip_diffusion.checkpoints import write_single_file

    other = dataclasses.replace(CONFIG, picture_size=96)
    write_single_file(folder / "only-unet.safetensors", {"unet": parts["unet"]}, other, PIECES)
    with pytest.raises(checkpoint_error, match="different sizes"):
        load("only-unet.safetensors", base_model="tiny.safetensors")


def test_a_clip_remembers_which_encoder_it_was_trained_with(comfy, load, parts, caplog):
    _, clip, _, encoder, _ = load("tiny.safetensors")
    subject = encoder.encode(torch.rand(1, 64, 64, 3), "dog")
    comfy.node("SubjectPromptInfix").execute(clip.clone(), subject, "on a beach")
    assert "another model" not in caplog.text


def test_a_missing_checkpoint_is_reported_with_folders_and_what_is_there(comfy, load, folder, parts, checkpoint_error):
    validate = comfy.node("SubjectModelLoader").validate_inputs
    sentence = validate(model_name="missing.safetensors")
    assert "missing.safetensors" in sentence and str(folder) in sentence and "tiny.safetensors" in sentence
    sentence = validate(model_name="tiny.safetensors", base_model="gone")
    assert sentence.startswith("base_model: ") and "no checkpoint 'gone'" in sentence
    assert validate() is True
    with pytest.raises(checkpoint_error, match="missing.safetensors"):
        load("missing.safetensors")


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/../../outside.safetensors"])
def test_names_do_not_leave_the_folder(comfy, folder, name):
    (folder.parent / "outside.safetensors").write_bytes(b"x")
    assert "no checkpoint" in comfy.node("SubjectModelLoader").validate_inputs(model_name=name)


@pytest.mark.parametrize("length", [0, 7, 200, 20_000])
def test_a_truncated_checkpoint_is_refused(load, folder, parts, checkpoint_error, length):
    whole = (folder / "tiny.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:length])
    with pytest.raises(checkpoint_error, match="cut.safetensors"):
        load("cut.safetensors")


def test_a_file_of_another_model_is_refused(load, folder, checkpoint_error):
    from safetensors.torch import save_file

    save_file({"lora_unet_down.weight": torch.zeros(4, 4)}, folder / "lora.safetensors")
    with pytest.raises(checkpoint_error, match="lora"):
        load("lora.safetensors")


def test_a_stopped_prompt_stops_loading(comfy, load, parts):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        load("tiny.safetensors")
    assert load("tiny.safetensors")[0] is not None  # the flag is spent; the next prompt runs
