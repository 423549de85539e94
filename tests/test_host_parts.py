"""The host's MODEL, CLIP and VAE from a checkpoint compute what diffusers and transformers compute.

Tolerance: relative error of the largest value. Both sides run float32 on the CPU with the same operations in another
order, which leaves about 1e-6; 1e-5 gives room for other CPUs and is far below any real difference.
"""

import dataclasses

import pytest
import torch
from tiny_model import CONFIG, canonical, random_parts, reference_modules

from blipdiff_impl.blip_diffusion.config import RELEASED

EXACT = 1e-5


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def host(comfy):
    """The pack's modules that put weights into the host."""
    return {
        "unet": comfy.module("nodes.host.unet"),
        "clip": comfy.module("nodes.host.clip"),
        "vae": comfy.module("nodes.host.vae"),
        "models": comfy.module("nodes.host.blip_diffusion.loader"),
    }


@pytest.fixture(scope="module")
def reference():
    return reference_modules(CONFIG, seed=1)


@pytest.fixture(scope="module")
def parts(reference):
    return {name: canonical(name, module) for name, module in reference.items()}


def check_error(comfy):
    return comfy.module("blipdiff_impl.errors").CheckpointError


@torch.inference_mode()
def test_unet_equals_diffusers(host, reference, parts):
    patcher = host["unet"].load_unet(dict(parts["unet"]), CONFIG.unet, torch.float32)
    x, context = torch.randn(2, 4, 8, 12), torch.randn(2, 77, CONFIG.unet.cross_attention_dim)
    t = torch.tensor([3, 811])
    expected = reference["unet"](x, t, context).sample
    found = patcher.model.diffusion_model(x, t, context=context)
    assert relative_error(found, expected) < EXACT


@pytest.mark.parametrize(
    "sizes",
    [
        {"block_out_channels": (32, 32, 64, 64), "attention_levels": (False, True, True, False), "layers_per_block": 2},
        {
            "block_out_channels": (64, 64),
            "attention_levels": (True,) * 2,
            "norm_num_groups": 16,
            "num_attention_heads": 8,
        },
    ],
    ids=["four levels", "sixteen groups"],
)
@torch.inference_mode()
def test_unet_of_other_sizes_equals_diffusers(host, sizes):
    from diffusers import UNet2DConditionModel

    config = dataclasses.replace(CONFIG.unet, **sizes)
    torch.manual_seed(2)
    unet = UNet2DConditionModel(**config.to_diffusers()).eval()
    x, context, t = torch.randn(1, 4, 8, 8), torch.randn(1, 77, config.cross_attention_dim), torch.tensor([500])
    patcher = host["unet"].load_unet(unet.state_dict(), config, torch.float32)
    found = patcher.model.diffusion_model(x, t, context=context)
    assert relative_error(found, unet(x, t, context).sample) < EXACT


def test_released_unet_sizes_are_what_the_host_itself_detects(host):
    from comfy.model_detection import unet_config_from_diffusers_unet
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        weights = UNet2DConditionModel(**RELEASED.unet.to_diffusers()).state_dict()
    detected = {name: value for name, value in unet_config_from_diffusers_unet(weights).items() if name != "dtype"}
    assert host["unet"].host_config(RELEASED.unet) == detected


@torch.inference_mode()
def test_clip_equals_transformers(host, reference, parts):
    clip = host["clip"].load_clip(dict(parts["text_encoder"]), CONFIG.text_encoder, torch.float32)
    ids = [49406, 320, 1929, 525, 518, 2117, *[49407] * 71]
    expected = reference["text_encoder"](torch.tensor([ids])).last_hidden_state
    found = clip.encode_from_tokens({"l": [[(i, 1.0) for i in ids]]})
    assert relative_error(found, expected) < EXACT


@pytest.mark.parametrize("channels, groups", [(None, None), ((32, 64, 64, 96), 4), ((32, 32, 64, 64), 32)])
@torch.inference_mode()
def test_vae_equals_diffusers(host, reference, parts, channels, groups):
    """Narrower than the host's 32 groups, as the embedded model; wide with 4 groups; and as the host builds its own."""
    config, vae, weights = CONFIG.vae, reference["vae"], parts["vae"]
    if channels:
        config = dataclasses.replace(config, block_out_channels=channels, norm_num_groups=groups, layers_per_block=2)
        changed = dataclasses.replace(CONFIG, vae=config)
        vae = reference_modules(changed, seed=3)["vae"]
        weights = canonical("vae", vae)
    loaded = host["vae"].load_vae(dict(weights), config)
    assert loaded.vae_dtype == torch.float32
    pixels = torch.rand(2, 32, 48, 3)
    expected = vae.encode(pixels.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    found = loaded.encode(pixels)
    assert relative_error(found, expected) < EXACT
    picture = vae.decode(expected).sample.permute(0, 2, 3, 1)
    raw = loaded.first_stage_model.decode(expected).permute(0, 2, 3, 1)
    assert relative_error(raw, picture) < EXACT
    # Pictures are compared absolutely: 1e-5 of the range 0..1.
    assert (loaded.decode(found) - ((picture + 1) / 2).clamp(0, 1)).abs().max() < EXACT


def test_narrow_vae_reports_its_real_size(host, parts):
    loaded = host["vae"].load_vae(dict(parts["vae"]), CONFIG.vae)
    assert loaded.model_size() == sum(t.numel() * 4 for t in parts["vae"].values())


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("fault", ["missing", "extra"])
def test_a_missing_or_extra_key_is_named(comfy, host, part, fault):
    weights = random_parts()[part]
    if fault == "missing":
        name = sorted(weights)[-1]
        del weights[name]
    else:
        name = "surprise.weight"
        weights[name] = torch.zeros(3)
    load = {"unet": host["unet"].load_unet, "text_encoder": host["clip"].load_clip, "vae": host["vae"].load_vae}[part]
    with pytest.raises(check_error(comfy), match="missing" if fault == "missing" else "surprise.weight"):
        load(weights, getattr(CONFIG, part))


def test_weights_of_another_size_are_refused(comfy, host):
    wide = dataclasses.replace(CONFIG.unet, cross_attention_dim=96)
    with pytest.raises(check_error(comfy), match="other sizes than its configuration"):
        host["unet"].load_unet(random_parts()["unet"], wide)


def test_sizes_the_host_cannot_build_are_refused(comfy, host):
    error = check_error(comfy)
    with pytest.raises(error, match="48, 64"):
        host["unet"].load_unet({}, dataclasses.replace(CONFIG.unet, block_out_channels=(48, 64)))
    with pytest.raises(error, match="16, 32"):
        host["vae"].load_vae({}, dataclasses.replace(CONFIG.vae, block_out_channels=(16, 32)))
    with pytest.raises(error, match="1000 tokens"):
        host["clip"].load_clip({}, dataclasses.replace(CONFIG.text_encoder, vocab_size=1000))
