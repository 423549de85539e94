"""Whether the sizes that a file states can be those of a model of this family.

They decide how much is built and compared, so they are looked at before anything is. The limits lie far above every
published model; what they keep out are damaged and hostile files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import CheckpointError, shown

if TYPE_CHECKING:
    from .config import ModelConfig

_ACTIVATIONS = ("quick_gelu", "gelu")
_LEVELS = 8
_LARGEST = {
    "num_hidden_layers": 200,
    "layers_per_block": 16,
    "vocab_size": 1_000_000,
    "image_size": 4096,
    "picture_size": 8192,
    "intermediate_size": 1 << 20,
}
_LARGEST_OF_OTHERS = 1 << 16


def require_possible(config: ModelConfig) -> None:
    """Check every size alone, then those that have to fit each other.

    Raises:
        CheckpointError: names the size, its value and what is possible.
    """
    for component in dataclasses.fields(config):
        value = getattr(config, component.name)
        for name, number in _numbers(component.name, value):
            _require_in_range(name, number)
    fault = next(_faults(config), None)
    if fault:
        raise CheckpointError(f"The model's configuration cannot be: {fault}. Get the checkpoint again.")


def require_one_width(config: ModelConfig) -> None:
    """Check that subject vectors fit the text encoder and its output fits the UNet; a part alone need not.

    Raises:
        CheckpointError: says the three widths.
    """
    widths = config.qformer.hidden_size, config.text_encoder.hidden_size, config.unet.cross_attention_dim
    if len(set(widths)) > 1:
        raise CheckpointError(
            f"The parts of this checkpoint do not belong together: the Q-Former is {widths[0]} wide, the text encoder "
            f"{widths[1]}, the UNet's context {widths[2]}. All three should be the same; get the checkpoint again."
        )


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Every number of a component by its name."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        if len(value) > _LEVELS:
            raise CheckpointError(f"The model's {name} has {len(value)} levels; at most {_LEVELS} are possible.")
        for item in value:
            yield from _numbers(name, item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def _require_in_range(name: str, number: float) -> None:
    if isinstance(number, float):
        if not (math.isfinite(number) and 0 < number < 1000):
            raise CheckpointError(f"The model's {name} = {number} should be a number above 0 and below 1000.")
        return
    most = _LARGEST.get(name.rpartition(".")[2], _LARGEST_OF_OTHERS)
    if not 1 <= number <= most:
        raise CheckpointError(f"The model's {name} = {shown(number)} is not possible. It should be from 1 to {most}.")


def _faults(config: ModelConfig) -> Iterator[str]:
    for name in ("image_tower", "qformer", "text_encoder"):
        part = getattr(config, name)
        if part.hidden_size % part.num_attention_heads:
            yield f"{name}.hidden_size = {part.hidden_size} is no multiple of its {part.num_attention_heads} heads"
    if config.image_tower.patch_size > config.image_tower.image_size:
        yield "image_tower.patch_size is larger than its image_size"
    if config.text_encoder.hidden_act not in _ACTIVATIONS:
        yield f"text_encoder.hidden_act = {shown(config.text_encoder.hidden_act)} is none of {', '.join(_ACTIVATIONS)}"
    unet = config.unet
    if len(unet.attention_levels) != len(unet.block_out_channels):
        yield (
            f"unet.attention_levels has {len(unet.attention_levels)} levels, unet.block_out_channels has "
            f"{len(unet.block_out_channels)}"
        )
    for name in ("unet", "vae"):
        channels, groups = getattr(config, name).block_out_channels, getattr(config, name).norm_num_groups
        if any(channel % groups for channel in channels):
            yield f"{name}.block_out_channels = {list(channels)} are not all multiples of its {groups} groups"
    with_heads = [c for c, has in zip(unet.block_out_channels, unet.attention_levels, strict=False) if has]
    if any(channel % unet.num_attention_heads for channel in (*with_heads, unet.block_out_channels[-1])):
        yield f"unet.block_out_channels are not all multiples of its {unet.num_attention_heads} heads"
