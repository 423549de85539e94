"""Photos to training pairs a second and core: one and two Ray workers, and one process against the research recipe.

The 20 DreamBench photos beside the checkout, with rough masks that are made beforehand. Workers make the whole shards;
what is counted begins with the first photo and ends with the last, so neither the start of Ray nor imports. The peer
is the authors' recipe (docs/method.md 9.2) with PyMatting's own closed-form solver: photo and mask squashed to 256x256.
In quality ours lies between that and the recipe at 512x512: alpha is solved at 256 around the subject, colours at 512.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pymatting import estimate_alpha_cf, estimate_foreground_ml

from blipdiff_impl.blip_diffusion.synthesis.photo_list import Photo, read_photos
from blipdiff_impl.blip_diffusion.synthesis.sharding.backgrounds import Backgrounds
from blipdiff_impl.blip_diffusion.synthesis.sharding.photos import scaled
from blipdiff_impl.blip_diffusion.synthesis.sharding.sample_making import SampleMaker, draws_of
from blipdiff_impl.blip_diffusion.synthesis.sharding.settings import SynthesisSettings
from blipdiff_impl.blip_diffusion.synthesis.sharding.synthesise import Sources, synthesise
from blipdiff_impl.blip_diffusion.synthesis.sharding.workers import one_thread
from blipdiff_impl.files import read_picture
from blipdiff_impl.pictures.matting.trimap import trimap_from_mask
from tools.make_composites import write_material
from tools.make_matte_sheet import DREAMBENCH, photos_of

from .measure import compare, machine, seconds

SIDES, COPIES, PAIRS = (256, 512), 10, 3
SETTINGS = SynthesisSettings()


def main() -> None:
    """Measure workers, then the recipes."""
    torch.set_num_threads(1)
    print(machine())
    if not DREAMBENCH.is_dir():
        print("data synthesis: not measured, the DreamBench photos are not beside the checkout")
        return
    with tempfile.TemporaryDirectory() as folder:
        sources = write_material(Path(folder), COPIES)
        _workers(sources, Path(folder))
        _recipes(sources)


def _workers(sources: Sources, folder: Path) -> None:
    rates = {1: [], 2: []}
    for turn in range(2):
        for count in rates:
            _, speed = synthesise(sources, folder / f"{turn}-{count}", SETTINGS, workers=count)
            rates[count].append(speed.photos_per_second)
            print(f"{count} Ray worker(s): {speed.line()}; {speed.stages()}", flush=True)
    one, two = (statistics.mean(rates[count]) for count in rates)
    print(
        f"data synthesis: {one:.2f} photos/s/core with one Ray worker, {two / 2:.2f} with two, which are "
        f"{two / one:.2f} times as fast (goal at least 1.7)"
    )


def _recipes(sources: Sources) -> None:
    folder, photos = sources.photos.parent, list(read_photos(sources.photos))[: len(photos_of(DREAMBENCH))]
    maker, grounds = SampleMaker(folder, sources.backgrounds, None, SETTINGS), Backgrounds(sources.backgrounds)
    with one_thread():
        for side in SIDES:
            compare(
                f"data synthesis, {len(photos)} photos, one process against the research recipe at {side}x{side}",
                lambda: seconds(lambda: [maker.make(photo) for photo in photos]),
                lambda side=side: seconds(lambda: [_research_recipe(folder, photo, grounds, side) for photo in photos]),
                PAIRS,
                "none",
            )


def _research_recipe(folder: Path, photo: Photo, grounds: Backgrounds, side: int) -> list[bytes]:
    """Original and composite as JPEG files; the mask stays unsaved."""
    picture, mask = read_picture(folder / photo.image), read_picture(folder / photo.mask).convert("L")
    square = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) / 255
    rough = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST), dtype=np.float32) / 255
    alpha = estimate_alpha_cf(square, trimap_from_mask(torch.from_numpy(rough)).double().numpy())
    foreground = estimate_foreground_ml(square, alpha)
    ground, _ = grounds.crop((side, side), draws_of(0, photo.key))
    mixed = alpha[..., None] * foreground + (1 - alpha[..., None]) * (np.asarray(ground) / 255)
    original, size = scaled(picture, SETTINGS.picture_side), scaled(picture, side).size
    composite = Image.fromarray((mixed.clip(0, 1) * 255).round().astype(np.uint8)).resize(size)
    box = tuple(round(share * size[axis % 2]) for axis, share in enumerate(photo.box))
    return [_jpeg(original), _jpeg(composite.crop(box))]


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=SETTINGS.quality)
    return file.getvalue()


if __name__ == "__main__":
    main()
