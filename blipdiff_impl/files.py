"""Files that are there whole or not at all; picture files and texts by one rule, whoever reads them.

A picture is taken upright (EXIF), with 8 bits a colour (16 bit keep their upper half), an animation by its first frame,
and never by what lies hidden under full transparency. Where there is no place for a mask, what shows through becomes
white.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import logging
import os
import secrets
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import SubjectError, first_few, one_line

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MOST_PIXELS = 2**28 // 3  # from here on Pillow warns of a decompression bomb; a photo of 9459 a side

# Whatever a file's name says, Pillow tries all formats that it knows, and some of them start other programs (EPS).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# What damaged files were seen to raise in Pillow's readers, which pass on what happens in them.
_OF_DAMAGE = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    RuntimeError, MemoryError, BufferError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

log = logging.getLogger(__name__)


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


def require_writable(path: Path) -> None:
    """Refuse a file's place before the work of hours whose result should go there. Nothing is left there.

    Raises:
        SubjectError: there is no such folder, or nothing can be written into it.
    """
    if path.is_dir():
        raise SubjectError(f"{path} cannot be written: it is a folder. Choose another name.")
    if not path.parent.is_dir():
        raise SubjectError(f"{path} cannot be written: there is no folder {path.parent}. Make it first.")
    _try_to_write(path.with_name(f".{secrets.token_hex(4)}.part"), path)


def require_writable_folder(folder: Path) -> None:
    """Make a folder, with those above it, and refuse one that nothing can be written into.

    Raises:
        SubjectError: it is a file, or cannot be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SubjectError(
            f"{folder} is no folder and cannot be made one, so it cannot be written to ({error.strerror or error}). "
            "Choose another --out."
        ) from error
    _try_to_write(folder / f".{secrets.token_hex(4)}.part", folder)


def _try_to_write(probe: Path, place: Path) -> None:
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise SubjectError(f"{place} cannot be written: {error.strerror or error}. Choose another --out.") from error


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
    except (OSError, ValueError, RecursionError) as error:
        raise SubjectError(f"{path} cannot be read: {one_line(error)}. Delete it, and it is made again.") from error
    if not isinstance(record, dict):
        raise SubjectError(f"{path} does not hold a record. Delete it, and it is made again.")
    return record


def read_text(path: Path, what: str) -> str:
    """The text of a file, by `decode_text`.

    Args:
        what: what messages call it, "The benchmark".

    Raises:
        SubjectError: it cannot be read, or is no text.
    """
    try:
        return decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise SubjectError(f"{what} {path} cannot be read: {reason or error}.") from error


def decode_text(data: bytes) -> str:
    """Text as editors save it: UTF-8 or UTF-16 with or without their marks, else Windows' western letters (cp1252).

    Raises:
        UnicodeDecodeError: none of these.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding)
    if b"\0" in data:  # no text in UTF-8 or cp1252 has one, and in UTF-16 every other byte of plain letters is
        return data.decode("utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def parse_yaml(text: str, complaint: str):
    """What a YAML or JSON text says.

    Args:
        complaint: how the message begins where it says nothing, "The settings a.yaml are not YAML".

    Raises:
        SubjectError: it is no YAML, or lists lie in lists without end.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise SubjectError(f"{complaint} that can be read: too many lists lie in lists.") from error
    # Beside its own error, what the library's makers of dates, numbers and mappings let through.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise SubjectError(f"{complaint}: {one_line(error)}") from error


def picture_paths(folder: Path) -> list[Path]:
    """Picture files right in a folder, by name; none where there is no folder. Files that are left out are said, once.

    Hidden files are no pictures: macOS writes a `._a.png` beside every `a.png` on foreign disks.
    """
    files = sorted(path for path in folder.glob("*") if not path.is_dir())
    found, dropped = [], []
    for path in files:
        hidden, named = path.name[0] == ".", path.suffix.lower() in PICTURE_TYPES
        if named and not hidden:
            found.append(path)
        elif named or not hidden:  # nobody took .DS_Store for a picture
            dropped.append(path.name)
    if dropped:
        _say_once(f"Not used in {folder}: {first_few(dropped, 3)}, no picture files ({', '.join(PICTURE_TYPES)}).")
    return found


def read_picture(file: Path | BinaryIO, name: str = "") -> Image.Image:
    """The picture upright and in RGB; transparency becomes white.

    Args:
        name: what messages call it; its path where it has one.

    Raises:
        UnreadablePicture: names the file.
    """
    return _on_ground(_open(file, name), "white")


def read_cutout(file: Path | BinaryIO, name: str = "") -> Image.Image:
    """The picture upright, in RGB, or in RGBA where some of it is transparent: for those who use alpha as a mask.

    Raises:
        UnreadablePicture: names the file.
    """
    return _open(file, name)


def read_mask(file: Path | BinaryIO, name: str = "") -> Image.Image:
    """The picture as a mask, upright and in grey (mode L); where it is transparent, nothing was painted: black.

    Raises:
        UnreadablePicture: names the file.
    """
    return _on_ground(_open(file, name), "black").convert("L")


def _open(file: Path | BinaryIO, name: str) -> Image.Image:
    """Upright, 8 bits a colour, RGB or (where something is transparent) RGBA."""
    name = name or str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, or of damage that the picture survives
            with Image.open(file, formats=_FORMATS) as opened:
                if (pixels := opened.width * opened.height) > MOST_PIXELS:
                    raise _unreadable(name, f"{pixels} pixels ({opened.width}x{opened.height}) are too many")
                picture = _in_colours(_upright(opened))
                if opened.format in ("GIF", "PNG", "WEBP") and getattr(opened, "is_animated", False):
                    _say_once(f"{name} is an animation: its first frame is taken.")
                return picture
    except UnreadablePicture:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(name, f"it is none of {', '.join(_FORMATS)}") from error
    except _OF_DAMAGE as error:
        raise _unreadable(name, one_line(error) or "it is damaged") from error


def _unreadable(name: str, reason: str) -> UnreadablePicture:
    return UnreadablePicture(f"{name} cannot be read as a picture ({reason}). Replace or remove it.")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except _OF_DAMAGE:  # EXIF that cannot be read turns nothing; a picture that cannot be read will fail again
        return picture


def _in_colours(picture: Image.Image) -> Image.Image:
    hidden = picture.info.get("transparency")
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _from_numbers(np.asarray(picture), hidden)
    if isinstance(hidden, tuple) and max(hidden) > 255:  # of a 16-bit picture that Pillow has made an 8-bit one
        picture.info["transparency"] = tuple(value >> 8 for value in hidden)
    if hidden is None and picture.mode not in _WITH_ALPHA:
        return picture.convert("RGB")
    return _without_full_alpha(picture.convert("RGBA"))


def _from_numbers(numbers: np.ndarray, hidden: int | None) -> Image.Image:
    """Grey values of 16 bit, of which Pillow would clip all above 255; a picture of other numbers says no range."""
    if numbers.dtype.kind == "f" or numbers.min() < 0 or numbers.max() > 65535:
        raise ValueError("it holds numbers of 32 bit; save it with 8 or 16 bit")
    grey = Image.fromarray((numbers.astype(np.uint16) >> 8).astype(np.uint8))
    if hidden is None:
        return grey.convert("RGB")
    alpha = Image.fromarray(np.where(numbers == hidden, 0, 255).astype(np.uint8))
    return _without_full_alpha(Image.merge("RGBA", (grey, grey, grey, alpha)))


def _without_full_alpha(picture: Image.Image) -> Image.Image:
    least, _ = picture.getchannel("A").getextrema()
    return picture.convert("RGB") if least == 255 else picture


def _on_ground(picture: Image.Image, colour: str) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


@functools.cache
def _say_once(sentence: str) -> None:
    log.warning("%s", sentence)


def as_tensor(picture: Image.Image | np.ndarray) -> Tensor:
    """8-bit pixels to 0..1: `[H, W, 3 | 4]` or `[H, W]` of a picture, by its channels, or the shape of an array."""
    return torch.from_numpy(np.array(picture, dtype=np.float32)) / 255


def digest_of(*paths: Path) -> str:
    """SHA-256 (hex) over names and contents of files.

    Raises:
        SubjectError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            _add_content(digest, path)
        except OSError as error:
            raise SubjectError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    digest = hashlib.sha256()
    _add_content(digest, path)
    return digest.hexdigest()


def _add_content(digest, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
