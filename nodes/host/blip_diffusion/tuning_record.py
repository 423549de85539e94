"""Which of a MODEL's patches are a subject's own, so that saving finds them among stacked LoRAs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_ATTACHMENT = "blipdiffusion_tuning"


@dataclass(frozen=True, eq=False)
class TuningRecord:
    """Weights that were learned for a subject, as added to a MODEL with strength 1.

    Attributes:
        patches: name of a weight in the host's model -> patch, exactly as given to `ModelPatcher.add_patches`.
        steps: how many steps of tuning made them.
        method: "full" or "lora".
        base_fingerprint: identifies the weights that the patches were learned on, see `tuned_weights`.
        earlier: what the MODEL had learned before; set by `attach_tuning`.
    """

    patches: Mapping[str, Any]
    steps: int
    method: str
    base_fingerprint: str
    earlier: TuningRecord | None = None


def attach_tuning(model, record: TuningRecord) -> None:
    """Remember a record on a MODEL (a clone of the maker's own); its later clones carry it along."""
    model.set_attachments(_ATTACHMENT, replace(record, earlier=tuning_of(model)))


def tuning_of(model) -> TuningRecord | None:
    """The record on a MODEL, or None where it carries no tuning."""
    return model.get_attachment(_ATTACHMENT)
