"""Does a strip go evenly from one subject to the other? On the built-in model, with pairs of held-out subjects.

Both subjects of a pair are of one kind; eight blends are drawn as one batch with shared noise. A picture's place
between the two is measured by the main colours inside the judge's mask: their distance from those of the first
subject's own render, less that from the second's. Ranks are correlated with the place in the strip (Spearman), on the
mean curve of all pairs and in each pair by itself.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from blipdiff_impl.toy_world.render import PICTURE_SIZE, render_picture
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions, subject_from_seed
from blipdiff_impl.toybox.evaluate import GUIDANCE, STEPS
from blipdiff_impl.toybox.judge import Judge, palette_distance, subject_points
from tools.inprocess import load_comfy
from tools.numbers.two_subjects import Toybox
from tools.problems import run_command

REPORTED = HELD_OUT_SEED + 940_000_000
COLUMNS = 8
MODES = {"": "lerp", "_slerp": "slerp"}


def measure(comfy, count, first=REPORTED):
    """`interpolation_rank_correlation` on the mean of `count` pairs and the curve itself; `*_pairs` is the mean of each
    pair's own correlation; `*_slerp` the same on the arc."""
    toybox, judge = Toybox(comfy), Judge.load()
    curves = {name: [] for name in MODES}
    for pair in range(count):
        for name, curve in _pair(comfy, toybox, judge, pair, first).items():
            curves[name].append(curve)
    numbers = {}
    for name, each in curves.items():
        own = np.array([_correlation(curve) for curve in each])
        mean = np.mean(each, axis=0)
        numbers[f"interpolation_rank_correlation{name}"] = round(_correlation(mean), 4)
        numbers[f"interpolation_rank_correlation{name}_pairs"] = round(float(own.mean()), 4)
        numbers[f"interpolation_rank_correlation{name}_pairs_se"] = round(float(own.std() / len(own) ** 0.5), 4)
        numbers[f"interpolation_curve{name}"] = [round(float(value), 2) for value in mean]
    return numbers


def _pair(comfy, toybox, judge, pair, first):
    """For each mode the curve over the strip: Lab distance to the first subject less that to the second."""
    rng = np.random.default_rng((first, pair))
    category, background = CATEGORIES[pair % 12], BACKGROUND_NAMES[pair * 5 % 12]
    seeds = [first + 2 * pair, first + 2 * pair + 1]
    ends = [toybox.subjects([seed], category, rng) for seed in seeds]
    rendered = np.stack([render_picture(subject_from_seed(s, category), background, rng).picture for s in seeds])
    a, b = _points(judge, rendered)
    curves = {}
    for name, mode in MODES.items():
        strip = toybox.call("SubjectInterpolate", *ends, mode=mode, columns=COLUMNS)[0]
        positive = toybox.call("SubjectPromptInfix", toybox.clip, strip, captions(background)[0])[0]
        pictures = _draw(comfy, toybox, positive, seed=pair)
        curves[name] = [palette_distance(p, a) - palette_distance(p, b) for p in _points(judge, pictures)]
    return curves


def _draw(comfy, toybox, positive, seed):
    side = PICTURE_SIZE // 8
    latent = {"samples": torch.zeros(COLUMNS, 4, side, side), "batch_index": [0] * COLUMNS}
    with torch.inference_mode():
        negative = comfy.node("CLIPTextEncode")().encode(toybox.clip, "")[0]
        settings = (seed, STEPS, GUIDANCE, "euler", "normal", positive, negative, latent)
        return toybox.decode(comfy.nodes.common_ksampler(toybox.model, *settings)[0])


def _points(judge, pictures):
    masks = judge.look_at(pictures).mask
    return [subject_points(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]


def _correlation(curve):
    return float(spearmanr(range(len(curve)), curve).statistic)


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        print(json.dumps(measure(load_comfy(Path(base)), options.pairs)))


if __name__ == "__main__":
    run_command(main)
