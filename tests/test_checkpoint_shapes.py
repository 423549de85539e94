"""The tables of expected tensors against the modules that the libraries build from the same sizes."""

import math

import pytest
import torch

from blipdiff_impl.blip_diffusion.checkpoints import PARTS
from blipdiff_impl.blip_diffusion.checkpoints.expected_shapes import expected_shapes
from blipdiff_impl.blip_diffusion.checkpoints.renames import DIFFUSERS
from blipdiff_impl.blip_diffusion.config import RELEASED, ModelConfig
from blipdiff_impl.blip_diffusion.subject_module import SubjectEncoderModule
from blipdiff_impl.stable_diffusion.config import TextEncoderConfig, UNetConfig, VAEConfig
from blipdiff_impl.weights.renames import rename
from tests.checkpoint_fixtures import SMALL

THREE_LEVELS = ModelConfig(
    text_encoder=TextEncoderConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64),
    unet=UNetConfig(
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        attention_levels=(True, False, True),
        cross_attention_dim=32,
        num_attention_heads=4,
        norm_num_groups=8,
    ),
    vae=VAEConfig(block_out_channels=(16, 32, 48, 48), layers_per_block=3, latent_channels=4, norm_num_groups=4),
)


def module(part: str, config: ModelConfig) -> torch.nn.Module:
    """The library's module, without memory for weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        if part == "unet":
            return UNet2DConditionModel(**config.unet.to_diffusers())
        if part == "vae":
            return AutoencoderKL(**config.vae.to_diffusers())
        return CLIPTextModel(CLIPTextConfig(**config.text_encoder.to_transformers()))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("config", [RELEASED, SMALL, THREE_LEVELS], ids=["released", "small", "three levels"])
def test_equal_to_the_librarys_module(part, config):
    state = module(part, config).state_dict()
    rules = DIFFUSERS["text_encoder"] if part == "text_encoder" else ()
    shapes = {rename(name, rules): tuple(tensor.shape) for name, tensor in state.items()}
    shapes.pop("text_model.embeddings.position_ids", None)  # transformers 4 saves it
    assert expected_shapes(part, config) == shapes


@pytest.mark.parametrize("config", [RELEASED, SMALL], ids=["released", "small"])
def test_equal_to_the_packs_subject_encoder(config):
    with torch.device("meta"):
        state = SubjectEncoderModule(config).canonical_state_dict()
    assert expected_shapes("subject_encoder", config) == {name: tuple(t.shape) for name, t in state.items()}


def test_released_counts():
    """Entries and parameters of the published files (docs/method.md 1.1)."""
    tables = [expected_shapes(part, RELEASED) for part in PARTS]
    assert [len(table) for table in tables] == [678, 196, 686, 248]
    numbers = [sum(math.prod(shape) for shape in table.values()) for table in tables]
    assert numbers == [493_983_744, 123_060_480, 859_520_964, 83_653_863]
