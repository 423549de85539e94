"""The built-in MS-Diffusion adapter: one to three held-out things, each in its box of one picture of 192 pixels.

Everything runs through the real ComfyUI's nodes in this process. A box is the rectangle around a thing in the
renderer's picture of the same scene. At what is in a box the judge of boxes looks: is it nearest to the right one of
eight things of its kind, is it of that kind, does the thing fill its box, and is the place the one that the text names?
`scene_two_*` are the same pairs by *Subjects in One Prompt*, with the boxes as masks; `three_and_*` the scenes of three
things with "and" between all of them, instead of a comma; `*_renderer` the renderer's own pictures, the best that the
judge can see. The last line is one JSON object; `*_se` are standard errors over pictures.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.toy_world.render import LARGE_SIZE, render_reference
from blipdiff_impl.toy_world.scenes import box_around, draw_boxes, scene_text
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions, subject_from_seed
from blipdiff_impl.toybox.box_judge import crop_around, crop_square
from blipdiff_impl.toybox.judge import judged_size
from blipdiff_impl.toybox.scene_numbers import SceneTrial, make_scene_trials, rendered_scene
from tools.inprocess import load_comfy
from tools.numbers.scene_boxes import BoxJury, by_node, candidates
from tools.numbers.two_subjects import Toybox
from tools.problems import run_command

FIRST_SEED = HELD_OUT_SEED + 800_000_000
SCALE = 1.5  # chosen by eye on the pictures of a workflow, not on these trials


@dataclass
class Seen:
    """What the judge says of the things of each picture, one list a picture."""

    top1: list[list[bool]] = field(default_factory=list)
    swapped: list[list[bool]] = field(default_factory=list)
    kind: list[list[bool]] = field(default_factory=list)
    box: list[list[float]] = field(default_factory=list)
    place: list[list[bool]] = field(default_factory=list)

    def numbers(self, **names: str) -> dict[str, float]:
        """Means and standard errors of these, each under its name."""
        found = {}
        for what, name in names.items():
            by_picture = np.array([np.mean(each) for each in getattr(self, what)])
            found[name] = round(float(by_picture.mean()), 4)
            found[f"{name}_se"] = round(float(by_picture.std() / len(by_picture) ** 0.5), 4)
        return found


@dataclass(frozen=True)
class Asked:
    """A scene to be drawn, whose boxes are rectangles around its things, and the renderer's picture of it."""

    scene: SceneTrial
    rendered: np.ndarray


def with_rectangles(trials: list[SceneTrial]) -> list[Asked]:
    """Of scenes whose boxes are the squares that the renderer draws into."""
    found = []
    for index, trial in enumerate(trials):
        drawn = rendered_scene(trial, index)
        boxes = tuple(tuple(box) for box in drawn.rectangles.tolist())
        found.append(Asked(replace(trial, boxes=boxes), drawn.picture))
    return found


def trials_of(things: int, count: int, same_kind: bool = False, commas: bool = True) -> list[SceneTrial]:
    """Scenes of so many held-out things, always the same; kinds and places come in turn."""
    return [_trial(things, index, same_kind, commas) for index in range(count)]


def measure(comfy, count: int, scale: float = SCALE) -> dict[str, float]:
    """Numbers over `count` scenes of each sort."""
    toybox, jury = Toybox(comfy), BoxJury()
    adapter = toybox.call("MSDiffusionLoader", comfy.module("nodes.host.folders").TOYBOX)[0]
    pairs = with_rectangles(make_scene_trials(count))

    def by_adapter(asked, index):
        return _drawn(toybox, adapter, asked.scene, index, scale)

    def judged(*sort, **options):
        return _judged(jury, with_rectangles(trials_of(*sort, **options)), by_adapter)

    two = _judged(jury, pairs, by_adapter)
    numbers = two.numbers(
        top1="two_top1", swapped="two_swapped", kind="two_kind", box="box_iou", place="place_accuracy"
    )
    print(json.dumps(numbers), flush=True)
    numbers |= judged(1, count).numbers(top1="one_top1")
    numbers |= judged(3, count).numbers(top1="three_top1", kind="three_kind", place="three_place_accuracy")
    print(json.dumps(numbers), flush=True)
    numbers |= judged(3, count, commas=False).numbers(kind="three_and_kind", place="three_and_place_accuracy")
    numbers |= judged(2, count, same_kind=True).numbers(top1="same_kind_top1")
    scene = _judged(jury, pairs, lambda asked, index: by_node(toybox, asked.scene, index))
    numbers |= scene.numbers(top1="scene_two_top1", kind="scene_two_kind", swapped="scene_two_swapped")
    drawn = _judged(jury, pairs, lambda asked, _: asked.rendered)
    return numbers | drawn.numbers(top1="two_top1_renderer", kind="two_kind_renderer", box="box_iou_renderer")


def _judged(jury: BoxJury, pictures: list[Asked], draw: Callable[[Asked, int], np.ndarray]) -> Seen:
    seen = Seen()
    for index, asked in enumerate(pictures):
        picture, trial = draw(asked, index), asked.scene
        boxes = np.array(trial.boxes, float)
        crops = np.stack([crop_around(picture, box) for box in boxes])
        verdict, known = jury.boxes.judge.look_at(crops), candidates(jury, trial, index)
        kinds_due = [thing.category for thing in trial.subjects]
        if len(set(kinds_due)) < len(kinds_due):  # a thing that looks like the other one is a mistake
            known = [[*own[:-1], other[0]] for own, other in zip(known, known[::-1], strict=True)]
        points = jury.boxes.points(crops)
        others = [[known[j][0] for j in range(len(known)) if j != i] for i in range(len(known))]
        seen.top1.append([jury.nearest(p, own) == 0 for p, own in zip(points, known, strict=True)])
        seen.swapped.append(
            [jury.nearest(p, [*own, *o]) >= len(own) for p, own, o in zip(points, known, others, strict=True)]
        )
        kinds = [CATEGORIES[kind] for kind in verdict.category]
        seen.kind.append([kind == due for kind, due in zip(kinds, kinds_due, strict=True)])
        seen.box.append([_overlap(mask, box) for mask, box in zip(verdict.mask, boxes, strict=True)])
        (where,) = jury.judge.look_at(judged_size(picture[None])).background
        seen.place.append([BACKGROUND_NAMES[where] == trial.background])
    return seen


def _overlap(mask: np.ndarray, box: np.ndarray) -> float:
    """Of the rectangle around a thing and its box: intersection over union.

    Args:
        mask: of the thing, in the crop around its box.
        box: in pixels of the picture.
    """
    if not mask.any():
        return 0.0
    left, top, side = crop_square(box)
    found, due = box_around(mask), (box - [left, top, left, top]) * mask.shape[0] / side
    shared = np.prod((np.minimum(found[2:], due[2:]) - np.maximum(found[:2], due[:2])).clip(min=0))
    return float(shared / (np.prod(found[2:] - found[:2]) + np.prod(due[2:] - due[:2]) - shared))


def _drawn(toybox: Toybox, adapter, trial: SceneTrial, index: int, scale: float) -> np.ndarray:
    """The picture, uint8 [192, 192, 3]: references cut out of other pictures, boxes as shares."""
    rng, subjects = np.random.default_rng((FIRST_SEED, index, 2)), None
    for thing, box in zip(trial.subjects, trial.boxes, strict=True):
        reference = render_reference(thing, rng)
        photo = torch.from_numpy(reference.picture.copy())[None].float() / 255
        mask = torch.from_numpy(reference.mask.copy())[None].float() / 255
        edges = [edge / LARGE_SIZE for edge in box]
        (subjects,) = toybox.call(
            "MSDiffusionSubject", photo, thing.category, *edges, 1.0, mask=mask, previous=subjects
        )
    model, _ = toybox.call(
        "MSDiffusionApply", model=toybox.model, clip=toybox.clip, ms_adapter=adapter, subjects=subjects, scale=scale,
        start_percent=0.0, end_percent=1.0, grounding=True, auto_layout=False,
    )  # fmt: skip
    return toybox.draw(model, toybox.words(trial.text), 1, LARGE_SIZE, LARGE_SIZE)[0]


def _trial(things: int, index: int, same_kind: bool, commas: bool) -> SceneTrial:
    rng = np.random.default_rng((FIRST_SEED, things, index, int(same_kind)))
    steps = [0] * things if same_kind else [0, 5, 7][:things]
    kinds = [CATEGORIES[(index + step) % 12] for step in steps]
    background = BACKGROUND_NAMES[(index * 5 + index // 12) % 12]
    phrases = captions(background)
    first = FIRST_SEED + 1000 * things + 100_000 * int(same_kind) + 1_000_000 * index
    return SceneTrial(
        tuple(subject_from_seed(first + number, kind) for number, kind in enumerate(kinds)),
        tuple(draw_boxes(things, LARGE_SIZE, LARGE_SIZE, rng)),
        background,
        scene_text(kinds, phrases[rng.integers(len(phrases))], commas, place_first=False),
    )


def main():
    """Measure, and print the numbers as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--scale", type=float, default=SCALE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        print(json.dumps(measure(load_comfy(Path(base)), options.scenes, options.scale)))


if __name__ == "__main__":
    run_command(main)
