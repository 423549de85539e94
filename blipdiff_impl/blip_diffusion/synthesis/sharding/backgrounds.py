"""The backgrounds that subjects are put on: random parts of the pictures in a folder, at native resolution."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from ....errors import SubjectError
from ....files import UnreadablePicture, picture_paths, read_picture

_TRIES = 10


class Backgrounds:
    """Pictures right in a folder.

    Attributes:
        paths: by name.
        problems: sentences about pictures that could not be read; whoever reads them clears them.

    Raises:
        SubjectError: there is none.
    """

    def __init__(self, folder: Path):
        self._folder, self.paths = folder, picture_paths(folder)
        self.problems: list[str] = []
        if not self.paths:
            raise SubjectError(f"The folder of backgrounds {folder} holds no picture. Name one with JPEG or PNG files.")

    def digest(self) -> str:
        """SHA-256 over names and sizes of the files; the contents of tens of thousands would take minutes to read."""
        names = (f"{path.name}\0{path.stat().st_size}\0" for path in self.paths)
        return hashlib.sha256("".join(names).encode()).hexdigest()

    def crop(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, str]:
        """A random part of a random picture, and that picture's name; one that cannot be read is drawn again.

        Args:
            size: width, height.

        Raises:
            SubjectError: many in a row cannot be read.
        """
        for _ in range(_TRIES):
            path = self.paths[rng.integers(len(self.paths))]
            try:
                return cut_ground(read_picture(path), size, rng), path.name
            except UnreadablePicture as error:
                self.problems.append(str(error))
        raise SubjectError(
            f"{_TRIES} backgrounds in a row of {self._folder} cannot be read, the last one is {path.name}. "
            "Remove the damaged pictures."
        )


def cut_ground(picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random part of `size` (width, height); a picture that is smaller is enlarged just so far."""
    scale = max(wanted / there for wanted, there in zip(size, picture.size, strict=True))
    if scale > 1:
        # The part that is then cut has the width and height asked for, so only that part is enlarged.
        window = tuple(min(wanted / scale, there) for wanted, there in zip(size, picture.size, strict=True))
        left, top = (rng.uniform() * (there - part) for there, part in zip(picture.size, window, strict=True))
        box = (left, top, min(left + window[0], picture.width), min(top + window[1], picture.height))
        return picture.resize(size, Image.Resampling.BICUBIC, box=box)
    left, top = (int(rng.integers(there - wanted + 1)) for there, wanted in zip(picture.size, size, strict=True))
    return picture.crop((left, top, left + size[0], top + size[1]))
