"""Scenes of the bank as training data for an MS-Diffusion adapter: cut-outs of their things from other renders.

Cut-outs are a .npy array beside the bank's own, and so are the boxes: rectangles around the things, as somebody would
draw them, where the bank has the squares that they were drawn into. Latents and subject vectors are the bank's.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..attention.boxes import box_masks
from ..files import write_whole
from ..stable_diffusion.config import VAE_FACTOR
from ..toy_world.bank import open_array, rows_ready
from ..toy_world.render import REFERENCE_SIZE, render_subject
from ..toy_world.scenes import HALF, MAX_THINGS, scene_text
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, ToySubject, captions
from ..training.samples import Reference, Sample
from . import scene_bank

SHAPE = "large"
# Of so many samples of a scene, one has the references of the bank, which have something behind the thing.
UNCUT_EVERY = 7
CLASSIC_EVERY = 4  # scenes of one large thing are half of the bank; more than these teach nothing about boxes
CROWDED_TIMES = 2  # scenes of three things come twice: they are the hardest, and one in five of the bank
MISNAMED_EVERY = 3  # of so many samples, one has a text that names other things: shapes have to come from the pictures
_FOLDER = f"{SHAPE}_things"
_CHUNK = 256


def make_cut_outs() -> None:
    """Render them, or resume where an interrupted run stopped."""
    count = scene_bank.ready(SHAPE)
    folder = scene_bank.FOLDER / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pictures = open_array(folder / "pictures.npy", np.uint8, (count, MAX_THINGS, REFERENCE_SIZE, REFERENCE_SIZE, 3))
    boxes = open_array(folder / "boxes.npy", np.int16, (count, MAX_THINGS, 4))
    wanted = set(scene_rows().tolist())
    for first in range(rows_ready(folder), count, _CHUNK):
        for index in range(first, min(first + _CHUNK, count)):
            if index in wanted:
                _fill(pictures, boxes, index)
        pictures.flush()
        boxes.flush()
        write_whole(folder / "ready.txt", str(min(first + _CHUNK, count)).encode())


def scene_rows() -> np.ndarray:
    """Numbers of the scenes that are trained on, some more than once."""
    labels = scene_bank.open_shape(SHAPE)["labels"][: scene_bank.ready(SHAPE)]
    classic, crowded = labels[:, 2] == 1, labels[:, 0] == MAX_THINGS
    times = np.where(classic, np.cumsum(classic) % CLASSIC_EVERY == 0, np.where(crowded, CROWDED_TIMES, 1))
    return np.repeat(np.arange(len(labels)), times)


def cut_out_render(subject: ToySubject, rng: np.random.Generator) -> np.ndarray:
    """A thing on black that fills the frame, uint8 [64, 64, 3]: what a tight cut becomes when it is squashed."""
    drawn = render_subject(subject, int(rng.integers(34, 73)), rng.uniform(0.92, 1.08))
    if rng.uniform() < 0.25:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = drawn.getchannel("A")
    black = Image.composite(drawn.convert("RGB"), Image.new("RGB", drawn.size), alpha)
    # where the mask is above a half, as the node cuts
    box = alpha.point(lambda value: 255 if value > HALF else 0).getbbox()
    return np.asarray(black.crop(box).resize((REFERENCE_SIZE, REFERENCE_SIZE), Image.Resampling.BICUBIC))


class ToyScenes:
    """Sample `i` shows row `i % rows` of `scene_rows`.

    There is no picture to a sample: its latent stands for it.
    """

    def __init__(self):
        self._rows = scene_rows()
        self._arrays = scene_bank.open_shape(SHAPE)
        self._cut_outs, self._boxes = (
            np.load(scene_bank.FOLDER / _FOLDER / f"{name}.npy", mmap_mode="r") for name in ("pictures", "boxes")
        )
        self._side = scene_bank.SHAPES[SHAPE].size[0]
        self.groups = [len(self._rows) * UNCUT_EVERY]

    def __getitem__(self, index: int) -> Sample:
        row, uncut = self._rows[index % len(self._rows)], index < len(self._rows)
        count, background, _, *kinds = self._arrays["labels"][row].tolist()
        names = [CATEGORIES[kind] for kind in kinds[:count]]
        references = []
        for thing, name in enumerate(names):
            source = (self._arrays["references"] if uncut else self._cut_outs)[row, thing]
            box = tuple((self._boxes[row, thing] / self._side).tolist())
            vectors = np.asarray(self._arrays["vectors"][row, thing], np.float32)
            references.append(Reference(np.array(source), name, box, vectors))
        said = names if index % MISNAMED_EVERY else self._other_kinds(index, count)
        return Sample(
            f"toy scene {row}",
            np.broadcast_to(np.uint8(0), (self._side, self._side, 3)),
            _captions(said, BACKGROUND_NAMES[background]),
            mask=self._around(self._boxes[row, :count]),
            latent=np.asarray(self._arrays["latents"][row], np.float32),
            references=tuple(references),
        )

    def _around(self, boxes: np.ndarray) -> np.ndarray:
        """White in the boxes and one latent cell around them, so that an outline counts from either side."""
        cells, margin = self._side // VAE_FACTOR, np.array([-1, -1, 1, 1]) * VAE_FACTOR
        larger = torch.from_numpy((boxes + margin).clip(0, self._side) / self._side)
        covered = box_masks(larger, (cells, cells)).any(0).view(cells, cells)
        return covered.numpy().astype(np.uint8) * 255

    @staticmethod
    def _other_kinds(index: int, count: int) -> list[str]:
        rng = np.random.default_rng((index, 7))
        return [CATEGORIES[kind] for kind in rng.permutation(len(CATEGORIES))[:count]]


def _captions(names: list[str], background: str) -> tuple[str, ...]:
    """All things, in either order; one in five has the place first."""
    texts = []
    for phrase in captions(background):
        for order in (names, names[::-1]):
            texts += [scene_text(order, phrase, commas, place_first=False) for commas in (False, True)]
        texts.append(scene_text(names, phrase, commas=True, place_first=True))
    return tuple(texts)


def _fill(pictures: np.ndarray, boxes: np.ndarray, index: int) -> None:
    seed = scene_bank.SHAPES[SHAPE].seed
    subjects, _, _, scene = scene_bank.draw_scene(SHAPE, np.random.default_rng((seed, index)))
    boxes[index, : len(subjects)] = scene.rectangles
    rng = np.random.default_rng((seed, index, 1))
    for thing, subject in enumerate(subjects):
        pictures[index, thing] = cut_out_render(subject, rng)
