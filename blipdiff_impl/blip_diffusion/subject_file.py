"""One `.safetensors` file with a subject: its vectors, and the weights that were tuned for it where there are any.

The tensors carry names that ComfyUI's own nodes look for, so that they can use the file without this pack:

- vectors alone: `clip_l` `[tokens, W]`, a textual inversion embedding (`embedding:name` in a prompt);
- vectors and weights: `bundle_emb.NAME.clip_l`, an embedding bundled with a LoRA, and the weights as LoRA files name
  them (`lora_unet_*`): the embedding loader and the LoRA loader each take their part.

An embedding is one subject. In a file of several it is the first; the others lie under `further_subjects`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SubjectError, shown
from ..prompts.rows import ROW_POSITIONS
from ..version import VERSION
from ..weights.safetensors_file import SafetensorsFile, require_version
from ..weights.tensor_file import refuse_wrong_content
from ..weights.writing import write_tensors
from .cover import cover_metadata, read_cover
from .subject import Subject

FORMAT = "blipdiffusion_subject"
FORMAT_VERSION = "1"

_ALONE = "clip_l"
_BUNDLED = re.compile(r"bundle_emb\..+\.clip_l", re.DOTALL)
_FURTHER = "further_subjects"
_WEIGHT = re.compile(r"(lora_unet_\w+)\.(lora_up\.weight|lora_down\.weight|alpha|diff|diff_b)")
_LONGEST_TEXT = 10_000  # letters; texts of the file go into prompts and sentences
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """What tuning changed in a UNet, as LoRA files name it; see `weight_name`.

    Attributes:
        tensors: `NAME.lora_up.weight` `[out, rank, ...]`, `NAME.lora_down.weight` `[rank, in, ...]` and `NAME.alpha`
            for a change of low rank (up @ down * alpha / rank); `NAME.diff` and `NAME.diff_b` for a whole change of
            a weight or of its bias.
        steps: how many steps of tuning made them.
        method: "full" or "lora".
        base_fingerprint: see `base_fingerprint.base_fingerprint`; empty where the UNet is unknown.
    """

    tensors: Mapping[str, Tensor]
    steps: int
    method: str
    base_fingerprint: str


@dataclass(frozen=True, eq=False)
class SavedSubject:
    """What a file holds. `date` is UTC in ISO 8601; `pack_version` is that of the pack that wrote it; `picture` is
    `[1, H, W, 3]` in 0..1, None where the file has none."""

    subject: Subject
    tuned: TunedWeights | None
    date: str
    pack_version: str
    picture: Tensor | None = None


def weight_name(canonical: str) -> str:
    """Name in the file for a module of the UNet: `down_blocks.0.resnets.0.conv1` -> `lora_unet_down_blocks_0_...`."""
    return "lora_unet_" + canonical.replace(".", "_")


def write_subject(
    path: str | Path,
    subject: Subject,
    tuned: TunedWeights | None = None,
    overwrite: bool = False,
    picture: Tensor | None = None,
) -> None:
    """Write a subject, alone or with its weights; the file appears under its name when it is complete.

    Args:
        picture: `[N, H, W, C]` in 0..1; a small copy of the first is kept in the file.

    Raises:
        SubjectError: the file exists, its name does not end in .safetensors, a weight is not finite, the picture is
            none, the disk is full.
    """
    path = Path(path)
    first = _ALONE if tuned is None else f"bundle_emb.{path.stem}.clip_l"
    tensors = {first: subject.embeddings[0]}
    if len(subject) > 1:
        tensors[_FURTHER] = subject.embeddings[1:]
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "category": subject.category,
        "encoder_fingerprint": subject.encoder_fingerprint,
        "source": subject.source,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pack_version": VERSION,
    }
    if tuned is not None:
        tensors |= tuned.tensors
        metadata |= {"steps": str(tuned.steps), "method": tuned.method, "base_fingerprint": tuned.base_fingerprint}
    if picture is not None:
        metadata |= cover_metadata(picture)
    write_tensors(path, tensors, metadata, overwrite)


def read_subject(path: str | Path) -> SavedSubject:
    """Read a file of `write_subject`; weights stay mapped from the file.

    Raises:
        SubjectError: the file is missing, damaged, of another kind or of a newer version, or holds numbers that are
            not finite.
    """
    path = Path(path)
    refuse_wrong_content(path)
    file = SafetensorsFile(path)
    _require_format(file)
    for name in ("category", "source", "encoder_fingerprint"):
        if len(text := file.metadata.get(name, "")) > _LONGEST_TEXT:
            raise SubjectError(
                f"{path} holds a {name.replace('_', ' ')} of {len(text):,} letters; the file is damaged."
            )
    tensors = file.load(list(file.infos))
    subject = Subject(
        _take_vectors(path, tensors),
        file.metadata.get("category", ""),
        file.metadata.get("encoder_fingerprint", ""),
        file.metadata.get("source", ""),
    )
    tuned = _tuned(path, tensors, file.metadata) if tensors else None
    date, version = file.metadata.get("date", ""), file.metadata.get("pack_version", "")
    return SavedSubject(subject, tuned, date, version, read_cover(file.metadata))


def _require_format(file: SafetensorsFile) -> None:
    if file.metadata.get("format") != FORMAT:
        raise SubjectError(
            f"{file.path} is not a subject saved by this pack, but another .safetensors file. Embeddings, LoRAs and "
            "checkpoints are loaded by other nodes."
        )
    require_version(file, FORMAT_VERSION, "save the subject again", SubjectError)


def _take_vectors(path: Path, tensors: dict[str, Tensor]) -> Tensor:
    """`[N, tokens, W]`; removes them from `tensors`."""
    names = [name for name in tensors if name == _ALONE or _BUNDLED.fullmatch(name)]
    if len(names) != 1:
        raise SubjectError(f"{path} should hold the vectors of one subject first, but it holds {len(names)}.")
    first, further = tensors.pop(names[0]), tensors.pop(_FURTHER, None)
    parts = [first[None]] if further is None else [first[None], further]
    shapes = [tuple(part.shape) for part in parts]
    fitting = all(len(shape) == 3 and shape[1:] == shapes[0][1:] for shape in shapes)
    if not fitting or any(part.dtype not in _FLOATS for part in parts):
        raise SubjectError(
            f"The subjects in {path} do not fit together: vectors [subjects, tokens, width] of {shapes} and types "
            f"{[str(part.dtype) for part in parts]}. The file was changed; save the subject again."
        )
    if first.shape[0] > ROW_POSITIONS:
        raise SubjectError(
            f"The subject in {path} has {first.shape[0]} vectors, but a prompt has room for {ROW_POSITIONS}."
        )
    return torch.cat([part.float() for part in parts])


def _tuned(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> TunedWeights:
    for name, tensor in tensors.items():
        _require_weight(path, name, tensor, tensors)
    steps = metadata.get("steps", "")
    if not re.fullmatch(r"[0-9]{1,9}", steps):
        raise SubjectError(f"{path} should say how many steps of tuning made its weights, but says {shown(steps)}.")
    return TunedWeights(tensors, int(steps), metadata.get("method", ""), metadata.get("base_fingerprint", ""))


def _require_weight(path: Path, name: str, tensor: Tensor, tensors: dict[str, Tensor]) -> None:
    """Names the loaders would pass over in silence, halves of a pair and NaN are refused."""
    known = _WEIGHT.fullmatch(name)
    if not known or tensor.dtype not in _FLOATS:
        raise SubjectError(
            f"{path} holds {shown(name)} ({tensor.dtype}), which is neither a subject nor a tuned weight."
        )
    if not torch.isfinite(tensor).all():
        raise SubjectError(f"The weight {name[:100]} in {path} holds NaN or infinite numbers; the file is damaged.")
    module, kind = known.groups()
    if kind in ("lora_up.weight", "lora_down.weight", "alpha") and not _is_pair(module, tensors):
        raise SubjectError(f"The weight {name[:100]} in {path} has no fitting counterpart; the file is incomplete.")


def _is_pair(module: str, tensors: dict[str, Tensor]) -> bool:
    up, down, alpha = (tensors.get(f"{module}.{kind}") for kind in ("lora_up.weight", "lora_down.weight", "alpha"))
    if up is None or down is None or up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0]:
        return False
    rank = down.shape[0]
    return rank > 0 and math.prod(up.shape[1:]) == rank and (alpha is None or alpha.numel() == 1)
