"""Does the subject's attention map lie on the subject? On the built-in model, with held-out subjects.

The mean map of the 16 vectors, enlarged and stretched to 0..1, is cut at one threshold for all pictures and compared
with the judge's mask of the subject in the generated picture. The threshold is the best for the mean intersection over
union. Layers and steps were chosen on other subjects (`TRIAL`).
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions
from blipdiff_impl.toybox.judge import Judge
from tools.inprocess import load_comfy
from tools.numbers.two_subjects import GROUP, Toybox
from tools.problems import run_command

REPORTED = HELD_OUT_SEED + 930_000_000
TRIAL = HELD_OUT_SEED + 960_000_000
THRESHOLDS = np.linspace(0.05, 0.95, 19)
# name of the number -> layers, start, end; the unnamed one is what the workflow has
SETTINGS = {
    "": ("level 1", 0.0, 1.0),
    "_all_layers": ("all", 0.0, 1.0),
    "_level_2": ("level 2", 0.0, 1.0),
    "_first_half": ("level 1", 0.0, 0.5),
    "_second_half": ("level 1", 0.5, 1.0),
}


def measure(comfy, count, first=REPORTED):
    """`attention_iou` over about `count` pictures (whole groups of 8), and the same for other layers and steps."""
    toybox, judge = Toybox(comfy), Judge.load()
    maps, masks = {name: [] for name in SETTINGS}, []
    for group in range(-(-count // GROUP)):
        found, seen = _group(toybox, judge, group, first)
        masks += list(seen)
        for name, own in found.items():
            maps[name] += list(own)
    numbers = {}
    for name, own in maps.items():
        threshold, overlaps = _best(np.stack(own), np.stack(masks))
        numbers[f"attention_iou{name}"] = round(float(overlaps.mean()), 4)
        numbers[f"attention_iou{name}_se"] = round(float(overlaps.std() / len(overlaps) ** 0.5), 4)
        numbers[f"attention_iou{name}_threshold"] = round(float(threshold), 2)
    return numbers


def _group(toybox, judge, group, first):
    """Maps `[8, H, W]` for each setting, and the judge's masks `[8, H, W]`."""
    rng = np.random.default_rng((first, group))
    category, phrases = CATEGORIES[group % 12], captions(BACKGROUND_NAMES[group * 5 % 12])
    subjects = toybox.subjects(range(first + group * GROUP, first + (group + 1) * GROUP), category, rng)
    prompt = toybox.call("SubjectPromptInfix", toybox.clip, subjects, phrases[rng.integers(len(phrases))])[0]
    models, model = {}, toybox.model
    for name, (layers, start, end) in SETTINGS.items():
        # Each records on top of the one before; all see the run of the last.
        model = toybox.call("SubjectAttentionMaps", model, prompt, "subject", "", layers, start, end)[0]
        models[name] = model
    samples = toybox.sample(model, prompt, GROUP)
    found = {name: toybox.call("SubjectAttentionView", own, samples)[1].numpy() for name, own in models.items()}
    return found, judge.look_at(toybox.decode(samples)).mask


def _best(maps, masks):
    """The threshold with the highest mean, and each picture's intersection over union there."""
    overlaps = [_intersection_over_union(maps > threshold, masks) for threshold in THRESHOLDS]
    best = int(np.argmax([each.mean() for each in overlaps]))
    return THRESHOLDS[best], overlaps[best]


def _intersection_over_union(a, b):
    return (a & b).sum(axis=(1, 2)) / np.maximum(1, (a | b).sum(axis=(1, 2)))


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--trial", action="store_true", help="the subjects that layers and steps were chosen on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        comfy = load_comfy(Path(base))
        print(json.dumps(measure(comfy, options.pictures, TRIAL if options.trial else REPORTED)))


if __name__ == "__main__":
    run_command(main)
