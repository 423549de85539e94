"""Draw the picture of Invert Picture's help page: a picture, and what comes back by DDIM and by the fixed-point method.

    python -m tools.make_inversion_picture

Writes web/docs/SubjectInvert.jpg. Few steps, so that the difference can be seen.
"""

import tempfile
from pathlib import Path

import torch
from PIL import Image

from tools.inprocess import load_comfy
from tools.numbers import editing
from tools.places import ROOT

SIDE, CASE = 288, 2
editing.STEPS = 8  # of inversion and sampling


def main():
    """Encode, invert by both methods, regenerate."""
    with tempfile.TemporaryDirectory() as base, torch.inference_mode():
        studio = editing.Studio(load_comfy(Path(base)))
        case = editing.make_case(CASE, editing.TRIAL)
        back = [studio.regenerated(case, studio.invert(case, method))[0] for method in ("DDIM", "fixed point")]
    pictures = torch.cat([case.rendered, *back], dim=2)[0]
    sheet = Image.fromarray((pictures * 255).round().to(torch.uint8).numpy())
    sheet = sheet.resize((3 * SIDE, SIDE), Image.Resampling.LANCZOS)
    sheet.save(ROOT / "web" / "docs" / "SubjectInvert.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
