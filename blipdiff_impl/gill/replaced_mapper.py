"""A file with a mapper alone, which takes the place of the one that a model was published with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..untrusted import parse_json
from ..weights.fingerprint import fingerprint_of
from ..weights.opening import open_tensor_file
from ..weights.safetensors_file import SafetensorsFile, require_version
from ..weights.strict import check_part
from ..weights.writing import write_model
from .parts import LearnedParts

FORMAT, FORMAT_VERSION = "gill_mapper", "1"
_MAPPER = "gen_text_hidden_fcs.0."


def save_mapper(path: Path, parts: LearnedParts, dtype: torch.dtype) -> None:
    """Write the mapper of parts that are in memory, with the names of those that it was trained with.

    Raises:
        CheckpointError: a weight is not finite in that type, or the file cannot be written.
    """
    tensors = _mapper_of(parts)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": json.dumps(dataclasses.asdict(parts.config.mapper)),
        **_trained_with(parts),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_model(path, shapes, tensors.__getitem__, dtype, metadata, lambda written: SafetensorsFile(written), True)


def with_mapper(parts: LearnedParts, path: Path) -> LearnedParts:
    """The same parts with another mapper, float32.

    Raises:
        CheckpointError: the file cannot be read, is something else, its mapper has other sizes, or it was trained for
            another text encoder or with other learned parts.
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
    for name, own in _trained_with(parts).items():
        if (found := file.metadata.get(name)) != own:
            raise CheckpointError(
                f"The mapper in {path} was trained {_OTHERS[name]} than this GILL model ({_short(found)} instead of "
                f"{_short(own)}). Take both of one version."
            )
    due = _mapper_of(parts)
    check_part("GILL mapper", file.infos, {name: tuple(v.shape) for name, v in due.items()}, [path], "single file")
    found = {f"{_MAPPER}{name}": value.float() for name, value in file.load(list(due)).items()}
    if wrong := [name for name, value in found.items() if not bool(torch.isfinite(value).all())]:
        raise CheckpointError(
            f"The weight {wrong[0]} in {path} holds NaN or infinite numbers. Download the file again."
        )
    return LearnedParts.from_tensors(parts.config, parts.state_dict() | found)


def _mapper_of(parts: LearnedParts) -> dict[str, Tensor]:
    own = parts.state_dict().items()
    return {name.removeprefix(_MAPPER): value for name, value in own if name.startswith(_MAPPER)}


def _trained_with(parts: LearnedParts) -> dict[str, str]:
    """Names of the text encoder that a mapper imitates and of the eight rows that it reads, which any other training
    changes; the same whether the parts are stored in float32 or float16."""
    rows = parts.rows.detach().to("cpu", torch.float16).contiguous()
    return {"text_encoder": parts.config.text_encoder, "image_tokens": fingerprint_of({"rows": rows})}


_OTHERS = {"text_encoder": "for another text encoder", "image_tokens": "with other rows of [IMG0] to [IMG7]"}


def _short(fingerprint: str | None) -> str:
    return "it names none" if fingerprint is None else fingerprint[:8] or "Stable Diffusion 1.5's"
