"""Draw the photos that the example workflows start from: subjects of the toy world that no model was trained on.

    python -m tools.make_example_pictures

Writes workflows/input/*.png, always the same pixels. The names begin with `blipdiffusion_`, because the pack offers the
files in the input folder of the host, among the user's own.
"""

import numpy as np
from PIL import Image

from blipdiff_impl.toybox.backgrounds import render_background
from blipdiff_impl.toybox.render import place, render_picture, render_subject
from blipdiff_impl.toybox.world import HELD_OUT_SEED, ToySubject, subject_from_seed
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

# Pictures to edit, at the embedded model's own size: file name -> (held-out subject, kind, background).
SCENES = {
    "blipdiffusion_cat_in_the_snow": (21, "cat", "snow"),
    "blipdiffusion_other_robot": (33, "robot", "beach"),
}


def draw(index: int, kind: str, background: str, side: int, corner: tuple[int, int]) -> Image.Image:
    """One photo of the held-out subject with this number."""
    subject: ToySubject = subject_from_seed(HELD_OUT_SEED + index, kind)
    ground = render_background(background, SIDE, np.random.default_rng(index))
    return Image.fromarray(place(render_subject(subject, side), ground, *corner).picture)


def draw_scene(index: int, kind: str, background: str) -> Image.Image:
    """The held-out subject with this number in a place, as the embedded model was shown them, 96x96."""
    subject = subject_from_seed(HELD_OUT_SEED + index, kind)
    return Image.fromarray(render_picture(subject, background, np.random.default_rng(index)).picture)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        draw(*picture).save(FOLDER / f"{name}.png", optimize=True)
    for name, scene in SCENES.items():
        draw_scene(*scene).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
