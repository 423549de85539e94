"""Draw what the Registry shows beside the pack's name: docs/brand/icon.png and docs/brand/banner.png.

    python -m tools.make_brand

A subject of the toy world and the sixteen vectors that it becomes, coloured like it.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from blipdiff_impl.toy_world.render import render_subject
from blipdiff_impl.toy_world.world import Look, ToySubject
from tools.places import ROOT
from tools.problems import run_command

FOLDER = ROOT / "docs" / "brand"
ICON, BANNER = 400, (1260, 540)  # the Registry asks for at most 400x400, and for 21:9
MUG = ToySubject("mug", Look((236, 112, 74), (250, 236, 214), (70, 166, 160), "stripes", 0))
GROUND = (38, 42, 58), (66, 74, 104)  # top and bottom
VECTORS = 16


def main():
    """Draw both."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in (("icon", draw_icon()), ("banner", draw_banner())):
        path = FOLDER / f"{name}.png"
        picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path.relative_to(ROOT)}: {picture.width}x{picture.height}")


def draw_icon():
    """The mug within a ring of sixteen vectors."""
    picture = _ground((ICON, ICON))
    angles = np.arange(VECTORS) * 2 * np.pi / VECTORS
    ring = [(ICON / 2 + 168 * np.sin(angle), ICON / 2 - 168 * np.cos(angle)) for angle in angles]
    return _with_mug(_with_vectors(picture, ring, 17), (ICON // 2, ICON // 2), 220)


def draw_banner():
    """The mug, its vectors as words of a line, and the pack's name."""
    picture = _ground(BANNER)
    places = [(560 + 82 * column, 346 + 74 * row) for row in range(2) for column in range(VECTORS // 2)]
    picture = _with_mug(_with_vectors(picture, places, 22), (290, 270), 400)
    pen = ImageDraw.Draw(picture)
    pen.text((530, 118), "BLIP-Diffusion", font=ImageFont.load_default(92), fill="white")
    pen.text((534, 226), "Subjects", font=ImageFont.load_default(64), fill=MUG.look.second)
    return picture


def _ground(size):
    top, bottom = (np.array(colour, dtype=float) for colour in GROUND)
    rows = top + (bottom - top) * np.linspace(0, 1, size[1])[:, None]
    return Image.fromarray(np.repeat(rows.round().astype(np.uint8)[:, None], size[0], axis=1))


def _with_vectors(picture, places, radius):
    colours = (MUG.look.main, MUG.look.second, MUG.look.accent, MUG.look.second)
    layer = Image.new("RGB", (picture.width * 3, picture.height * 3))
    layer.paste(picture.resize(layer.size))
    pen = ImageDraw.Draw(layer)
    for number, place in enumerate(places):
        x, y = (3 * value for value in place)
        pen.ellipse((x - 3 * radius, y - 3 * radius, x + 3 * radius, y + 3 * radius), colours[number % len(colours)])
    return layer.reduce(3)


def _with_mug(picture, middle, side):
    mug = render_subject(MUG, side)
    corner = middle[0] - side // 2, middle[1] - side // 2
    shadow = mug.getchannel("A").filter(ImageFilter.GaussianBlur(12)).point(lambda value: value // 2)
    picture.paste((16, 18, 28), (corner[0], corner[1] + 14), shadow)
    picture.paste(mug, corner, mug)
    return picture


if __name__ == "__main__":
    run_command(main)
