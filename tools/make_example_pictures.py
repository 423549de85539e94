"""Draw the photos that the example workflows start from: subjects of the toy world that no model was trained on.

    python -m tools.make_example_pictures

Writes workflows/input/*.png, always the same pixels. The names begin with `blipdiffusion_`, because the pack offers the
files in the input folder of the host, among the user's own.
"""

import numpy as np
from PIL import Image, ImageDraw

from blipdiff_impl.toy_world.backgrounds import render_background
from blipdiff_impl.toy_world.render import LARGE_SIZE, PICTURE_SIZE, place, render_picture, render_subject
from blipdiff_impl.toy_world.world import HELD_OUT_SEED, ToySubject, subject_from_seed
from tools.places import ROOT

FOLDER = ROOT / "workflows" / "input"
SIDE = 256  # the embedded model looks at 64 pixels; this is for people

# file name -> (held-out subject, kind, background, side of the subject in the picture, its left upper corner)
PICTURES = {
    "blipdiffusion_mug": (4, "mug", "table", 176, (42, 52)),
    "blipdiffusion_mug_2": (5, "mug", "carpet", 180, (36, 44)),
    "blipdiffusion_mug_3": (14, "mug", "snow", 184, (44, 40)),
    "blipdiffusion_mug_4": (10, "mug", "road", 176, (38, 50)),
    "blipdiffusion_house": (37, "house", "grass", 186, (36, 46)),
    "blipdiffusion_robot_1": (10, "robot", "carpet", 190, (33, 40)),
    "blipdiffusion_robot_2": (10, "robot", "grass", 160, (60, 70)),
    "blipdiffusion_robot_3": (10, "robot", "brick wall", 200, (20, 30)),
}

# Things cut out on black, as MS-Diffusion's references are: file name -> (held-out subject, kind).
CUT_OUTS = {
    "blipdiffusion_mug_cut_out": (4, "mug"),
    "blipdiffusion_robot_cut_out": (10, "robot"),
    "blipdiffusion_cat_cut_out": (21, "cat"),
}

# Pictures to edit, at the larger of the embedded model's sizes: file name -> (held-out subject, kind, background).
SCENES = {
    "blipdiffusion_cat_in_the_snow": (21, "cat", "snow"),
    "blipdiffusion_other_robot_painted": (33, "robot", "beach"),
}
# Where somebody painted in ComfyUI's mask editor, which makes what is painted transparent: file name -> corners.
PAINTED = {"blipdiffusion_other_robot_painted": (22, 24, 170, 174)}
_BRUSH = 20  # pixels, the roundness of the corners


# A folder to find pictures in: (held-out subject, kind, background).
ALBUM = "blipdiffusion_album"
FOUND = (
    (101, "cat", "snow"), (104, "cat", "snow"), (107, "cat", "beach"), (110, "robot", "grass"), (113, "robot", "night"),
    (116, "boat", "water"), (119, "boat", "sunset"), (122, "house", "forest"), (125, "house", "snow"),
    (128, "mug", "table"), (131, "star", "sky"), (134, "fish", "water"), (137, "hat", "carpet"),
    (140, "rocket", "night"), (143, "car", "road"), (146, "mushroom", "forest"),
)  # fmt: skip


def draw(index: int, kind: str, background: str, side: int, corner: tuple[int, int]) -> Image.Image:
    """One photo of the held-out subject with this number."""
    subject: ToySubject = subject_from_seed(HELD_OUT_SEED + index, kind)
    ground = render_background(background, SIDE, np.random.default_rng(index))
    return Image.fromarray(place(render_subject(subject, side), ground, *corner).picture)


def draw_cut_out(index: int, kind: str) -> Image.Image:
    """The held-out subject with this number on black, cut to its edges."""
    drawn = render_subject(subject_from_seed(HELD_OUT_SEED + index, kind), SIDE)
    alpha = drawn.getchannel("A")
    return Image.composite(drawn.convert("RGB"), Image.new("RGB", drawn.size), alpha).crop(alpha.getbbox())


def draw_scene(index: int, kind: str, background: str, size: int = LARGE_SIZE) -> Image.Image:
    """The held-out subject with this number in a place, as the embedded model was shown them, `size` pixels wide."""
    subject = subject_from_seed(HELD_OUT_SEED + index, kind)
    return Image.fromarray(render_picture(subject, background, np.random.default_rng(index), size=size).picture)


def painted(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The picture with a transparent box; its colours stay below."""
    alpha = Image.new("L", picture.size, 255)
    ImageDraw.Draw(alpha).rounded_rectangle(box, _BRUSH, fill=0)
    picture = picture.convert("RGBA")
    picture.putalpha(alpha)
    return picture


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        draw(*picture).save(FOLDER / f"{name}.png", optimize=True)
    for name, thing in CUT_OUTS.items():
        draw_cut_out(*thing).save(FOLDER / f"{name}.png", optimize=True)
    for name, scene in SCENES.items():
        picture = draw_scene(*scene)
        picture = painted(picture, PAINTED[name]) if name in PAINTED else picture
        picture.save(FOLDER / f"{name}.png", optimize=True)
    (FOLDER / ALBUM).mkdir(exist_ok=True)
    for index, kind, background in FOUND:
        name = f"{kind}_{background.replace(' ', '_')}_{index}.png"
        draw_scene(index, kind, background, PICTURE_SIZE).save(FOLDER / ALBUM / name, optimize=True)


if __name__ == "__main__":
    main()
