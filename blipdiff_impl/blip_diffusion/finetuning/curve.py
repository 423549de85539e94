"""The loss over the steps as a picture, and beside it what was drawn last."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...files import as_tensor

WIDTH, HEIGHT = 640, 320
_SQUARE = 480  # of the curve beside a picture: a node shows both in the width of one
_LETTERS, _LARGE_LETTERS = 18, 38  # pixels
_WINDOW = 10  # steps that the line averages: single losses depend mostly on the timestep that was drawn
_GROUND, _AXIS, _TEXT, _POINT, _LINE, _ALARM = "#1b1b1f", "#5a5a66", "#d0d0d8", "#4f6d8f", "#ffb454", "#ff6b6b"


def draw_curve(losses: list[float], note: str = "") -> Tensor:
    """An IMAGE `[1, 320, 640, 3]` in 0..1: a point per step, and the mean of the last ten as a line.

    Args:
        note: a sentence above the axes, for a run that ended early.
    """
    return as_tensor(_drawn(losses, note, WIDTH, HEIGHT, _LETTERS))[None]


def beside_curve(picture: Image.Image, losses: list[float], note: str = "") -> Image.Image:
    """A picture and the curve, side by side, with letters that can be read where both are as wide as a node."""
    both = Image.new("RGB", (2 * _SQUARE, _SQUARE), _GROUND)
    both.paste(picture.convert("RGB").resize((_SQUARE, _SQUARE)), (0, 0))
    both.paste(_drawn(losses, note, _SQUARE, _SQUARE, _LARGE_LETTERS), (_SQUARE, 0))
    return both


def _drawn(losses: list[float], note: str, width: int, height: int, letters: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), _GROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(letters)
    left, top, right, bottom = letters, int(3.2 * letters), width - letters, height - int(1.8 * letters)
    title = f"loss {_means(losses)[-1]:.4f}" if losses else "no loss"
    draw.text((left, letters // 3), title, fill=_TEXT, font=font)
    if note:
        small = max(12, letters // 2)
        lines = _wrapped(note, lambda text: draw.textlength(text, ImageFont.load_default(small)) <= right - left)
        at = (left, int(1.6 * letters))
        draw.multiline_text(at, lines, fill=_ALARM, font=ImageFont.load_default(small), spacing=small // 4)
        top = max(top, at[1] + int(1.4 * small) * (lines.count("\n") + 1))
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=_AXIS)
    if losses:
        _plot(draw, font, losses, (left, top, right, bottom))
    return picture


def _plot(draw: ImageDraw.ImageDraw, font, losses: list[float], box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    highest = max(losses) * 1.05 or 1.0

    def place(step: int, loss: float) -> tuple[float, float]:
        return left + (right - left) * (step + 0.5) / len(losses), bottom - (bottom - top) * loss / highest

    for step, loss in enumerate(losses):
        x, y = place(step, loss)
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=_POINT)
    draw.line([place(step, mean) for step, mean in enumerate(_means(losses))], fill=_LINE, width=3)
    draw.text((left + 6, top), f"{highest:.3f}", fill=_TEXT, font=font)
    draw.text((left, bottom + 4), "1", fill=_TEXT, font=font)
    draw.text((right, bottom + 4), f"{len(losses)} steps", fill=_TEXT, font=font, anchor="ra")


def _wrapped(note: str, fits: Callable[[str], bool]) -> str:
    """The note in lines that fit; a single word may be too long."""
    lines: list[str] = []
    for word in note.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _means(losses: list[float]) -> list[float]:
    """At each step the mean of the last `_WINDOW` losses."""
    windows = (losses[max(0, end - _WINDOW) : end] for end in range(1, len(losses) + 1))
    return [sum(window) / len(window) for window in windows]
