"""A bank of scenes on disk for `train_scenes`: latents, subject vectors, boxes and labels, in three shapes of picture.

Files are .npy arrays under `.cache/toybox/scenes/SHAPE`. The autoencoder's encoder, the image tower and the Q-Former
are those of the embedded model, and frozen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from ..blip_diffusion.pipeline import SubjectPipeline
from ..files import write_whole
from ..stable_diffusion.config import VAE_FACTOR
from ..toy_world.bank import CACHE, open_array, rows_ready
from ..toy_world.render import LARGE_SIZE, PICTURE_SIZE, REFERENCE_SIZE, render_picture, render_reference
from ..toy_world.scenes import MAX_THINGS, RenderedScene, box_around, draw_boxes, halves_boxes, render_scene
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, ToySubject, subject_from_seed
from .train_subject import category_ids, to_pixels

FOLDER = CACHE / "scenes"
CHUNK = 64
SAME_KIND_SHARE = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """A shape of pictures in the bank: (width, height) in pixels, scenes in all, and in every round of filling."""

    size: tuple[int, int]
    count: int
    round: int
    seed: int


SHAPES = {
    "large": Shape((LARGE_SIZE, LARGE_SIZE), 12_288, 4, 31),
    "small": Shape((PICTURE_SIZE, PICTURE_SIZE), 12_288, 4, 32),
    "wide": Shape((2 * PICTURE_SIZE, PICTURE_SIZE), 3_072, 1, 33),
}


def _arrays(shape: Shape) -> dict[str, tuple[type, tuple[int, ...]]]:
    width, height = (side // VAE_FACTOR for side in shape.size)
    return {
        "latents": (np.float16, (4, height, width)),
        "cells": (np.uint8, (MAX_THINGS, height, width)),  # share of each thing in a latent cell, in 0..255
        "vectors": (np.float16, (MAX_THINGS, 16, 128)),
        "references": (np.uint8, (MAX_THINGS, REFERENCE_SIZE, REFERENCE_SIZE, 3)),
        "boxes": (np.int16, (MAX_THINGS, 4)),
        # things in the picture, place, large and near the centre, and the kinds
        "labels": (np.int16, (3 + MAX_THINGS,)),
    }


def make_scene_bank(rounds: int = 1000) -> None:
    """Fill the bank in rounds over all shapes, or go on where an interrupted run stopped."""
    pipeline = SubjectPipeline.from_checkpoint("toybox")
    for _ in range(rounds):
        left = 0
        for name, shape in SHAPES.items():
            for _ in range(shape.round):
                left += _fill(pipeline, name, shape)
        if not left:
            return


def open_shape(name: str) -> dict[str, np.ndarray]:
    """The memory-mapped arrays of a shape; the first `ready(name)` rows are written."""
    return {key: np.load(FOLDER / name / f"{key}.npy", mmap_mode="r") for key in _arrays(SHAPES[name])}


def ready(name: str) -> int:
    """How many scenes of a shape are written."""
    return rows_ready(FOLDER / name)


@torch.inference_mode()
def _fill(pipeline: SubjectPipeline, name: str, shape: Shape) -> int:
    """Write the next chunk; returns how many scenes were written."""
    start = ready(name)
    stop = min(start + CHUNK, shape.count)
    if start == stop:
        return 0
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        key: open_array(folder / f"{key}.npy", kind, (shape.count, *row)) for key, (kind, row) in _arrays(shape).items()
    }
    pictures, references, kinds, owners = [], [], [], []
    for index in range(start, stop):
        rng = np.random.default_rng((shape.seed, index))
        subjects, background, classic, scene = draw_scene(name, rng)
        pictures.append(scene.picture)
        n, (width, height) = len(subjects), shape.size
        by_cell = scene.masks.reshape(n, height // VAE_FACTOR, VAE_FACTOR, width // VAE_FACTOR, VAE_FACTOR)
        arrays["cells"][index, :n], arrays["boxes"][index, :n] = by_cell.mean(axis=(2, 4)).round(), scene.boxes
        labels = [CATEGORIES.index(s.category) for s in subjects]
        arrays["labels"][index] = [n, background, classic, *labels, *[-1] * (MAX_THINGS - n)]
        for number, subject in enumerate(subjects):
            reference = render_reference(subject, rng, bank=True).picture
            arrays["references"][index, number] = reference
            references.append(reference)
            kinds.append(labels[number])
            owners.append((index, number))
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    for offset, part in enumerate(pixels.split(8)):
        latents = pipeline.vae.encode(part).latent_dist.mean * pipeline.config.vae.scaling_factor
        first = start + 8 * offset
        arrays["latents"][first : first + len(part)] = latents.numpy()
    vectors = subject_vectors(pipeline, np.stack(references), np.array(kinds)).numpy()
    for owner, value in zip(owners, vectors, strict=True):
        arrays["vectors"][owner] = value
    for array in arrays.values():
        array.flush()
    write_whole(folder / "ready.txt", str(stop).encode())
    return stop - start


def scene_of(name: str, index: int) -> RenderedScene:
    """The picture whose latents are row `index`, rendered again."""
    return draw_scene(name, np.random.default_rng((SHAPES[name].seed, index)))[3]


def draw_scene(name: str, rng: np.random.Generator) -> tuple[list[ToySubject], int, bool, RenderedScene]:
    """Subjects, index of the place, whether it is one large thing near the centre, and the scene."""
    size = SHAPES[name].size
    subjects, background, classic = _draw_subjects(name, rng)
    if classic:
        drawn = render_picture(subjects[0], BACKGROUND_NAMES[background], rng, bank=True, size=size[0])
        return subjects, background, True, RenderedScene(drawn.picture, drawn.mask[None], box_around(drawn.mask)[None])
    boxes = halves_boxes(size[1], rng) if name == "wide" else draw_boxes(len(subjects), *size, rng)
    return subjects, background, False, render_scene(subjects, boxes, BACKGROUND_NAMES[background], size, rng)


def _draw_subjects(name: str, rng: np.random.Generator) -> tuple[list[ToySubject], int, bool]:
    """Subjects, number of the place, and whether it is one large thing in the middle."""
    count, classic = _count(name, rng)
    subjects = [subject_from_seed(int(rng.integers(HELD_OUT_SEED)))]
    while len(subjects) < count:
        same = subjects[0].category if rng.uniform() < SAME_KIND_SHARE else None
        subjects.append(subject_from_seed(int(rng.integers(HELD_OUT_SEED)), same))
    background = int(rng.integers(len(BACKGROUND_NAMES)))
    return subjects, background, classic


def subject_vectors(pipeline: SubjectPipeline, references: np.ndarray, kinds: np.ndarray) -> torch.Tensor:
    """What the subject encoder makes of references uint8 [N, 64, 64, 3] of kinds [N]: [N, 16, W]."""
    ids = category_ids()[kinds]
    return pipeline.encoder.module(to_pixels(references), ids, torch.ones(ids.shape))


def _count(name: str, rng: np.random.Generator) -> tuple[int, bool]:
    """How many things, and whether it is one large thing near the centre."""
    chance = rng.uniform()
    if name == "wide":
        return 2, False
    if name == "small":
        return (1, True) if chance < 0.8 else (1, False) if chance < 0.9 else (2, False)
    return (1, True) if chance < 0.4 else (1, False) if chance < 0.5 else (2, False) if chance < 0.82 else (3, False)
