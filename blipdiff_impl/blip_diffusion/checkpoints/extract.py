"""What a model learned, for ComfyUI's Load LoRA: how its UNet and text encoder differ from the stock ones.

Put on another Stable Diffusion 1.5 checkpoint, it carries over that subjects are understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, SubjectError
from ...training.lora import decompose
from ...weights.writing import write_tensors
from ..stored_weights import exact_changes, store_factors
from ..subject_file import weight_name
from .checkpoint import Checkpoint
from .opening import open_base, open_checkpoint

MOST_RANK = 1024
PARTS = ("unet", "text_encoder")
_WHOLE = {"weight": "diff", "bias": "diff_b"}
_ROUNDING = 1e-6  # of shares
_LAYERS = "text_model.encoder.layers."


@dataclass(frozen=True)
class Extracted:
    """What was written.

    Attributes:
        kept: for each part, the share of the change's energy (sum of squares) that the file holds, 0..1.
        of_matrices: the same of those weights alone that have factors, the matrices and convolutions of layers.
        inexact: of a whole difference, the numbers that, added to the base in float32, miss the model's by a rounding:
            the file has room for one difference of a weight, and none leads there (see `exact_changes`).
        rank: of the factors; None where differences are whole.
    """

    kept: dict[str, float]
    of_matrices: dict[str, float]
    inexact: int
    rank: int | None


def extract(
    source: str | Path,
    base: str | Path,
    destination: str | Path,
    rank: int | None = 64,
    overwrite: bool = False,
    energy: float | None = None,
) -> Extracted:
    """Write the difference of a model from its base.

    Args:
        source: a model of any layout.
        base: stock Stable Diffusion 1.5, as a diffusers folder, as one file in LDM names, or as a file of this pack.
        rank: of the factors of each matrix; biases, norms and embeddings are left out. None writes every difference in
            float32.
        energy: takes the place of `rank`: the smallest rank with which the matrices of each part keep this share of
            their change, 0..1. What has no factors does not count: it is left out at any rank.

    Raises:
        CheckpointError: a part is missing in either, or of another size, or nothing differs.
        SubjectError: no rank keeps this share.
    """
    model = open_checkpoint(source)
    stock = open_base(base, model.config)
    for part in PARTS:
        model.check(part)
        _require_part(stock, part, model)
    found, tensors = _extracted(model, stock, rank) if energy is None else _keeping(model, stock, energy)
    if not tensors:
        raise CheckpointError(f"{source} and {base} hold the same UNet and text encoder: there is nothing to extract.")
    write_tensors(Path(destination), tensors, {"format": "pt"}, overwrite)
    return found


def _extracted(model: Checkpoint, stock: Checkpoint, rank: int | None) -> tuple[Extracted, dict[str, Tensor]]:
    """What is kept, and the tensors for the file."""
    tensors: dict[str, Tensor] = {}
    kept, of_matrices, inexact = {}, {}, 0
    for part in PARTS:
        energy, missed, left_out = 0.0, 0.0, 0.0
        for name, change, missing in _changes(model, stock, part):
            energy += _energy(change)
            if rank is None:
                inexact += int(missing.count_nonzero())
                tensors[_whole_name(part, name)] = change
                continue
            if not _has_factors(part, name, change):
                left_out += _energy(change)
                continue
            stored, lost = _low_rank(part, name, change, rank)
            tensors |= stored
            missed += lost
        kept[part] = 1 - (missed + left_out) / energy if energy else 1.0
        of_matrices[part] = 1 - missed / (energy - left_out) if energy > left_out else 1.0
    return Extracted(kept, of_matrices, inexact, rank), tensors


def _keeping(model: Checkpoint, stock: Checkpoint, energy: float) -> tuple[Extracted, dict[str, Tensor]]:
    """As `_extracted`, with the smallest rank that keeps this share of the matrices of each part."""
    least = max(_least_rank(model, stock, part, energy) for part in PARTS)
    for rank in range(least, MOST_RANK):
        found, tensors = _extracted(model, stock, rank)
        # The factors are found by random projections, which lose a little more than the best ones.
        if min(found.of_matrices.values()) >= energy - _ROUNDING:
            return found, tensors
    return _extracted(model, stock, MOST_RANK)


def _changes(model: Checkpoint, stock: Checkpoint, part: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name of each weight that differs, and its two changes (see `exact_changes`)."""
    before = stock.part(part)
    for name, weight in model.part(part).items():
        change, missing = exact_changes(weight.float(), before[name].float())
        if change.any():
            yield name, change, missing


def _least_rank(model: Checkpoint, stock: Checkpoint, part: str, share: float) -> int:
    """The smallest rank of the best factors that keep this share of the change of a part's matrices."""
    energy, by_rank = 0.0, torch.zeros(MOST_RANK, dtype=torch.float64)
    for name, change, _ in _changes(model, stock, part):
        if _has_factors(part, name, change):
            energy += _energy(change)
            matrix = change.flatten(1).double()
            narrow = matrix if len(matrix) <= matrix.shape[1] else matrix.T
            values = torch.linalg.eigvalsh(narrow @ narrow.T).flip(0)[:MOST_RANK]  # squares of the singular values
            by_rank[: len(values)] += values
    if not energy:
        return 1
    kept = by_rank.cumsum(0) / energy
    if kept[-1] < share - _ROUNDING:
        raise SubjectError(
            f"energy = {share:g} cannot be reached: rank {MOST_RANK}, the highest, keeps {kept[-1]:.4f} of the change "
            f"of the {part.replace('_', ' ')}'s matrices. Choose less, or write the whole differences with --full."
        )
    return int((kept < share - _ROUNDING).sum()) + 1


def _require_part(stock: Checkpoint, part: str, model: Checkpoint) -> None:
    if not stock.has(part):
        raise CheckpointError(
            f"{stock.path} has no {part.replace('_', ' ')} to compare with. Give stock Stable Diffusion 1.5 whole, "
            "as one file or as a diffusers folder."
        )
    stock.check(part)
    if getattr(stock.config, part) != getattr(model.config, part):
        raise CheckpointError(
            f"The {part.replace('_', ' ')} of {stock.path} is of another size than that of {model.path}. Give the "
            "model that it was trained from."
        )


def _low_rank(part: str, name: str, change: Tensor, rank: int) -> tuple[dict[str, Tensor], float]:
    """Factors of a change, and the energy that they lose."""
    matrix = change.flatten(1)
    up, down = decompose(matrix, min(rank, *matrix.shape))
    stored = store_factors(name, up, down, change.shape, float(len(down)))
    if part == "text_encoder":
        stored = {f"lora_te_{key.removeprefix('lora_unet_')}": tensor for key, tensor in stored.items()}
    return stored, _energy(matrix - up @ down)


def _has_factors(part: str, name: str, change: Tensor) -> bool:
    """Whether the host's loader takes factors of this weight: a matrix or convolution of a layer."""
    return change.ndim >= 2 and (part == "unet" or name.startswith(_LAYERS))


def _energy(change: Tensor) -> float:
    return float(change.double().square().sum())


def _whole_name(part: str, name: str) -> str:
    module, _, kind = name.rpartition(".")
    named = weight_name(module) if part == "unet" else f"text_encoders.clip_l.transformer.{module}"
    return f"{named}.{_WHOLE[kind]}"
