"""Draw how photos are cut out, a row for each: photo, rough mask, trimap, alpha, cut-out on magenta.

    python -m tools.make_matte_sheet OUTPUT [PHOTO or FOLDER ...]

Of a folder the first photo of each folder in it is taken, or all of its photos; without any, the 20 DreamBench
subjects beside the checkout. The rough masks come from a stand-in for a segmenter, in the manner of GrabCut: what has
other colours than the rest, inside a box that was drawn by hand (DreamBench) or is the middle of the photo (others).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from blipdiff_impl.pictures.contact_sheet import contact_sheet
from blipdiff_impl.pictures.matting.matte import matte
from blipdiff_impl.pictures.matting.trimap import EDGE, trimap_from_mask
from blipdiff_impl.pictures.pixels import to_pillow
from tools.places import ROOT
from tools.problems import Problem, run_command

DREAMBENCH = ROOT.parent / "shared" / "data" / "dreambench"
SIDE, CELL = 512, 256  # of a photo when it is cut out, and on the sheet
CUT_SIDE, COLOURS, ROUNDS, SMOOTHNESS = 128, 48, 6, 5.0  # of the stand-in
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Around the subject in the first photo of each folder: left, top, right, bottom as parts of the photo.
BOXES = {
    "backpack": (0.38, 0.02, 0.77, 0.82), "backpack_dog": (0.32, 0.14, 0.81, 0.86),
    "bear_plushie": (0.35, 0.12, 0.70, 0.60), "can": (0.29, 0.10, 0.65, 0.82), "cat": (0.00, 0.12, 0.75, 0.88),
    "clock": (0.30, 0.34, 0.56, 0.69), "colorful_sneaker": (0.09, 0.47, 0.70, 0.71), "dog": (0.12, 0.14, 0.92, 1.00),
    "dog2": (0.27, 0.26, 0.66, 0.99), "dog3": (0.04, 0.32, 1.00, 1.00), "dog5": (0.18, 0.29, 0.88, 0.71),
    "dog6": (0.01, 0.15, 0.57, 0.97), "dog8": (0.26, 0.05, 0.78, 0.92), "duck_toy": (0.24, 0.12, 0.81, 0.70),
    "grey_sloth_plushie": (0.14, 0.18, 0.56, 0.67), "monster_toy": (0.26, 0.22, 0.75, 0.84),
    "pink_sunglasses": (0.33, 0.55, 1.00, 0.96), "robot_toy": (0.17, 0.04, 0.79, 0.96),
    "shiny_sneaker": (0.28, 0.29, 0.69, 0.62), "teapot": (0.31, 0.04, 0.92, 0.78),
}  # fmt: skip
MIDDLE = (0.12, 0.12, 0.88, 0.88)
STEPS = ("photo", "rough mask", "trimap", "alpha", "cut-out")
MAGENTA = torch.tensor([1.0, 0.0, 1.0])  # shows every rim that was left


def main():
    """Make the sheet and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("photos", type=Path, nargs="*", default=[DREAMBENCH])
    parser.add_argument("--columns", type=int, default=2, help="photos side by side")
    parser.add_argument("--edge", type=float, default=EDGE, help="edge_width of the node")
    options = parser.parse_args()
    photos = [photo for path in options.photos for photo in photos_of(path)]
    cells = torch.cat([_row(photo, options.edge) for photo in photos])
    labels = [f"{_name(photo)}: {step}" if step == STEPS[0] else step for photo in photos for step in STEPS]
    sheet = contact_sheet(cells, len(STEPS) * options.columns, labels)[0]
    to_pillow(sheet).save(options.output, quality=88, optimize=True)
    print(f"{options.output}: {len(photos)} photos")


def photos_of(path):
    """A photo itself, the first of each folder in a folder, or all photos of a folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise Problem(f"There is no photo and no folder {path}.")
    own = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    found = own or [photos_of(folder)[0] for folder in sorted(path.iterdir()) if folder.is_dir()]
    if not found:
        raise Problem(f"There are no photos in {path}.")
    return found


def read_photo(path, side=SIDE):
    """`[H, W, 3]`, 0..1, the longer side scaled to `side`."""
    with Image.open(path) as photo:
        photo = ImageOps.contain(photo.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(photo, dtype=np.float32) / 255)


def rough_mask(photo, box=MIDDLE):
    """Mask `[H, W]`, 0 or 1: colours of subject and ground, and a cut along strong edges, found in turn at low
    resolution. All outside the box is ground.

    Args:
        photo: `[H, W, 3]` in 0..1.
        box: left, top, right, bottom as parts of the photo.
    """
    small = F.interpolate(photo.permute(2, 0, 1)[None], scale_factor=CUT_SIDE / max(photo.shape[:2]), mode="area")
    pixels = small[0].permute(1, 2, 0).double().numpy()
    place = _place(pixels.shape[:2], box)
    colours = kmeans2(ndimage.gaussian_filter(pixels, (1, 1, 0)).reshape(-1, 3), COLOURS, minit="++", seed=0)[1]
    colours = colours.reshape(place.shape)
    mask = place > 0.5
    for _ in range(ROUNDS):
        mask = _cut(pixels, _evidence(colours, mask) + np.log(place / (1 - place)))
    large = F.interpolate(torch.from_numpy(_one_piece(mask)).double()[None, None], photo.shape[:2], mode="bilinear")
    return (large[0, 0] > 0.5).float()


def _place(shape, box):
    """Probability of being subject by place alone: none outside the box, high in its middle, even near its corners."""
    y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in shape), indexing="ij")
    left, top, right, bottom = box
    from_middle = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return np.where(inside, 0.3 + 0.6 * np.exp(-from_middle), 1e-6)


def _evidence(colours, mask):
    """log p(colour | subject) - log p(colour | ground) for each pixel."""
    shares = [np.bincount(colours[part], minlength=COLOURS) + 1.0 for part in (mask, ~mask)]
    subject, ground = (share / share.sum() for share in shares)
    return np.log(subject / ground)[colours]


def _cut(pixels, evidence):
    """The cheapest border: a minimum cut of the pixel grid between subject and ground."""
    count = evidence.size
    index = np.arange(count).reshape(evidence.shape)
    pairs = [(index[:, 1:], index[:, :-1]), (index[1:], index[:-1])]
    one, other = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    flat = pixels.reshape(-1, 3)
    steps = ((flat[one] - flat[other]) ** 2).sum(1)
    weights = SMOOTHNESS * np.exp(-steps / (2 * steps.mean() + 1e-12)) + 0.05
    source, sink, every = np.full(count, count), np.full(count, count + 1), index.ravel()
    flat_evidence = evidence.ravel()
    rows = np.concatenate([one, other, source, every])
    columns = np.concatenate([other, one, every, sink])
    values = np.concatenate([weights, weights, np.maximum(flat_evidence, 0), np.maximum(-flat_evidence, 0)])
    capacities = csr_matrix(((values * 100).astype(np.int32), (rows, columns)), shape=(count + 2, count + 2))
    residual = capacities - maximum_flow(capacities, count, count + 1).flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, count, return_predecessors=False)
    return np.isin(index, reached)


def _one_piece(mask):
    """The largest piece without specks and holes."""
    around = np.pad(mask, 4, mode="edge")  # so that a subject at the picture's border stays there
    pieces, count = ndimage.label(ndimage.binary_opening(around))
    if count:
        around = pieces == 1 + np.argmax(ndimage.sum_labels(pieces > 0, pieces, range(1, count + 1)))
    return ndimage.binary_fill_holes(ndimage.binary_closing(around, iterations=2))[4:-4, 4:-4]


def _row(path, edge):
    """The steps as pictures of one size, `[5, CELL, CELL, 3]`."""
    photo = read_photo(path)
    mask = rough_mask(photo, BOXES.get(_name(path), MIDDLE))
    trimap = trimap_from_mask(mask, edge)
    alpha, foreground = matte(photo, trimap)
    cut = alpha[..., None] * foreground + (1 - alpha[..., None]) * MAGENTA
    grey = [channel[..., None].expand(-1, -1, 3) for channel in (mask, trimap, alpha)]
    steps = torch.stack([_square(step) for step in (photo, *grey, cut)]).permute(0, 3, 1, 2)
    return F.interpolate(steps, (CELL, CELL), mode="area").permute(0, 2, 3, 1)


def _square(picture):
    square = torch.ones(SIDE, SIDE, 3)
    top, left = (SIDE - picture.shape[0]) // 2, (SIDE - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def _name(path):
    return path.parent.name if path.parent.parent == DREAMBENCH else path.stem


if __name__ == "__main__":
    run_command(main)
