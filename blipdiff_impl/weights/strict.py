"""Strict comparison of what a part should hold with what was found, and the sentence that names the difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError, first_few
from .shapes import Shapes
from .tensor_file import TensorInfo

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_part(part: str, found: Mapping[str, TensorInfo], expected: Shapes, files: list[Path], layout: str) -> None:
    """Compare a part's tensors with the expected names and shapes; axes of length one carry no meaning.

    Raises:
        CheckpointError: naming the first tensors that are missing, unexpected, misshapen or of a wrong type.
    """
    missing = [f"{name} ({_size(shape)})" for name, shape in expected.items() if name not in found]
    extra = [name for name in found if name not in expected]
    shared = [name for name in expected if name in found]
    misshapen = [
        f"{name} (found {_size(found[name].shape)}, expected {_size(expected[name])})"
        for name in shared
        if _without_ones(found[name].shape) != _without_ones(expected[name])
    ]
    mistyped = [
        f"{name} ({str(found[name].dtype).removeprefix('torch.')})"
        for name in shared
        if found[name].dtype not in WEIGHT_DTYPES
    ]
    faults = [
        _fault(len(missing), "missing", missing),
        _fault(len(extra), "unexpected", extra),
        _fault(len(misshapen), "of another shape", misshapen),
        _fault(len(mistyped), "not float32, float16 or bfloat16", mistyped),
    ]
    if any(faults):
        where = ", ".join(map(str, files))
        raise CheckpointError(
            f"The {part.replace('_', ' ')} in {where} does not fit: {'; '.join(filter(None, faults))}. "
            f"{_cure(bool(misshapen), bool(missing), layout)}"
        )


def _fault(count: int, kind: str, names: list[str]) -> str:
    return f"{count} tensor{'s are' if count > 1 else ' is'} {kind}: {first_few(names)}" if count else ""


def _cure(misshapen: bool, missing: bool, layout: str) -> str:
    if misshapen and layout == "diffusers folder":
        return "Check that each config.json belongs to the weights beside it."
    if misshapen:
        return "The file belongs to a model of another size."
    if missing and layout == "state dict":
        return (
            "A fine-tuned file holds only what was trained. Choose as base_model the checkpoint it was made from, and "
            "the rest is taken from there; if this is one already, the two do not belong together."
        )
    if missing and layout == "LDM file":
        return (
            "The file is incomplete, or of another size than the model that is compared with it: give the one that the "
            "model was trained from."
        )
    if missing:
        return "The file is incomplete or of another kind of model: download it again."
    return "The file is of another kind of model, or was saved with additions that this pack does not know."


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
