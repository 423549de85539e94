"""The tables of expected tensors against the modules that the libraries build from the same sizes."""

import math

import pytest
import torch

from blipdiff_impl.checkpoints import PARTS
from blipdiff_impl.checkpoints.expected_shapes import expected_shapes
from blipdiff_impl.checkpoints.renames import DIFFUSERS, rename
from blipdiff_impl.config import RELEASED, ModelConfig, TextEncoderConfig, UNetConfig, VAEConfig
from blipdiff_impl.subject_module import SubjectEncoderModule
from tests.checkpoint_fixtures import SMALL

THREE_LEVELS = ModelConfig(
    text_encoder=TextEncoderConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64),
    unet=UNetConfig((32, 64, 96), 1, (True, False, True), 32, 4, 8),
    vae=VAEConfig((16, 32, 48, 48), 3, 4, 4),
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
    """Entries and parameters of the published files (fact sheet 1.1)."""
    tables = [expected_shapes(part, RELEASED) for part in PARTS]
    assert [len(table) for table in tables] == [678, 196, 686, 248]
    numbers = [sum(math.prod(shape) for shape in table.values()) for table in tables]
    assert numbers == [493_983_744, 123_060_480, 859_520_964, 83_653_863]
