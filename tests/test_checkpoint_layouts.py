"""Every layout, written with random weights and the published names, gives the same tensors and fingerprints."""

import pytest
import torch

from blipdiff_impl.blip_diffusion.checkpoints import PARTS, convert, open_checkpoint, write_single_file
from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.errors import CheckpointError
from blipdiff_impl.weights.fingerprint import fingerprint_of
from tests.checkpoint_fixtures import (
    SMALL,
    VOCABULARY,
    clip_name,
    fine_tuned_state,
    lavis_blip_file,
    old_vae_names,
    random_parts,
    save,
    squeezed,
    whole_model_state,
    write_diffusers_folder,
    write_lavis_folder,
)


@pytest.fixture(scope="module")
def parts():
    return random_parts()


def assert_holds(checkpoint, parts):
    for name, tensors in parts.items():
        loaded = checkpoint.part(name)
        assert list(loaded) == list(tensors)
        for key, tensor in tensors.items():
            assert loaded[key].dtype == tensor.dtype and torch.equal(loaded[key], tensor), key


def write_single(folder, parts):
    path = folder / "model.safetensors"
    write_single_file(path, parts, SMALL, VOCABULARY)
    return path


def write_whole_model(folder, parts):
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return save(whole_model_state(parts), folder / "whole.pth")


WRITERS = {
    "diffusers .bin": write_diffusers_folder,
    "diffusers .safetensors": lambda folder, parts: write_diffusers_folder(folder, parts, "safetensors"),
    "LAVIS": write_lavis_folder,
    "LAVIS research names": lambda folder, parts: write_lavis_folder(folder, parts, "text_model."),
    "whole model": write_whole_model,
    "single file": write_single,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_same_model_from_every_layout(tmp_path, parts, layout):
    checkpoint = open_checkpoint(WRITERS[layout](tmp_path, parts), SMALL)
    assert_holds(checkpoint, parts)
    assert checkpoint.config == SMALL
    assert checkpoint.vocabulary == VOCABULARY
    assert checkpoint.subject_vectors() is None
    assert checkpoint.warnings == []
    assert {name: checkpoint.fingerprint(name) for name in PARTS} == {
        name: fingerprint_of(tensors) for name, tensors in parts.items()
    }


def test_fingerprints_tell_weights_and_types_apart(tmp_path, parts):
    other = {**parts["vae"], "quant_conv.bias": parts["vae"]["quant_conv.bias"] + 1e-3}
    half = {name: tensor.half() for name, tensor in parts["vae"].items()}
    files = {}
    for label, vae in {"same": parts["vae"], "other": other, "half": half}.items():
        write_single_file(tmp_path / f"{label}.safetensors", {"vae": vae}, SMALL, [])
        files[label] = open_checkpoint(tmp_path / f"{label}.safetensors").fingerprint("vae")
    assert len(set(files.values())) == 3


def test_fine_tuned_file_holds_only_unet_and_vectors(tmp_path, parts):
    vectors = torch.randn(1, 4, 16)
    path = tmp_path / "checkpoint_40.pth"
    torch.save(fine_tuned_state(parts, vectors), path)
    checkpoint = open_checkpoint(path, SMALL)
    assert [name for name in PARTS if checkpoint.has(name)] == ["unet"]
    assert_holds(checkpoint, {"unet": parts["unet"]})
    assert torch.equal(checkpoint.subject_vectors(), vectors)
    with pytest.raises(CheckpointError, match="no vae. A fine-tuned file holds the UNet and the subject vectors only"):
        checkpoint.part("vae")


def test_cached_vectors_survive_conversion(tmp_path, parts):
    vectors = torch.randn(1, 4, 16)
    folder = write_lavis_folder(tmp_path / "lavis", parts)
    (folder / "ctx_embeddings_cache").mkdir()
    torch.save(torch.nn.Parameter(vectors), folder / "ctx_embeddings_cache" / "ctx_embeddings_cache.pt")
    assert torch.equal(open_checkpoint(folder, SMALL).subject_vectors(), vectors)
    convert(folder, tmp_path / "out.safetensors", torch.float16, config=SMALL)
    assert torch.equal(open_checkpoint(tmp_path / "out.safetensors").subject_vectors(), vectors)


def test_fine_tuned_file_converts_to_what_it_holds(tmp_path, parts):
    torch.save(fine_tuned_state(parts, torch.ones(1, 4, 16)), tmp_path / "checkpoint_40.pth")
    convert(tmp_path / "checkpoint_40.pth", tmp_path / "out.safetensors", config=SMALL)
    checkpoint = open_checkpoint(tmp_path / "out.safetensors")
    assert [name for name in PARTS if checkpoint.has(name)] == ["unet"]
    assert checkpoint.subject_vectors().sum() == 64


def test_folder_written_by_the_libraries(tmp_path):
    """What diffusers and transformers save themselves, configuration files included."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(**SMALL.unet.to_diffusers(), sample_size=16)
    vae = AutoencoderKL(**SMALL.vae.to_diffusers())
    text = CLIPTextModel(CLIPTextConfig(**SMALL.text_encoder.to_transformers()))
    for module, name in ((unet, "unet"), (vae, "vae"), (text, "text_encoder")):
        module.save_pretrained(tmp_path / name)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.unet == SMALL.unet
    assert checkpoint.config.vae == SMALL.vae
    assert checkpoint.config.text_encoder == SMALL.text_encoder
    assert checkpoint.config.picture_size == 32
    assert torch.equal(checkpoint.part("unet")["conv_in.weight"], unet.conv_in.weight)
    assert torch.equal(checkpoint.part("vae")["decoder.conv_out.bias"], vae.decoder.conv_out.bias)
    final_norm = checkpoint.part("text_encoder")["text_model.final_layer_norm.weight"]
    assert torch.equal(final_norm, text.state_dict()[[k for k in text.state_dict() if "final_layer_norm.w" in k][0]])


def test_safetensors_win_over_pickles(tmp_path, parts):
    write_diffusers_folder(tmp_path, random_parts(seed=1), "bin")
    write_diffusers_folder(tmp_path, parts, "safetensors")
    assert_holds(open_checkpoint(tmp_path), parts)


def test_unused_folders_are_named(tmp_path, parts):
    folder = write_diffusers_folder(tmp_path, parts)
    for name in ("controlnet", "vision_encoder"):
        (folder / name).mkdir()
    notes = " ".join(open_checkpoint(folder).notes)
    assert "controlnet/" in notes and "vision_encoder/" in notes and "safety_checker/" not in notes


def test_tower_epsilon_is_never_taken_from_a_folder(tmp_path, parts):
    folder = write_diffusers_folder(tmp_path, parts)
    assert "1e-06" in (folder / "qformer" / "config.json").read_text()
    assert open_checkpoint(folder).config.image_tower.layer_norm_eps == 1e-5


def test_short_configuration_means_released_sizes(tmp_path):
    (tmp_path / "qformer").mkdir()
    (tmp_path / "qformer" / "config.json").write_text(
        '{"model_type": "blip-2", "num_query_tokens": 16, "qformer_config": {"cross_attention_frequency": 1, '
        '"encoder_hidden_size": 1024, "vocab_size": 30523}, "vision_config": {"hidden_act": "quick_gelu", '
        '"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}, "text_config": {}}'
    )
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == RELEASED
    assert len(checkpoint.vocabulary) == 30523 and checkpoint.vocabulary[-1] == "[DEC]"


def test_half_precision_tower_is_kept_as_stored(tmp_path, parts):
    encoder = {
        name: tensor.half() if name.startswith("visual_encoder.") and tensor.dim() > 1 else tensor
        for name, tensor in parts["subject_encoder"].items()
    }
    mixed = {**parts, "subject_encoder": encoder}
    folder = write_lavis_folder(tmp_path / "folder", mixed)
    assert_holds(open_checkpoint(folder, SMALL), mixed)
    write_single_file(tmp_path / "single.safetensors", mixed, SMALL, VOCABULARY)
    assert_holds(open_checkpoint(tmp_path / "single.safetensors"), mixed)


@pytest.mark.parametrize("convolutions", [False, True], ids=["linear", "1x1 convolution"])
def test_old_vae_attention(tmp_path, parts, convolutions):
    folder = write_diffusers_folder(tmp_path, {"vae": parts["vae"], "subject_encoder": parts["subject_encoder"]})
    old = old_vae_names(parts["vae"], convolutions)
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in old
    save(old, folder / "vae" / "diffusion_pytorch_model.bin")
    assert_holds(open_checkpoint(folder), {"vae": parts["vae"]})


def clip_tower(encoder, blocks: int) -> dict[str, torch.Tensor]:
    """The tower in CLIP's own names, with a further block, the last norm and the projection where asked for."""
    tower = {
        clip_name(name.removeprefix("visual_encoder.")): squeezed(name, tensor)
        for name, tensor in encoder.items()
        if name.startswith("visual_encoder.") and "post_layernorm" not in name
    }
    if blocks > SMALL.image_tower.num_hidden_layers:
        last = {name.replace("blocks.2.", "blocks.3."): tensor for name, tensor in tower.items() if "blocks.2." in name}
        tower |= {**last, "ln_post.weight": torch.randn(8), "ln_post.bias": torch.randn(8), "proj": torch.randn(8, 6)}
    return tower


def transformers_tower(encoder) -> dict[str, torch.Tensor]:
    """The whole CLIP model as transformers saves it: separate query, key and value, other names, the text tower."""
    renamed = {"vision_model.post_layernorm.weight": torch.randn(8), "vision_model.post_layernorm.bias": torch.randn(8)}
    for name, tensor in clip_tower(encoder, 4).items():
        for clip, other in (
            ("class_embedding", "embeddings.class_embedding"),
            ("positional_embedding", "embeddings.position_embedding.weight"),
            ("conv1", "embeddings.patch_embedding"),
            ("ln_pre", "pre_layrnorm"),
            ("transformer.resblocks", "encoder.layers"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("attn.out_proj", "self_attn.out_proj"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            name = name.replace(clip, other)
        if "attn.in_proj_" in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed["vision_model." + name.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = third
        elif not name.startswith(("ln_post", "proj")):
            renamed[f"vision_model.{name}"] = tensor
    return {
        **renamed,
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "visual_projection.weight": torch.randn(6, 8),
        "text_model.final_layer_norm.weight": torch.randn(4),
    }


TOWERS = {
    "LAVIS, 23 blocks": ("clip_vit_L.pth", lambda encoder: clip_tower(encoder, 3)),
    "LAVIS, 24 blocks": ("clip_vit_L.pth", lambda encoder: clip_tower(encoder, 4)),
    "CLIP": (
        "ViT-L-14.safetensors",
        lambda encoder: {
            **{f"visual.{name}": tensor for name, tensor in clip_tower(encoder, 4).items()},
            "transformer.resblocks.0.ln_1.weight": torch.randn(4),
            "token_embedding.weight": torch.randn(9, 4),
        },
    ),
    "transformers": ("clip-vit-large-patch14.safetensors", transformers_tower),
}


@pytest.mark.parametrize("place", ["", "blip_model"], ids=["beside the folders", "beside the file"])
@pytest.mark.parametrize("kind", TOWERS)
def test_tower_from_a_clip_file(tmp_path, parts, kind, place):
    """A BLIP file without tower: the blocks come from CLIP, one fewer than it has, the norm after them from BLIP."""
    name, tower = TOWERS[kind]
    folder = write_lavis_folder(tmp_path, parts, tower=False)
    save(tower(parts["subject_encoder"]), folder / place / name)
    assert_holds(open_checkpoint(folder, SMALL), {"subject_encoder": parts["subject_encoder"]})


def test_raw_stage_one_file_is_unwrapped(tmp_path, parts):
    folder = write_lavis_folder(tmp_path, parts)
    torch.save({"model": lavis_blip_file(parts["subject_encoder"]), "epoch": 3}, folder / "blip_model/blip_weight.pt")
    assert_holds(open_checkpoint(folder, SMALL), {"subject_encoder": parts["subject_encoder"]})


def test_pickle_of_the_old_format(tmp_path, parts):
    """Files from before PyTorch 1.6 are no zip archives."""
    folder = write_diffusers_folder(tmp_path, parts)
    torch.save(parts["unet"], folder / "unet/diffusion_pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_holds(open_checkpoint(folder), {"unet": parts["unet"]})


def test_convert_keeps_everything(tmp_path, parts):
    folder = write_diffusers_folder(tmp_path / "folder", parts)
    convert(folder, tmp_path / "out.safetensors")
    assert_holds(open_checkpoint(tmp_path / "out.safetensors"), parts)
    assert open_checkpoint(tmp_path / "out.safetensors").vocabulary == VOCABULARY


def test_opening_reads_no_weights(tmp_path, parts, monkeypatch):
    from blipdiff_impl.weights.safetensors_file import SafetensorsFile

    folder = write_diffusers_folder(tmp_path, parts, "safetensors")
    loaded = []
    real_load = SafetensorsFile.load
    monkeypatch.setattr(SafetensorsFile, "load", lambda file, names: loaded.append(file.path) or real_load(file, names))
    checkpoint = open_checkpoint(folder)
    checkpoint.check("unet")
    assert loaded == []
    checkpoint.part("vae")
    assert loaded == [folder / "vae" / "diffusion_pytorch_model.safetensors"]
