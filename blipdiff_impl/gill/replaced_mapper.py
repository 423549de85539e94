"""A file with a mapper alone, which takes the place of the one that a model was published with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..untrusted import parse_json
from ..weights.opening import open_tensor_file
from ..weights.safetensors_file import SafetensorsFile, require_version
from ..weights.strict import check_part
from ..weights.writing import write_model
from .config import MapperConfig
from .parts import LearnedParts

FORMAT, FORMAT_VERSION = "gill_mapper", "1"
_MAPPER = "gen_text_hidden_fcs.0."


def save_mapper(path: Path, tensors: Mapping[str, Tensor], config: MapperConfig, dtype: torch.dtype) -> None:
    """Write a mapper.

    Raises:
        CheckpointError: a weight is not finite in that type, or the file cannot be written.
    """
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": json.dumps(dataclasses.asdict(config))}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_model(path, shapes, tensors.__getitem__, dtype, metadata, lambda written: SafetensorsFile(written), True)


def with_mapper(parts: LearnedParts, path: Path) -> LearnedParts:
    """The same parts with another mapper, float32.

    Raises:
        CheckpointError: the file cannot be read, is something else, or its mapper has other sizes.
    """
    file = open_tensor_file(path)
    if not isinstance(file, SafetensorsFile) or file.metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no mapper of GILL's. Choose another file.")
    require_version(file, FORMAT_VERSION, "make the file again")
    try:
        same = parse_json(file.metadata.get("config", "")) == dataclasses.asdict(parts.config.mapper)
    except ValueError:
        same = False
    if not same:
        raise CheckpointError(f"The mapper in {path} has other sizes than the model's own. Take both of one version.")
    own = parts.state_dict()
    due = {name.removeprefix(_MAPPER): value for name, value in own.items() if name.startswith(_MAPPER)}
    check_part("GILL mapper", file.infos, {name: tuple(v.shape) for name, v in due.items()}, [path], "single file")
    found = {f"{_MAPPER}{name}": value.float() for name, value in file.load(list(due)).items()}
    if wrong := [name for name, value in found.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(
            f"The weight {wrong[0]} in {path} holds NaN or infinite numbers. Download the file again."
        )
    return LearnedParts.from_tensors(parts.config, own | found)
