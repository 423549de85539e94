"""Fine-tuning against DreamBooth, textual inversion and the host's TrainLoraNode: `make numbers-headline`.

All learn held-out toy subjects from the same four photos, with the same model, batch and kind of optimiser, and are
judged while they learn: is the subject found among 15 look-alikes, how far off are its colours, is the place right. The
learning rate of each was chosen on other subjects, from as many (`--choose`). A whole run takes about an hour of
one core; it goes on where it was stopped, and writes a plot and the last section of docs/headline.md. The last line is
one JSON object.
"""

import argparse
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from blipdiff_impl.blip_diffusion.checkpoints.opening import TOYBOX_FILE
from blipdiff_impl.files import sha256_of, write_whole
from blipdiff_impl.toybox.evaluate import GUIDANCE, STEPS
from blipdiff_impl.toybox.numbers_finetune import REPORTED, SETTINGS, TRIAL, make_case
from tools.bench import machine
from tools.inprocess import load_comfy
from tools.numbers.headline import page
from tools.numbers.headline.methods import METHODS, TARGET_STEPS, Studio
from tools.numbers.headline.plot import draw
from tools.numbers.headline.summary import Curves, numbers
from tools.numbers.records import Records
from tools.places import CACHE, ROOT
from tools.problems import run_command

FOLDER = CACHE / "headline"
SUBJECTS, CHOOSING = 8, 2
CHOOSING_STEPS = {True: TARGET_STEPS, False: 200}  # of ways whose curves end early, and of the others


def measure(studio, made_with, records, count, methods):
    """Curves by (method, subject), subject by subject, so that a run that was stopped has whole subjects."""
    curves = {}
    for index in range(count):
        case = make_case(index, REPORTED)
        for name in methods:
            method = METHODS[name]
            key = ["curve", made_with, name, method.rate, method.steps, index]
            curves[name, index] = records.get(key, lambda method=method, case=case: method.curve(studio, case))
            end = curves[name, index][-1]
            print(f"subject {index + 1} of {count}, {method.title}: {json.dumps(end)}", flush=True)
    return curves


def choose(studio, made_with, records, count, methods):
    """Print what each learning rate gives on subjects that are not reported; the best is the one to write down."""
    keys = ("top1", "palette_distance", "background")
    for name in methods:
        method = METHODS[name]
        last = CHOOSING_STEPS[max(method.steps) <= 2 * TARGET_STEPS]
        means = {}
        for rate in method.rates:
            ends = [_end(studio, made_with, records, name, rate, last, index) for index in range(count)]
            means[rate] = {key: sum(end[key] for end in ends) / count for key in keys}
            print(f"{method.title}, {last} steps at {rate:g}: {json.dumps(means[rate])}", flush=True)
        best = max(means, key=lambda rate: (means[rate]["top1"], -means[rate]["palette_distance"]))
        print(f"{method.title}: {best:g} is best, {method.rate:g} is used", flush=True)


def _end(studio, made_with, records, name, rate, last, index):
    """How one subject is after the last step."""

    def make():
        return METHODS[name].curve(studio, make_case(index, TRIAL), rate, (last,))

    return records.get(["choice", made_with, name, rate, last, index], make)[-1]


def main():
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="toybox", help="a single file like the built-in model's (default: that one)")
    parser.add_argument("--subjects", type=int, help=f"default: {SUBJECTS}, or {CHOOSING} with --choose")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--choose", action="store_true", help="try the learning rates, on other subjects")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of what is measured")
    parser.add_argument("--page", action="store_true", help="write docs/headline.md and its plot")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("blipdiff_impl").setLevel(logging.WARNING)
    file = TOYBOX_FILE if chosen.model == "toybox" else Path(chosen.model)
    made_with = [sha256_of(file), asdict(SETTINGS), STEPS, GUIDANCE]
    chosen.out.mkdir(parents=True, exist_ok=True)
    records = Records(chosen.out / "records.jsonl")
    with tempfile.TemporaryDirectory() as base:
        studio = Studio(chosen.model, load_comfy(Path(base)))
        if chosen.choose:
            choose(studio, made_with, records, chosen.subjects or CHOOSING, chosen.methods)
            return
        curves = Curves(measure(studio, made_with, records, chosen.subjects or SUBJECTS, chosen.methods))
    plot = page.PLOT if chosen.page else chosen.out / "headline.png"
    draw(curves, plot)
    found = numbers(curves)
    if chosen.page:
        text = page.PAGE.read_text(encoding="utf-8")
        write_whole(page.PAGE, page.page_with(text, machine(), found).encode())
    print(f"plot: {plot.relative_to(ROOT) if plot.is_relative_to(ROOT) else plot}")
    print(json.dumps(found))


if __name__ == "__main__":
    run_command(main)
