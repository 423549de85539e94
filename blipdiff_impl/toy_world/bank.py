"""A bank of training pairs on disk, so that no trainer renders: target picture, reference picture, mask, labels.

Pair i shows the subject with seed i. Files are .npy arrays under `.cache/toybox/bank`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import write_whole
from .render import PICTURE_SIZE, REFERENCE_SIZE, render_picture, render_reference
from .world import BACKGROUND_NAMES, CATEGORIES, subject_from_seed

_CHECKOUT = Path(__file__).resolve().parents[2]
# Installed by pip there is no checkout around the package, and what is trained stays where the command runs.
CACHE = (_CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.cwd()) / ".cache" / "toybox"
"""What making the embedded model leaves behind: the bank, and checkpoints of its trainings."""
BANK_PAIRS = 80_000
LATENT_SIDE = PICTURE_SIZE // 8


@dataclass(frozen=True)
class Bank:
    """Memory-mapped arrays; `ready` pairs of them are written.

    pictures uint8 [N, 96, 96, 3]; references uint8 [N, 64, 64, 3]; masks uint8 [N, 12, 12] (share of a latent cell
    that is subject, in 0..255); labels uint8 [N, 2] (index of category, index of background).
    """

    pictures: np.ndarray
    references: np.ndarray
    masks: np.ndarray
    labels: np.ndarray


_SHAPES = {
    "pictures": (PICTURE_SIZE, PICTURE_SIZE, 3),
    "references": (REFERENCE_SIZE, REFERENCE_SIZE, 3),
    "masks": (LATENT_SIDE, LATENT_SIDE),
    "labels": (2,),
}


def make_bank(count: int = BANK_PAIRS, folder: Path = CACHE / "bank") -> None:
    """Render the bank, or resume where an interrupted run stopped (every 2000 pairs)."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: open_array(folder / f"{name}.npy", np.uint8, (count, *shape)) for name, shape in _SHAPES.items()}
    progress = folder / "ready.txt"
    for start in range(rows_ready(folder), count, 2000):
        for i in range(start, min(start + 2000, count)):
            for name, value in _pair(i).items():
                arrays[name][i] = value
        for array in arrays.values():
            array.flush()
        write_whole(progress, str(min(start + 2000, count)).encode())


def open_bank(folder: Path = CACHE / "bank") -> Bank:
    """The pairs written so far."""
    ready = rows_ready(folder)
    return Bank(**{name: np.load(folder / f"{name}.npy", mmap_mode="r")[:ready] for name in _SHAPES})


def _pair(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((index, 3))
    subject, background = subject_from_seed(index), int(rng.integers(len(BACKGROUND_NAMES)))
    target = render_picture(subject, BACKGROUND_NAMES[background], rng, bank=True)
    cells = target.mask.reshape(LATENT_SIDE, 8, LATENT_SIDE, 8).mean(axis=(1, 3))
    return {
        "pictures": target.picture,
        "references": render_reference(subject, rng, bank=True).picture,
        "masks": cells.round().astype(np.uint8),
        "labels": np.array([CATEGORIES.index(subject.category), background], np.uint8),
    }


def open_array(path: Path, kind: type, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk to be filled in rounds; zeros at first."""
    if path.exists():
        return np.load(path, mmap_mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def rows_ready(folder: Path) -> int:
    """How many rows of the arrays in a folder are written."""
    path = folder / "ready.txt"
    return int(path.read_text()) if path.exists() else 0
