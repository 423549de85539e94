"""One state dict with every module under its own prefix: a LAVIS whole model, or what LAVIS saves when fine-tuning.

A fine-tuned `checkpoint_N.pth` holds the UNet and the cached subject vectors, besides entries of the frozen model
that escaped the filter (docs/method.md 5.3); the optimiser's state in it is never read.
"""

from __future__ import annotations

from ...errors import CheckpointError, first_few
from ...weights.folders import own_vocabulary
from ...weights.kinds import kind_of
from ...weights.renames import Rules, rename
from ...weights.tensor_file import TensorFile
from ..config import ModelConfig
from .checkpoint import Checkpoint, PartTensors, StoredTensor
from .renames import DIFFUSERS, LAVIS_BLIP, LAVIS_UNUSED

VECTORS = "ctx_embeddings_cache"

# Prefix in the file, part, whether the prefix goes, further rules.
_PREFIXES: tuple[tuple[str, str, bool, Rules], ...] = (
    ("blip.", "subject_encoder", True, LAVIS_BLIP),
    ("proj_layer.", "subject_encoder", False, ()),
    ("text_encoder.", "text_encoder", True, DIFFUSERS["text_encoder"]),
    ("unet.", "unet", True, DIFFUSERS["unet"]),
    ("vae.", "vae", True, DIFFUSERS["vae"]),
)
_LEFT_ASIDE = ("controlnet.",)
_FINE_TUNED = (
    "A fine-tuned file holds the UNet and the subject vectors only; take the other parts from the checkpoint it was "
    "made from."
)


def open_state_dict(file: TensorFile, config: ModelConfig) -> Checkpoint:
    """Open a state dict of prefixed modules.

    Raises:
        CheckpointError: no tensor has a known prefix, or some have none.
    """
    parts = {name: PartTensors(missing=_FINE_TUNED) for name in DIFFUSERS}
    unknown, aside = [], set()
    for name in file.infos:
        if name == VECTORS:
            continue
        if left := next((prefix for prefix in _LEFT_ASIDE if name.startswith(prefix)), None):
            aside.add(left)
        elif row := next((row for row in _PREFIXES if name.startswith(row[0])), None):
            prefix, part, goes, rules = row
            canonical = rename(name.removeprefix(prefix) if goes else name, rules)
            parts[part].add_named(file, {name: canonical}, LAVIS_UNUSED)
        else:
            unknown.append(name)
    if unknown or not any(part.tensors for part in parts.values()):
        raise _not_a_model(file, unknown)
    return Checkpoint(
        layout="state dict",
        path=file.path,
        config=config,
        parts=parts,
        word_pieces=own_vocabulary(file.path.parent),
        vectors=StoredTensor(file, VECTORS) if VECTORS in file.infos else None,
        notes=[f"{prefix}* is not part of this method and was left aside." for prefix in sorted(aside)],
    )


def _not_a_model(file: TensorFile, unknown: list[str]) -> CheckpointError:
    prefixes = ", ".join(row[0] for row in _PREFIXES)
    kind = kind_of(unknown)
    return CheckpointError(
        f"{file.path} is no BLIP-Diffusion checkpoint of one file: its tensors should start with {prefixes}, "
        f"but it holds {first_few(unknown) or 'no tensor of these'}. {f'It looks like {kind}. ' if kind else ''}"
        "If it is one component of a checkpoint folder, choose the folder instead."
    )
