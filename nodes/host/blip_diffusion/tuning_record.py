"""Which of a MODEL's patches are a subject's own, so that saving finds them among stacked LoRAs and merged models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..weight_mix import changes_of

_ATTACHMENT = "blipdiffusion_tuning"
# On the first tensor of each patch: merging carries patches from one MODEL to another, but no attachment.
_MARK = "blipdiffusion_tuning"


@dataclass(frozen=True, eq=False)
class TuningRecord:
    """Weights that were learned for a subject, as added to a MODEL with strength 1.

    Attributes:
        patches: name of a weight in the host's model -> patch, exactly as given to `ModelPatcher.add_patches`.
        steps: how many steps of tuning made them.
        method: "full" or "lora".
        base_fingerprint: identifies the weights that the patches were learned on, see `tuned_weights`.
        earlier: what the MODEL had learned before; set by `attach_tuning`.
        before: how many patches each weight had before these; set by `attach_tuning`.
    """

    patches: Mapping[str, Any]
    steps: int
    method: str
    base_fingerprint: str
    earlier: TuningRecord | None = None
    before: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a record says of its patches, without them: kept with each patch, which would keep all others otherwise."""

    steps: int
    method: str
    base_fingerprint: str


def attach_tuning(model, record: TuningRecord) -> None:
    """Remember a record on a MODEL (a clone of the maker's own) that has its patches; later clones carry it along."""
    before = {key: len(entries) - (key in record.patches) for key, entries in model.patches.items()}
    tuning = Tuning(record.steps, record.method, record.base_fingerprint)
    for patch in record.patches.values():
        setattr(changes_of(patch), _MARK, tuning)
    model.set_attachments(_ATTACHMENT, replace(record, earlier=tuning_of(model), before=before))


def tuning_of(model) -> TuningRecord | None:
    """The record on a MODEL, or None where it carries no tuning."""
    return model.get_attachment(_ATTACHMENT)


def tuning_of_patch(patch: Any) -> Tuning | None:
    """The tuning that a patch belongs to, on whatever MODEL it is found; None for those of others."""
    try:
        return getattr(changes_of(patch), _MARK, None)
    except (AttributeError, LookupError, TypeError):  # adapters of other kinds keep their tensors elsewhere
        return None
