"""The order of the adapter's layers and their places, against the UNets of diffusers and ComfyUI."""

import pytest
import torch
from ms_fixtures import SMALL

from blipdiff_impl.ms_diffusion.config import UNetAttentionConfig
from blipdiff_impl.ms_diffusion.layers import adapter_layers
from blipdiff_impl.toybox.model import CONFIG as TOYBOX

SDXL = UNetAttentionConfig()
# Numbers, block and width of the published file's table: first number, last, place, width.
TABLE = [
    (1, 3, "input", 4, 640), (5, 7, "input", 5, 640), (9, 27, "input", 7, 1280), (29, 47, "input", 8, 1280),
    (49, 67, "output", 0, 1280), (69, 87, "output", 1, 1280), (89, 107, "output", 2, 1280),
    (109, 111, "output", 3, 640), (113, 115, "output", 4, 640), (117, 119, "output", 5, 640),
    (121, 139, "middle", 0, 1280),
]  # fmt: skip


def test_the_table_of_the_release():
    layers = {layer.number: (layer.key, layer.width) for layer in adapter_layers(SDXL)}
    expected = {
        number: ((block, place, index), width)
        for first, last, block, place, width in TABLE
        for index, number in enumerate(range(first, last + 1, 2))
    }
    assert layers == expected and len(layers) == 70
    assert sorted(width for _, width in layers.values()) == [640] * 10 + [1280] * 60


def diffusers_unet(**sizes):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**sizes)


def sdxl_unet():
    return diffusers_unet(
        block_out_channels=(320, 640, 1280), transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=2048,
        use_linear_projection=True,
    )  # fmt: skip


@pytest.mark.parametrize("make, unet, count", [
    (sdxl_unet, SDXL, 140),
    (lambda: diffusers_unet(**TOYBOX.unet.to_diffusers()),
     UNetAttentionConfig(widths=(128,) * 3, depths=(0, 1, 1), middle_depth=1, transformers=1), 14),
    (lambda: diffusers_unet(cross_attention_dim=768),
     UNetAttentionConfig(widths=(320, 640, 1280, 1280), depths=(1, 1, 1, 0), middle_depth=1), 32),
], ids=["SDXL", "toybox", "SD 1.5"])  # fmt: skip
def test_numbers_and_names_are_those_of_diffusers(make, unet, count):
    """The number of a layer counts all attention processors, in diffusers' own order."""
    model = make()
    names = [name.removesuffix(".processor") for name in model.attn_processors]
    assert len(names) == count
    expected = {
        number: (name, model.get_submodule(name).to_q.out_features)
        for number, name in enumerate(names)
        if name.endswith("attn2")
    }
    assert {layer.number: (layer.module, layer.width) for layer in adapter_layers(unet)} == expected


def test_places_are_those_of_comfyui(comfy):
    """Its UNet in Stable Diffusion XL's sizes, without numbers: transformers by block, the middle as block 0."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init

    model = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2],
        channel_mult=(1, 2, 4), transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], context_dim=2048, num_head_channels=64,
        use_spatial_transformer=True, use_linear_in_transformer=True, num_classes="sequential", adm_in_channels=2816,
        legacy=False, device="meta", dtype=torch.float16, operations=disable_weight_init,
    )  # fmt: skip
    blocks = {("input", i): block for i, block in enumerate(model.input_blocks)}
    blocks |= {("output", i): block for i, block in enumerate(model.output_blocks)} | {
        ("middle", 0): model.middle_block
    }
    found = {
        (*place, index): layer.attn2.to_q.weight.shape[0]
        for place, block in blocks.items()
        for transformer in block
        for index, layer in enumerate(getattr(transformer, "transformer_blocks", ()))
    }
    assert {layer.key: layer.width for layer in adapter_layers(SDXL)} == found


def test_keys_are_different_places():
    for unet in (SDXL, SMALL.unet):
        layers = adapter_layers(unet)
        assert len({layer.key for layer in layers}) == len({layer.module for layer in layers}) == len(layers)
