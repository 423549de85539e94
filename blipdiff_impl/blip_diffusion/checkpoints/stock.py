"""Does a checkpoint hold the stock Stable Diffusion 1.5 UNet or text encoder in place of the trained ones?

BLIP-Diffusion trained both; a widely used converter put the stock ones back (docs/method.md 8.2), and a subject then
hardly shows. Stock weights are told by three signs, each with its limit:

1. The SHA-256 of a published file: certain, but saving the weights again changes it.
2. A published sum over the weights: survives saving again and 16-bit floats, not bfloat16. Other weights meet it by
   accident about once in a few thousand models.
3. Comparison with a stock file that the user names: certain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...weights.opening import open_tensor_file
from ...weights.tensor_file import TensorFile
from ..config import RELEASED
from .checkpoint import Checkpoint
from .opening import open_checkpoint

# Size in bytes and SHA-256 of the files in the published repository stable-diffusion-v1-5/stable-diffusion-v1-5,
# revision 451f4fe16113bff5a5d2269ed5ad43b0592e9a14 (its large files are listed there under their SHA-256).
STOCK_FILES: dict[str, dict[int, str]] = {
    "unet": {
        3438354725: "c7da0e21ba7ea50637bee26e81c220844defdf01aafca02b2c42ecdadb813de4",  # .bin
        3438167540: "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",  # .safetensors
        3438366373: "42bc8b8f3af32866db3c7bb5bcf591ab04438296c2712246d7a640bde5a5ddc1",  # .non_ema.bin
        1719327893: "30eb3dc47c90e4a55476332b284b2331774c530edbbb83b70cacdd9e7b91af92",  # .fp16.bin
        1719125304: "c83908253f9a64d08c25fc90874c9c8aef9a329ce1ca5fb909d73b0c83d1ea21",  # .fp16.safetensors
    },
    "text_encoder": {
        492305335: "770a47a9ffdcfda0b05506a7888ed714d06131d60267e6cf52765d61cf59fd67",  # .bin
        492265874: "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334",  # .safetensors
        246187076: "05eee911f195625deeab86f0b22b115d7d8bc3adbfc1404f03557f7e4e6a8fd7",  # .fp16.bin
        246144864: "77795e2023adcf39bc29a884661950380bd093cf0750a966d473d1718dc9ef4e",  # .fp16.safetensors
    },
}


@dataclass(frozen=True)
class WeightSum:
    """The sum of sigmoid(w) - 1/2 over weights rounded to float16, and how near counts as equal.

    Attributes:
        names: only tensors with this text in their names are summed.
        tolerance: relative.
    """

    value: float
    names: str
    tolerance: float


# The numbers to which the "metric" of the tool stable-diffusion-webui-model-toolkit (arenasys) is normalised; its
# author states that the Stable Diffusion v1 checkpoint gives zero. The tool shows four digits of 1e-4 (UNet) and 1e-6
# (text encoder); the tolerance of the latter leaves room for its single-precision accumulation.
STOCK_SUMS: dict[str, WeightSum] = {
    "unet": WeightSum(-6131.5400, "", 1e-4),
    "text_encoder": WeightSum(-2097.8596, ".mlp.", 3e-6),
}

# A few tensors that any training moves: diffusers name, name in a one-file Stable Diffusion checkpoint.
_SAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "unet": (
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("time_embedding.linear_1.weight", "time_embed.0.weight"),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        ),
        ("conv_out.weight", "out.2.weight"),
    ),
    "text_encoder": tuple(
        (f"text_model.{name}", f"text_model.{name}")
        for name in (
            "embeddings.position_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
            "final_layer_norm.weight",
        )
    ),
}
_ONE_FILE_PREFIX = {"unet": "model.diffusion_model.", "text_encoder": "cond_stage_model.transformer."}


def stock_warnings(
    checkpoint: Checkpoint,
    files: Mapping[str, Mapping[int, str]] = STOCK_FILES,
    sums: Mapping[str, WeightSum] = STOCK_SUMS,
) -> list[str]:
    """A sentence for each part that is stock by its file's hash or by the sum of its weights.

    Reads every weight of the UNet and the text encoder, which takes seconds at released size: done when a checkpoint
    is converted or inspected, not when it is opened.
    """
    warnings = []
    for part in sums:
        if not checkpoint.has(part):
            continue
        if _has_known_hash(checkpoint, part, files.get(part, {})):
            warnings.append(_sentence(part, "its file is the published one"))
        elif _is_released_size(checkpoint, part) and _near(weight_sum(checkpoint.part(part), sums[part]), sums[part]):
            warnings.append(_sentence(part, "the sum of its weights is the published one"))
    return warnings


def warnings_against(checkpoint: Checkpoint, stock: str | Path) -> list[str]:
    """A sentence for each part that equals the one in a stock file or folder that the user names.

    Raises:
        CheckpointError: `stock` holds neither a UNet nor a text encoder of Stable Diffusion 1.5.
    """
    reference = Path(stock)
    warnings, compared = [], False
    for part in _SAMPLES:
        theirs = _stock_samples(reference, part)
        if theirs and checkpoint.has(part):
            compared = True
            ours = checkpoint.part(part)
            if all(_equal(ours[name], tensor) for name, tensor in theirs.items()):
                warnings.append(_sentence(part, f"it equals the one in {reference}"))
    if not compared:
        raise CheckpointError(
            f"{reference} cannot be compared: it should hold the UNet or the text encoder of Stable Diffusion 1.5, as "
            "a diffusers folder or as one checkpoint file."
        )
    return warnings


def weight_sum(part: Mapping[str, torch.Tensor], kind: WeightSum) -> float:
    """The sum that `WeightSum` describes."""
    chosen = (tensor for name, tensor in part.items() if kind.names in name)
    return sum(float((tensor.half().float().sigmoid() - 0.5).sum(dtype=torch.float64)) for tensor in chosen)


def _near(value: float, kind: WeightSum) -> bool:
    return abs(value - kind.value) <= kind.tolerance * abs(kind.value)


def _is_released_size(checkpoint: Checkpoint, part: str) -> bool:
    return getattr(checkpoint.config, part) == getattr(RELEASED, part)


def _has_known_hash(checkpoint: Checkpoint, part: str, known: Mapping[int, str]) -> bool:
    """Only a file of exactly a published size is read."""
    paths = {stored.file.path for stored in checkpoint.parts[part].tensors.values()}
    return any((size := path.stat().st_size) in known and _file_hash(path) == known[size] for path in paths)


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _stock_samples(reference: Path, part: str) -> dict[str, torch.Tensor]:
    """The sample tensors of a part under diffusers names; empty where the reference lacks any of them."""
    if reference.is_dir():
        stored = open_checkpoint(reference).parts[part].tensors
        found = {name: stored[name] for name, _ in _SAMPLES[part] if name in stored}
        samples = {name: tensor.file.load([tensor.name])[tensor.name] for name, tensor in found.items()}
    else:
        file = open_tensor_file(reference)
        names = {name: _stored_name(file, part, name, other) for name, other in _SAMPLES[part]}
        samples = {name: file.load([stored])[stored] for name, stored in names.items() if stored}
    return samples if len(samples) == len(_SAMPLES[part]) else {}


def _stored_name(file: TensorFile, part: str, name: str, one_file_name: str) -> str | None:
    candidates = (name, f"{part}.{name}", _ONE_FILE_PREFIX[part] + one_file_name)
    return next((candidate for candidate in candidates if candidate in file.infos), None)


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal after rounding to the narrower of the two types."""
    for dtype in (torch.float16, torch.bfloat16):
        if dtype in (ours.dtype, theirs.dtype):
            ours, theirs = ours.to(dtype), theirs.to(dtype)
    return ours.shape == theirs.shape and torch.equal(ours, theirs)


def _sentence(part: str, reason: str) -> str:
    name = {"unet": "UNet", "text_encoder": "text encoder"}[part]
    return (
        f"The {name} is that of stock Stable Diffusion 1.5 ({reason}), not the one trained with BLIP-Diffusion: "
        "subjects will hardly be recognised. Use a checkpoint whose UNet and text encoder come from the original "
        "release."
    )
