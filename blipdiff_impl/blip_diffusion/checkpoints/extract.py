"""What a model learned, for ComfyUI's Load LoRA: how its UNet and text encoder differ from the stock ones.

Put on another Stable Diffusion 1.5 checkpoint, it carries over that subjects are understood.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from ...training.lora import decompose
from ...weights.writing import write_tensors
from ..stored_weights import exact_changes, store_factors
from ..subject_file import weight_name
from .checkpoint import Checkpoint
from .opening import open_checkpoint

PARTS = ("unet", "text_encoder")
_WHOLE = {"weight": "diff", "bias": "diff_b"}
_LAYERS = "text_model.encoder.layers."


@dataclass(frozen=True)
class Extracted:
    """What was written.

    Attributes:
        kept: for each part, the share of the change's energy (sum of squares) that the file holds, 0..1.
        inexact: of a whole difference, the numbers that, added to the base in float32, miss the model's by a rounding:
            the file has room for one difference of a weight, and none leads there (see `exact_changes`).
    """

    kept: dict[str, float]
    inexact: int


def extract(
    source: str | Path,
    base: str | Path,
    destination: str | Path,
    rank: int | None = 64,
    overwrite: bool = False,
) -> Extracted:
    """Write the difference of a model from its base.

    Args:
        source: a model of any layout.
        base: stock Stable Diffusion 1.5, as a diffusers folder or a file of this pack.
        rank: of the factors of each matrix; biases and norms are left out. None writes every difference in float32.

    Raises:
        CheckpointError: a part is missing in either, or of another size, or nothing differs.
    """
    model, stock = open_checkpoint(source), open_checkpoint(base)
    for part in PARTS:
        model.check(part)
        _require_part(stock, part, model)
    tensors: dict[str, Tensor] = {}
    kept, inexact = {}, 0
    for part in PARTS:
        before, energy, missed = stock.part(part), 0.0, 0.0
        for name, weight in model.part(part).items():
            weight, old = weight.float(), before[name].float()
            change, missing = exact_changes(weight, old)
            if not change.any():
                continue
            energy += float(change.double().square().sum())
            if rank is None:
                inexact += int(missing.count_nonzero())
                tensors[_whole_name(part, name)] = change
                continue
            stored, lost = _low_rank(part, name, change, rank)
            tensors |= stored
            missed += lost
        kept[part] = 1 - missed / energy if energy else 1.0
    if not tensors:
        raise CheckpointError(f"{source} and {base} hold the same UNet and text encoder: there is nothing to extract.")
    write_tensors(Path(destination), tensors, {"format": "pt"}, overwrite)
    return Extracted(kept, inexact)


def _require_part(stock: Checkpoint, part: str, model: Checkpoint) -> None:
    if not stock.has(part):
        raise CheckpointError(
            f"{stock.path} has no {part.replace('_', ' ')} to compare with. Give stock Stable Diffusion 1.5 as a "
            "diffusers folder."
        )
    stock.check(part)
    if getattr(stock.config, part) != getattr(model.config, part):
        raise CheckpointError(
            f"The {part.replace('_', ' ')} of {stock.path} is of another size than that of {model.path}. Give the "
            "model that it was trained from."
        )


def _low_rank(part: str, name: str, change: Tensor, rank: int) -> tuple[dict[str, Tensor], float]:
    """Factors of a change and the energy that they lose: all of it where the weight is no matrix of a layer."""
    whole = float(change.double().square().sum())
    is_layer = part == "unet" or name.startswith(_LAYERS)
    if change.ndim < 2 or not is_layer:
        return {}, whole
    matrix = change.flatten(1)
    up, down = decompose(matrix, min(rank, *matrix.shape))
    stored = store_factors(name, up, down, change.shape, float(len(down)))
    if part == "text_encoder":
        stored = {f"lora_te_{key.removeprefix('lora_unet_')}": tensor for key, tensor in stored.items()}
    return stored, float((matrix - up @ down).double().square().sum())


def _whole_name(part: str, name: str) -> str:
    module, _, kind = name.rpartition(".")
    named = weight_name(module) if part == "unet" else f"text_encoders.clip_l.transformer.{module}"
    return f"{named}.{_WHOLE[kind]}"
