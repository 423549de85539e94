"""Sizes from the `config.json` files of a diffusers folder; what a file does not say keeps the given value.

The short `qformer/config.json` of one published folder leaves out heads, picture size and epsilons. Epsilons of the
subject encoder are never taken from there: the library's default for the tower is not what it was trained with.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...errors import CheckpointError, first_few, shown
from ...weights.folders import first_existing, read_config
from ..config import ModelConfig
from ..config_checks import require_possible

_DOWN_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_TRAINED_EPSILON = "layer_norm_eps"


def sizes_from_folder(folder: Path, config: ModelConfig) -> ModelConfig:
    """`config` with the sizes that the folder's `config.json` files state.

    Raises:
        CheckpointError: a file is no JSON, or states a size that is none.
    """
    qformer = _read(folder / "qformer")
    sizes = dataclasses.asdict(config)
    stated = {
        "image_tower": _without_epsilon(qformer.get("vision_config")),
        "qformer": {**_without_epsilon(qformer.get("qformer_config")), **_only(qformer, "num_query_tokens")},
        "text_encoder": _read(folder / "text_encoder"),
        "unet": _unet_fields(_read(folder / "unet"), folder / "unet"),
        "vae": _read(folder / "vae"),
    }
    for component, record in stated.items():
        sizes[component] |= {k: v for k, v in record.items() if k in sizes[component] and v is not None}
    try:
        merged = ModelConfig.from_record(sizes)
        if type(side := stated["unet"].get("sample_size")) is int:
            merged = dataclasses.replace(merged, picture_size=side * merged.vae.downscale)
        require_possible(merged)
    except CheckpointError as error:
        raise CheckpointError(f"A config.json in {folder} cannot be used. {error}") from error
    return merged


def _read(folder: Path) -> dict:
    path = first_existing(folder, ("config.json",))
    return read_config(path) if path else {}


def _without_epsilon(record: object) -> dict:
    return {k: v for k, v in record.items() if k != _TRAINED_EPSILON} if isinstance(record, dict) else {}


def _only(record: dict, name: str) -> dict:
    return {name: record[name]} if name in record else {}


def _unet_fields(record: dict, folder: Path) -> dict:
    """diffusers says `attention_head_dim` for the number of heads, and names blocks in place of attention levels."""
    fields = dict(record)
    fields["num_attention_heads"] = record.get("num_attention_heads") or record.get("attention_head_dim")
    if blocks := record.get("down_block_types"):
        if not isinstance(blocks, list) or not all(isinstance(block, str) for block in blocks):
            raise CheckpointError(
                f"{folder / 'config.json'} should list its UNet's blocks by name in down_block_types, but it says "
                f"{shown(blocks)}. Download it again."
            )
        if unknown := [block for block in blocks if block not in _DOWN_BLOCKS]:
            raise CheckpointError(
                f"{folder / 'config.json'} names UNet blocks that this method does not use: {first_few(unknown)}. "
                "The UNet should be that of Stable Diffusion 1.5."
            )
        fields["attention_levels"] = [_DOWN_BLOCKS[block] for block in blocks]
    return fields
