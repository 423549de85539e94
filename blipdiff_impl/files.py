"""Files that are there whole or not at all, and picture files as tensors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import SubjectError

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


class UnreadablePicture(SubjectError):
    """A file that is no picture, or a damaged one."""


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder (made where missing), then rename.

    Raises:
        SubjectError: the place cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SubjectError(f"{path} cannot be written: {error.strerror or error}. Choose another --out.") from error


def write_json(path: Path, record: dict) -> None:
    """A record as indented JSON, whole or not at all."""
    write_whole(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False).encode())


def read_json(path: Path) -> dict | None:
    """The record of a file, None where there is no file.

    Raises:
        SubjectError: the file is there and holds no record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SubjectError(f"{path} cannot be read: {error}. Delete it, and it is made again.") from error
    if not isinstance(record, dict):
        raise SubjectError(f"{path} does not hold a record. Delete it, and it is made again.")
    return record


def picture_paths(folder: Path) -> list[Path]:
    """Picture files right in a folder, by name; none where there is no folder."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_TYPES and path.name[0] != ".")


def open_picture(file: Path | BinaryIO) -> Image.Image:
    """`Image.open` for photos: the formats that they have, and no others.

    Whatever a file's name says, Pillow tries all formats that it knows, and some of them start other programs (EPS).
    """
    return Image.open(file, formats=_FORMATS)


def read_picture(path: Path) -> Image.Image:
    """The picture upright and in RGB; transparency becomes white.

    Raises:
        UnreadablePicture: names the file.
    """
    try:
        with open_picture(path) as file:
            picture = ImageOps.exif_transpose(file)
            if "A" in picture.getbands() or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadablePicture(f"{path} cannot be read as a picture ({error}). Replace or remove it.") from error


def as_tensor(picture: Image.Image) -> Tensor:
    """`[H, W, 3]` in 0..1."""
    return torch.from_numpy(np.array(picture, dtype=np.float32)) / 255


def as_png(picture: Tensor) -> bytes:
    """A picture `[H, W, 3]` in 0..1 as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def digest_of(*paths: Path) -> str:
    """SHA-256 (hex) over names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
