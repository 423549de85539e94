"""What an artist sees while a subject is learned: bar, loss, time, and a picture of how it looks by now."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.utils
import numpy as np
from PIL import Image
from torch import Tensor

from .....blipdiff_impl.blip_diffusion.finetuning.curve import beside_curve
from .....blipdiff_impl.pictures.pixels import to_pillow
from ...notices import say_on_node, told
from ...session import stop_if_asked

_TEXT_SECONDS = 0.25  # between two lines of text; more often the browser cannot show them
_PICTURE_SIDE = 512
_MEAN_OF = 10


class Watch:
    """Called after every step; raises the host's interruption when the artist cancels.

    Args:
        total: steps.
        node_id: of the node that runs, for the text; None outside of a prompt.
        picture: draws the preview, a tensor `[1, H, W, 3]` in 0..1.
        every: steps between two previews; 0 for none.
        keeps: whether what was learned is kept on cancel, which the text then says.
    """

    def __init__(self, total: int, node_id: str | None, picture: Callable[[], Tensor], every: int, keeps: bool = False):
        self._total, self._node_id, self._keeps = total, node_id, keeps
        self._picture, self._every = picture, every
        self._bar = comfy.utils.ProgressBar(total)
        self._told, self._began = 0.0, time.monotonic()
        self._drawn: tuple[int, Image.Image] | None = None  # the last preview, and its step

    def __call__(self, done: int, losses: list[float]) -> None:
        stop_if_asked()
        self._bar.update_absolute(done, self._total, self._preview(done))
        now = time.monotonic()
        if losses and (now - self._told > _TEXT_SECONDS or done == self._total):
            self._told = now
            say_on_node("\n".join([*told(), self._line(done, losses, now - self._began)]), self._node_id)

    def summary(self, losses: list[float], note: str) -> Image.Image | None:
        """The subject as it was learned beside the curve, shown as the last preview too; None without previews."""
        if not self._every or not losses:
            return None
        if self._drawn is None or self._drawn[0] != len(losses):
            self._drawn = len(losses), to_pillow(self._picture()[0])
        shown = beside_curve(self._drawn[1], losses, note)
        self._bar.update_absolute(self._total, self._total, ("JPEG", shown, shown.width))
        return shown

    def _line(self, done: int, losses: list[float], seconds: float) -> str:
        line = f"step {done} of {self._total}, loss {np.mean(losses[-_MEAN_OF:]):.4f}"
        if done == self._total:
            return f"{line}, took {_duration(seconds)}"
        line = f"{line}, {_duration(seconds * (self._total - done) / done)} left"
        return f"{line}\nCancel keeps what was learned so far." if self._keeps else line

    def _preview(self, done: int) -> tuple | None:
        if not self._every or done == 0 or done % self._every:
            return None
        self._drawn = done, to_pillow(self._picture()[0])
        return "JPEG", self._drawn[1], _PICTURE_SIDE


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
