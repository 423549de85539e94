"""Draw what data synthesis makes of the DreamBench photos beside the checkout: original, mask, composite for each.

    python -m tools.make_composites OUTPUT.png

The whole path of `synthesise shards` runs on the first photo of each of the 20 subjects, with the rough masks and boxes
of `make_matte_sheet` and places of the toy world as grounds; what is drawn is read back from the shards.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from blipdiff_impl.blip_diffusion.synthesis.photo_list import Photo, write_photos
from blipdiff_impl.blip_diffusion.synthesis.sharding.settings import SynthesisSettings
from blipdiff_impl.blip_diffusion.synthesis.sharding.synthesise import Sources, synthesise
from blipdiff_impl.pictures.contact_sheet import contact_sheet
from blipdiff_impl.pictures.pixels import to_pillow
from blipdiff_impl.toy_world.backgrounds import render_background
from blipdiff_impl.toy_world.world import BACKGROUNDS
from blipdiff_impl.training.shards import Shards
from tools.make_matte_sheet import BOXES, DREAMBENCH, photos_of, read_photo, rough_mask
from tools.problems import Problem, run_command

CELL, GROUND_SIDE = 256, 640


def main():
    """Make the sheet and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--columns", type=int, default=3, help="photos side by side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = write_material(Path(folder))
        manifest, _ = synthesise(sources, Path(folder) / "shards", SynthesisSettings())
        shards = Shards((str(Path(folder) / "shards" / "*.tar"),))
        samples = [shards[index] for index in range(len(shards))]
    cells = torch.stack([_cell(p) for sample in samples for p in (sample.picture, sample.mask, sample.composite)])
    labels = [name for s in samples for name in (s.key.partition(":")[2], "mask", "composite")]
    sheet = contact_sheet(cells, 3 * options.columns, labels)[0]
    to_pillow(sheet).save(options.output, optimize=True)
    print(f"{options.output}: {len(samples)} photos, left out: {manifest.rejected()}")


def write_material(folder, copies=1):
    """A list of the 20 photos with masks, and grounds, in a folder.

    Args:
        copies: times that each photo is in the list, under keys of its own.
    """
    if not DREAMBENCH.is_dir():
        raise Problem(f"The DreamBench photos are not in {DREAMBENCH}.")
    (folder / "grounds").mkdir()
    for number, name in enumerate(BACKGROUNDS):
        ground = render_background(name, GROUND_SIDE, np.random.default_rng(number))
        Image.fromarray(ground).save(folder / "grounds" / f"{name}.png")
    entries = [_entry(path, folder) for path in photos_of(DREAMBENCH)]
    photos = [
        Photo(f"{name}-{copy}" if copy else name, str(path), name, BOXES[name], mask, (f"a photo of a {name}",))
        for copy in range(copies)
        for name, path, mask in entries
    ]
    write_photos(folder / "list.jsonl", photos)
    return Sources(folder / "list.jsonl", folder / "grounds")


def _entry(path, folder):
    name = path.parent.name
    mask = rough_mask(read_photo(path), BOXES[name])
    to_pillow(mask).save(folder / f"{name}.png")
    return name, path, f"{name}.png"


def _cell(picture):
    """Fitted into a square of `CELL` pixels, on white, `[CELL, CELL, 3]`."""
    pixels = torch.from_numpy(np.array(picture)).float().div(255).reshape(*picture.shape[:2], -1).expand(-1, -1, 3)
    scale = CELL / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    fitted = F.interpolate(pixels.permute(2, 0, 1)[None], size, mode="area" if scale < 1 else "bilinear")[0]
    spare = [CELL - side for side in size]
    padding = (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2)
    return F.pad(fitted, padding, value=1.0).permute(1, 2, 0)


if __name__ == "__main__":
    run_command(main)
