"""What tests of data synthesis share: photos of a red disc on a soft ground, their masks, and lists of them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw

from blipdiff_impl.blip_diffusion.synthesis.photo_list import Photo, write_photos
from blipdiff_impl.blip_diffusion.synthesis.sharding.synthesise import Sources

SIZE, BOX = (160, 120), (40, 30, 120, 100)  # of a photo, and of the thing in it: left, top, right, bottom
RED = (200, 30, 30)


def soft_picture(size=SIZE, seed=0):
    """Broad areas of random colours."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def red_disc(seed=0, size=SIZE):
    """A photo with a red disc that fills `BOX`."""
    photo = soft_picture(size, seed)
    photo.paste(RED, mask=disc_mask(size=size))
    return photo


def disc_mask(box=BOX, size=SIZE):
    """White on a disc that fills the box."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((*box[:2], box[2] - 1, box[3] - 1), fill=255)
    return mask


def png_header(width, height):
    """A PNG that says it is this large and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write_grounds(folder, count=3):
    """Backgrounds of different sizes, some smaller than a subject."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        soft_picture((50 + 90 * number, 200 - 60 * number), 100 + number).save(folder / f"{number}.png")
    return folder


def write_photo(folder, key, photo=None, mask=None, **more):
    """Save a photo (picture or bytes) and a mask, and describe them."""
    photo, mask = red_disc() if photo is None else photo, disc_mask() if mask is None else mask
    for name, picture in ((f"{key}.jpg", photo), (f"{key}.mask.png", mask)):
        if isinstance(picture, bytes):
            (folder / name).write_bytes(picture)
        else:
            picture.save(folder / name, "PNG")
    values = {"category": "disc", "mask": f"{key}.mask.png", "captions": ("a red disc",)}
    return Photo(key=key, image=f"{key}.jpg", **(values | more))


def write_list(folder, photos):
    """The list of these photos, with grounds."""
    write_photos(folder / "list.jsonl", photos)
    return Sources(folder / "list.jsonl", write_grounds(folder / "grounds"))


def many_photos(folder, count, without_caption=()):
    """`count` photos of discs; those of the numbers given have no caption."""
    return [
        write_photo(folder, f"photo{n:03d}", red_disc(n), captions=() if n in without_caption else (f"disc {n}",))
        for n in range(count)
    ]


def contents(folder):
    """Every file of a folder with its bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
