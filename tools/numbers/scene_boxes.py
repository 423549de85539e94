"""Two held-out subjects in random boxes of one picture of 192 pixels: is each found in its box, and is it of its kind?

By *Subjects in One Prompt* with the boxes as masks, and by text alone for comparison. What is in a box is judged as a
picture of its own, at the size that the judge knows; the renderer's own scenes go the same way. A subject is swapped
where the other one is nearer than all eight candidates of the kind that belongs there.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.toy_world.render import LARGE_SIZE, render_picture
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, subject_from_seed
from blipdiff_impl.toybox.box_judge import crop_around, load_box_judge
from blipdiff_impl.toybox.evaluate import CANDIDATES
from blipdiff_impl.toybox.scene_numbers import FIRST_SEED, make_scene_trials, rendered_scene
from tools.inprocess import load_comfy
from tools.numbers.two_subjects import Jury, Toybox
from tools.problems import run_command

SOFT_EDGE = 8


class BoxJury(Jury):
    """Looks at whole pictures, and through `boxes` at what is in a box of one."""

    def __init__(self):
        super().__init__()
        self.boxes = Jury(load_box_judge())


def measure(comfy, count):
    """Numbers over `count` scenes: `scene2_boxes_*` by the node, `*_by_text` without subjects, `*_renderer`."""
    toybox, jury, trials = Toybox(comfy), BoxJury(), make_scene_trials(count)
    points = [candidates(jury, trial, i) for i, trial in enumerate(trials)]
    makers = {
        "": lambda trial, i: by_node(toybox, trial, i),
        "_by_text": lambda trial, i: _by_text(toybox, trial),
        "_renderer": lambda trial, i: rendered_scene(trial, i).picture,
    }
    numbers = {}
    for name, make in makers.items():
        tops, kinds, swaps = [], [], []
        for i, trial in enumerate(trials):
            picture = make(trial, i)
            crops = np.stack([crop_around(picture, np.array(box, float)) for box in trial.boxes])
            seen = [CATEGORIES[k] for k in jury.boxes.judge.look_at(crops).category]
            kinds += [kind == subject.category for kind, subject in zip(seen, trial.subjects, strict=True)]
            for found, own, other in zip(jury.boxes.points(crops), points[i], points[i][::-1], strict=True):
                tops.append(jury.nearest(found, own) == 0)
                swaps.append(jury.nearest(found, [*own, other[0]]) == len(own))
        for kind, values in (("top1", tops), ("kind", kinds), ("swapped", swaps)):
            numbers[f"scene2_boxes_{kind}{name}"] = round(float(np.mean(values)), 4)
            numbers[f"scene2_boxes_{kind}{name}_se"] = round(float(np.std(values) / len(values) ** 0.5), 4)
    return numbers


def by_node(toybox, trial, index):
    """The picture of *Subjects in One Prompt*, with a mask for each box."""
    rng = np.random.default_rng((FIRST_SEED, index, 2))
    seeds = [FIRST_SEED + 2 * index + k for k in range(2)]
    subjects = [toybox.subjects([seed], s.category, rng) for seed, s in zip(seeds, trial.subjects, strict=True)]
    prompt = trial.text
    for letter, subject in zip("ab", trial.subjects, strict=True):
        prompt = prompt.replace(f"a {subject.category} ", f"a {{{letter}}} ", 1)
    inputs = {"model": toybox.model, "mask_a": _mask(trial.boxes[0]), "mask_b": _mask(trial.boxes[1])}
    positive, model = toybox.call("SubjectScene", toybox.clip, prompt, *subjects, **inputs, soft_edge=SOFT_EDGE)
    return toybox.draw(model, positive, 1, LARGE_SIZE, LARGE_SIZE)[0]


def _by_text(toybox, trial):
    return toybox.draw(toybox.model, toybox.words(trial.text), 1, LARGE_SIZE, LARGE_SIZE)[0]


def _mask(box):
    """A box in pixels as a MASK."""
    mask = torch.zeros(1, LARGE_SIZE, LARGE_SIZE)
    mask[:, box[1] : box[3], box[0] : box[2]] = 1
    return mask


def candidates(jury, trial, index):
    """For each thing the points of 8 of its kind, its own first."""
    rng = np.random.default_rng((FIRST_SEED, index, 3))
    sides = []
    for number, subject in enumerate(trial.subjects):
        others = FIRST_SEED + 10_000_000 + (len(trial.subjects) * index + number) * CANDIDATES
        kinds = [subject, *(subject_from_seed(others + k, subject.category) for k in range(1, CANDIDATES))]
        pictures = [render_picture(s, BACKGROUND_NAMES[rng.integers(12)], rng, bank=True).picture for s in kinds]
        sides.append(jury.points(np.stack(pictures)))
    return sides


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        print(json.dumps(measure(load_comfy(Path(base)), options.scenes)))


if __name__ == "__main__":
    run_command(main)
