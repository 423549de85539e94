"""Which checkpoint each part of a model comes from: one that is complete, or one and the model it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....blipdiff_impl.blip_diffusion.checkpoints import PARTS, Checkpoint, open_checkpoint
from ....blipdiff_impl.blip_diffusion.checkpoints.stock import stock_warnings
from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.errors import CheckpointError


@dataclass(frozen=True)
class Source:
    """Paths of a checkpoint and of the one for what it lacks; small and hashable, because the host keeps it."""

    path: str
    base: str | None = None

    def open(self) -> OpenedSource:
        """Read the headers.

        Raises:
            CheckpointError: one of the two is missing, unreadable or no checkpoint.
        """
        if self.base is None:
            return OpenedSource(self, open_checkpoint(self.path))
        base = open_checkpoint(self.base)
        # A fine-tuned file does not say its sizes; they are those of its base.
        return OpenedSource(self, open_checkpoint(self.path, base.config), base)


@dataclass(frozen=True)
class OpenedSource:
    """The same, opened."""

    source: Source
    checkpoint: Checkpoint
    base: Checkpoint | None = None

    def holder(self, part: str) -> Checkpoint:
        """The checkpoint that holds a part; one that holds some of its tensors comes with the base's for the rest.

        Raises:
            CheckpointError: neither holds it, or the base is of another size.
        """
        if self.checkpoint.has(part) and (self.base is None or not self.checkpoint.lacking(part)):
            return self.checkpoint
        if self.base is None:
            raise CheckpointError(
                f"{Path(self.source.path).name} has no {_spoken(part)}; it holds only: {self._held()}. Choose as "
                "base_model the checkpoint it was made from; the missing parts are taken from there."
            )
        if self.base.config != self.checkpoint.config:
            raise CheckpointError(
                f"{Path(self.source.path).name} and the base model {Path(self.base.path).name} are of different sizes, "
                f"so the {_spoken(part)} of one does not fit the other. Choose the model it was made from."
            )
        return self.checkpoint.with_base(part, self.base) if self.checkpoint.has(part) else self.base

    def warnings(self) -> list[str]:
        """What the user should know about the weights: above all, whether they are those of plain Stable Diffusion."""
        if self.checkpoint.layout == "single file":  # examined when it was written
            return self.checkpoint.warnings
        return self.checkpoint.warnings + stock_warnings(self.checkpoint)

    def subject(self, encoder_fingerprint: str) -> Subject | None:
        """The subject that the checkpoint was fine-tuned on. Such files do not say what it is: no category."""
        vectors = self.checkpoint.subject_vectors()
        name = Path(self.source.path).name
        return None if vectors is None else Subject(vectors, "", encoder_fingerprint, f"fine-tuned in {name}")

    def _held(self) -> str:
        held = [_spoken(part) for part in PARTS if self.checkpoint.has(part)]
        return ", ".join(held + ["subject vectors"] * (self.checkpoint.vectors is not None)) or "nothing of a model"


def _spoken(part: str) -> str:
    return {"unet": "UNet", "vae": "VAE"}.get(part, part.replace("_", " "))
