"""What a run says while it goes: a line now and then, `losses.jsonl`, TensorBoard scalars and pictures."""

from __future__ import annotations

import io
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SubjectError
from ..files import write_whole

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run stands, as its checkpoints hold it.

    Attributes:
        step: optimiser steps made.
        samples: in the data that they were drawn from.
        sums, summed: losses added up since the last line of the log, and over how many steps.
    """

    step: int = 0
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0

    def add(self, losses: dict[str, float]) -> None:
        """Take in the losses of a step."""
        self.step += 1
        self.summed += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss

    def take_means(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: total / self.summed for name, total in self.sums.items()}
        self.sums, self.summed = {}, 0
        return means


class RunLog:
    """Writes down how a run goes. One process of a run has one.

    Args:
        folder: of the run; `losses.jsonl` in it loses what is later than `step`.
    """

    def __init__(self, folder: Path, step: int, steps: int, batch: int, tensorboard: bool):
        self._folder, self._steps, self._batch = folder, steps, batch
        self._lines = folder / "losses.jsonl"
        _cut(self._lines, step)
        self._board = _open_board(folder, step) if tensorboard else None
        self._since, self._from = time.monotonic(), step

    def note(self, step: int, means: dict[str, float], rate: float) -> None:
        """A line for people, one for programs, and scalars."""
        now = time.monotonic()
        seconds = max(1e-9, now - self._since)
        speed = (step - self._from) / seconds
        self._since, self._from = now, step
        losses = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        left = _clock((self._steps - step) / max(speed, 1e-9))
        log.info("step %d of %d: %s, %.1f samples/s, %s left", step, self._steps, losses, speed * self._batch, left)
        record = {"step": step, **means, "learning_rate": rate, "samples_per_second": round(speed * self._batch, 2)}
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)

    def show(self, step: int, grid: np.ndarray) -> None:
        """Keep a grid of pictures, uint8 `[H, W, 3]`, as `samples/step_....png`."""
        path = self._folder / "samples" / f"step_{step:08d}.png"
        buffer = io.BytesIO()
        Image.fromarray(grid).save(buffer, "PNG")
        write_whole(path, buffer.getvalue())
        if self._board:
            self._board.add_image("samples", grid, step, dataformats="HWC")
        log.info("Pictures of step %d: %s", step, path)

    def close(self) -> None:
        """Flush what is written."""
        if self._board:
            self._board.close()


def read_losses(folder: Path) -> list[dict]:
    """The lines of a run's `losses.jsonl`; a last line that was cut off is left out."""
    path = folder / "losses.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _cut(path: Path, step: int) -> None:
    kept = (json.dumps(record) + "\n" for record in read_losses(path.parent) if record["step"] <= step)
    write_whole(path, "".join(kept).encode())


def _open_board(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SubjectError(
            "TensorBoard is not installed. Install it with `pip install tensorboard`, or set tensorboard: false."
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
