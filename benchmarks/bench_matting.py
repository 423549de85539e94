"""Closed-form alpha of 512x512 photos against PyMatting's `estimate_alpha_cf`, on DreamBench photos.

Both get the same photo and the same trimap, the one that Subject Matte makes of a rough mask by default. PyMatting's
compiled functions are warm. Where the DreamBench photos are not beside the checkout, nothing is measured.
"""

from __future__ import annotations

import statistics
import sys

import numpy as np
import torch
from PIL import Image
from pymatting import estimate_alpha_cf

from blipdiff_impl.pictures.matting.closed_form import solve_alpha
from blipdiff_impl.pictures.matting.trimap import trimap_from_mask
from tools.make_matte_sheet import BOXES, DREAMBENCH, photos_of, rough_mask

from .measure import compare, machine, seconds

SIDE, PAIRS = 512, 7
TOLERANCE = 0.01  # mean absolute difference of alpha


def main(names: tuple[str, ...] = tuple(sys.argv[1:])) -> None:
    """Measure the named DreamBench subjects, every third where none is named."""
    print(machine())
    if not DREAMBENCH.is_dir():
        print("closed-form matting: not measured, the DreamBench photos are not beside the checkout")
        return
    photos = {path.parent.name: path for path in photos_of(DREAMBENCH)}
    ratios, differences = [], []
    for name in names or sorted(photos)[::3]:
        photo = _read(photos[name])
        trimap = trimap_from_mask(rough_mask(torch.from_numpy(photo).float(), BOXES[name])).double().numpy()
        unknown = ((trimap > 0) & (trimap < 1)).mean()
        difference = np.abs(solve_alpha(photo, trimap) - estimate_alpha_cf(photo, trimap)).mean()
        assert difference < TOLERANCE, f"{name}: alpha differs by {difference:.4f}"
        differences.append(difference)
        ratios.append(_compare(f"{name}, {unknown:.0%} unknown, alpha differs by {difference:.1e}", photo, trimap))
    print(
        f"closed-form matting of a {SIDE}x{SIDE} photo: median ratio {statistics.median(ratios):.2f}, lowest "
        f"{min(ratios):.2f} (goal at least 2); mean absolute difference of alpha at most {max(differences):.1e} "
        f"(goal {TOLERANCE:g})"
    )


def _compare(title: str, photo: np.ndarray, trimap: np.ndarray) -> float:
    return compare(
        title,
        lambda: seconds(lambda: solve_alpha(photo, trimap)),
        lambda: seconds(lambda: estimate_alpha_cf(photo, trimap)),
        PAIRS,
        "at least 2",
    )


def _read(path) -> np.ndarray:
    """Squashed to 512x512, as the authors' preparation squashes to a square."""
    with Image.open(path) as photo:
        return np.asarray(photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64) / 255


if __name__ == "__main__":
    main()
