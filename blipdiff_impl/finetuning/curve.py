"""The loss over the steps as a picture."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH, HEIGHT = 640, 320
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 40, WIDTH - 16, HEIGHT - 36
_WINDOW = 10  # steps that the line averages: single losses depend mostly on the timestep that was drawn
_GROUND, _AXIS, _TEXT, _POINT, _LINE, _ALARM = "#1b1b1f", "#5a5a66", "#d0d0d8", "#4f6d8f", "#ffb454", "#ff6b6b"


def draw_curve(losses: list[float], note: str = "") -> Tensor:
    """An IMAGE `[1, 320, 640, 3]` in 0..1: a point per step, and the mean of the last ten as a line.

    Args:
        note: a sentence across the top, for a run that ended early.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), _GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    draw.line([(_LEFT, _TOP), (_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], fill=_AXIS)
    title = f"loss over {len(losses)} steps" + (f", last ten {_means(losses)[-1]:.4f}" if losses else "")
    draw.text((_LEFT, 8), title, fill=_TEXT, font=font)
    draw.text((_LEFT, 22), note[:95], fill=_ALARM, font=font)
    if losses:
        _plot(draw, font, losses)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, HEIGHT, WIDTH, 3).float() / 255


def _plot(draw: ImageDraw.ImageDraw, font, losses: list[float]) -> None:
    top = max(losses) * 1.05 or 1.0

    def place(step: int, loss: float) -> tuple[float, float]:
        x = _LEFT + (_RIGHT - _LEFT) * (step + 0.5) / len(losses)
        return x, _BOTTOM - (_BOTTOM - _TOP) * loss / top

    for step, loss in enumerate(losses):
        x, y = place(step, loss)
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_POINT)
    draw.line([place(step, mean) for step, mean in enumerate(_means(losses))], fill=_LINE, width=2)
    for value in (0.0, top / 2, top):
        draw.text((8, place(0, value)[1] - 6), f"{value:.4f}", fill=_TEXT, font=font)
    for step in (0, len(losses) - 1):
        draw.text((place(step, 0)[0] - 4, _BOTTOM + 8), str(step + 1), fill=_TEXT, font=font)


def _means(losses: list[float]) -> list[float]:
    """At each step the mean of the last `_WINDOW` losses."""
    windows = (losses[max(0, end - _WINDOW) : end] for end in range(1, len(losses) + 1))
    return [sum(window) / len(window) for window in windows]
