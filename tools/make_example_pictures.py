"""Draw the photos that the example workflows start from: subjects of the toy world that no model was trained on.

    python -m tools.make_example_pictures

Writes workflows/input/*.png, always the same pixels. The names begin with `blipdiffusion_`, because the pack offers the
files in the input folder of the host, among the user's own.
"""

import numpy as np
from PIL import Image

from blipdiff_impl.toybox.backgrounds import render_background
from blipdiff_impl.toybox.render import place, render_subject
from blipdiff_impl.toybox.world import HELD_OUT_SEED, ToySubject, subject_from_seed
from tools.places import ROOT

FOLDER = ROOT / "workflows" / "input"
SIDE = 256  # the embedded model looks at 64 pixels; this is for people

# file name -> (held-out subject, kind, background, side of the subject in the picture, its left upper corner)
PICTURES = {
    "blipdiffusion_mug": (4, "mug", "table", 176, (42, 52)),
    "blipdiffusion_robot_1": (10, "robot", "carpet", 190, (33, 40)),
    "blipdiffusion_robot_2": (10, "robot", "grass", 160, (60, 70)),
    "blipdiffusion_robot_3": (10, "robot", "brick wall", 200, (20, 30)),
}


def draw(index: int, kind: str, background: str, side: int, corner: tuple[int, int]) -> Image.Image:
    """One photo of the held-out subject with this number."""
    subject: ToySubject = subject_from_seed(HELD_OUT_SEED + index, kind)
    ground = render_background(background, SIDE, np.random.default_rng(index))
    return Image.fromarray(place(render_subject(subject, side), ground, *corner).picture)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        draw(*picture).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
