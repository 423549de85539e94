"""The rows of the paper's Table 2 on the toy world: what each part of the method brings.

As in the paper all rows start from one text-to-image model and differ in one thing. Here it is the built-in model's
text encoder and UNet; Q-Former and projection are fresh, the first stage is trained in the same run. Runs are short, so
the rows tell directions, not how good the method gets.

Every row goes on where it was stopped and is not made again: results lie in `.cache/ablations`, one folder a row. A
line `name: value` for every number, then one JSON object; `*_se` are standard errors over held-out subjects.
"""

import argparse
import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.blip_diffusion.pretraining.command import make_task, train
from blipdiff_impl.blip_diffusion.pretraining.settings import ABLATIONS, Stage1Settings, Stage2Settings
from blipdiff_impl.blip_diffusion.pretraining.toy import STAGE1, STAGE2, ToyWorld
from blipdiff_impl.files import read_json, write_json
from blipdiff_impl.toy_world.world import HELD_OUT_SEED
from blipdiff_impl.toybox.evaluate import Evaluation, generate, make_trials
from blipdiff_impl.toybox.judge import Judge
from blipdiff_impl.training.settings_file import from_record
from tools.places import CACHE
from tools.problems import run_command

FOLDER = CACHE / "ablations"
TRIALS = 96
TRIED = 48  # held-out subjects, the first ones, that settings were chosen on; they are not in the numbers
LOSS_PAIRS = 192  # held-out pairs that the loss of noise prediction is taken on
LOSS_SEED = HELD_OUT_SEED + 900_000_000

FIRST = STAGE1 | {"steps": 480, "batch_size": 24, "warm_up": 20, "ema_decay": 0.98, "save_every": 60, "log_every": 40}
SECOND = STAGE2 | {
    "fresh": ("qformer",), "steps": 220, "batch_size": 32, "warm_up": 10, "learning_rate": 3e-4, "last_rate": 1.5e-5,
    "encoder_rate": 10.0, "mask_weight": 3.0, "ema_decay": 0.97, "save_every": 50, "log_every": 25, "sample_every": 0,
}  # fmt: skip
KEPT = ("subject_top1", "palette_distance", "background_accuracy", "category_accuracy", "pattern_accuracy")


def settings_of(row, first, folder=FOLDER):
    """Second-stage settings of a row; `first` is the file of the first stage."""
    record = SECOND | {"stage1": str(first), "out": str(folder / row)} | ABLATIONS[row]
    return from_record(Stage2Settings, record)


class Examiner:
    """Judges a trained model on held-out subjects."""

    def __init__(self, trials=TRIALS):
        self._trials = make_trials(TRIED + trials)[TRIED:]

    @cached_property
    def _evaluation(self):
        return Evaluation(Judge.load(), self._trials)

    def examine(self, path, settings):
        """Scores of the pictures it draws, and its loss."""
        pipeline = SubjectPipeline.from_checkpoint(path)
        if not settings.subject_text:
            _hide_words(pipeline.encoder.module.qformer)
        with torch.inference_mode():
            scores = self._evaluation.score(generate(pipeline, self._trials))
        kept = {name: scores[name] for key in KEPT for name in (key, f"{key}_se")}
        return kept | held_out_loss(path, settings)


def _hide_words(qformer):
    """What `subject_text: false` does in training."""
    forward = qformer.forward
    qformer.forward = lambda features, ids, mask: forward(features, ids, torch.zeros_like(ids))


def held_out_loss(path, settings, count=LOSS_PAIRS):
    """Mean squared error of the predicted noise on pairs that were never trained on: noise, timesteps and prompts are
    the same for every model, so that small differences show."""
    fixed = replace(
        settings, model=str(path), stage1="", fresh=(), subject_drop=0.0, empty_share=0.0, min_snr=0.0, mask_weight=0.0
    )
    task, world = make_task(fixed), ToyWorld(1, describe_look=False)
    model, losses = task.model.eval(), []
    with torch.inference_mode():
        for index in range(count):
            example = task.prepare(world[LOSS_SEED + index], np.random.default_rng((LOSS_SEED, index)))
            losses.append(float(model(task.batch(task.collate([example])))["noise"]))
    return {"noise_loss": round(float(np.mean(losses)), 5), "noise_loss_se": round(_error(losses), 5)}


def _error(values):
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def measure(rows=tuple(ABLATIONS), folder=FOLDER, trials=TRIALS):
    """Train and judge every row that is not there yet; numbers by `row_name`."""
    first = train(from_record(Stage1Settings, FIRST | {"out": str(folder / "stage1")}))
    examiner, numbers = Examiner(trials), {}
    for row in rows:
        scores = _row(settings_of(row, first, folder), examiner, trials)
        print(f"{row}: {json.dumps(scores)}", flush=True)
        numbers |= {f"ablation_{row.replace('-', '_')}_{name}": value for name, value in scores.items()}
    return numbers


def _row(settings, examiner, trials):
    """Scores of a row, from its file where that was made with the same settings."""
    path = Path(settings.out) / "scores.json"
    key = json.loads(json.dumps({"trials": trials, "settings": asdict(settings)}))
    record = read_json(path)
    if record and record["made_with"] == key:
        return record["scores"]
    scores = examiner.examine(train(settings), settings)
    write_json(path, {"made_with": key, "scores": scores})
    return scores


def table(numbers, rows=tuple(ABLATIONS)):
    """The rows as a Markdown table."""
    names = [*KEPT, "noise_loss"]
    lines = ["| row | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        start = f"ablation_{row.replace('-', '_')}_"
        cells = [f"{numbers[start + name]} ± {numbers[f'{start}{name}_se']}" for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Make what is missing and print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=tuple(ABLATIONS), default=tuple(ABLATIONS))
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the runs")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measure(tuple(chosen.rows), chosen.out)
    print(table(numbers, tuple(chosen.rows)))
    for name, value in numbers.items():
        print(f"{name}: {value}")
    print(json.dumps(numbers))


if __name__ == "__main__":
    run_command(main)
