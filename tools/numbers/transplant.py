"""A subject in somebody's checkpoint: does the built-in model's ability, added to a styled model, show both?

The checkpoint is the built-in model without subjects (`stock`) and with a style (`print`: places in two colours), both
LoRAs that come with the pack. *Subjects in My Checkpoint* adds what the built-in model knows beyond `stock`. Held-out
subjects are drawn as in `make numbers-toybox` and judged likewise: `subject_top1` among 8 of their kind, and
`style_accuracy`, the share of pictures whose ground is in the style. `*_without` is the checkpoint without what was
added, `*_plain` the built-in model as it is; `*_renderer` the renderer's own pictures in the style, the best that the
judge can see. The last line is one JSON object; `*_se` are standard errors.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.toy_world.render import LARGE_SIZE, render_picture
from blipdiff_impl.toy_world.two_colours import distance_from_style, in_two_colours
from blipdiff_impl.toybox.evaluate import Evaluation, make_trials
from blipdiff_impl.toybox.judge import Judge, judged_size
from blipdiff_impl.toybox.train_style import PRINT_FILE, STOCK_FILE
from tools.inprocess import load_comfy
from tools.numbers.two_subjects import Toybox
from tools.problems import run_command

IN_STYLE = 10.0
"""Largest mean Lab distance of a ground in the style; the renderer's are below 1.2 in it and above 14 without it."""
GROUP = 16
SIZE = LARGE_SIZE


def measure(comfy, count):
    """Numbers over `count` held-out subjects."""
    toybox, judge, trials = Toybox(comfy), Judge.load(), make_trials(count, SIZE)
    evaluation = Evaluation(judge, trials)

    stock = toybox.with_lora(toybox.model, toybox.clip, STOCK_FILE)
    checkpoint = toybox.with_lora(*stock, PRINT_FILE)
    joined = toybox.call("SubjectTransplant", *checkpoint, toybox.model, toybox.clip, *stock, 1.0)
    numbers = {}
    routes = {"": joined, "_without": checkpoint, "_plain": (toybox.model, toybox.clip)}
    for suffix, (model, clip) in routes.items():
        numbers |= _scores(evaluation, judge, _drawn(toybox, trials, model, clip), suffix)
        print(json.dumps(numbers), flush=True)
    return numbers | _scores(evaluation, judge, _rendered(trials), "_renderer")


def _drawn(toybox, trials, model, clip):
    """Pictures uint8 `[N, S, S, 3]` of the trials' subjects, by Subject Prompt and the sampler."""
    rows = []
    for trial in trials:
        photo = torch.from_numpy(trial.reference.copy())[None].float() / 255
        subject = toybox.call("SubjectEncoder", toybox.encoder, photo, trial.subject.category)[0]
        rows.append(toybox.call("SubjectPromptInfix", clip, subject, trial.phrase)[0][0][0])
    pictures = [
        toybox.draw(model, [[torch.cat(rows[i : i + GROUP]), {}]], len(rows[i : i + GROUP]), SIZE, SIZE)
        for i in range(0, len(rows), GROUP)
    ]
    return np.concatenate(pictures)


def _rendered(trials):
    """What should come out, drawn by the renderer."""
    pictures = []
    for number, trial in enumerate(trials):
        rng = np.random.default_rng((23, number))
        drawn = render_picture(trial.subject, trial.background, rng, size=SIZE)
        pictures.append(in_two_colours(drawn.picture, drawn.mask))
    return np.stack(pictures)


def _scores(evaluation, judge, pictures, suffix):
    found = evaluation.score(pictures)
    small = judged_size(pictures)
    masks = judge.look_at(small).mask
    styled = np.array([
        not mask.all() and distance_from_style(picture, mask) <= IN_STYLE
        for picture, mask in zip(small, masks, strict=True)
    ], float)  # fmt: skip
    kept = {name: found[name] for name in ("subject_top1", "category_accuracy", "palette_distance")}
    errors = {f"{name}_se": found[f"{name}_se"] for name in kept}
    style = {"style_accuracy": styled.mean(), "style_accuracy_se": styled.std() / len(styled) ** 0.5}
    return {
        name.removesuffix("_se") + suffix + "_se" * name.endswith("_se"): round(float(value), 4)
        for name, value in (kept | errors | style).items()
    }


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=96)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        print(json.dumps(measure(load_comfy(Path(base)), options.subjects)))


if __name__ == "__main__":
    run_command(main)
