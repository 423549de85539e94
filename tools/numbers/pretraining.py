"""Whether pre-training keeps its promises, and the ablations: what `make numbers-pretraining` prints.

On the toy world at the built-in model's sizes, both stages: losses fall, a run that goes on from a checkpoint has the
losses of an unbroken one, two processes have those of one, and how many samples a second one thread does. Then the rows
of Table 2 (tools/numbers/ablations.py). A line `name: value` for every number, then one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.blip_diffusion.pretraining.command import train
from blipdiff_impl.blip_diffusion.pretraining.settings import Stage1Settings, Stage2Settings
from blipdiff_impl.blip_diffusion.pretraining.toy import STAGE1, STAGE2
from blipdiff_impl.training.run_log import read_losses
from blipdiff_impl.training.settings_file import from_record, to_yaml
from tools.numbers import ablations
from tools.places import ROOT
from tools.problems import Problem, run_command

STEPS = 40
SHORT = {"steps": STEPS, "batch_size": 16, "warm_up": 5, "log_every": 1, "save_every": 20, "keep": 9}
# In 40 steps a loss falls visibly only where all begins at random.
FROM_SCRATCH = {
    "fresh": ("qformer", "text_encoder", "unet"), "learning_rate": 1.2e-3, "encoder_rate": 0.3, "mask_weight": 1.0,
    "sample_every": 0,
}  # fmt: skip
# Processes are compared at BLIP-2's rate. At ten times that rate the first stage is chaotic: weights changed by 1e-7
# move the contrast by 0.1 after 37 steps, in one process as between two.
GENTLE = {"optimiser": "adamw", "learning_rate": 1e-4, "last_rate": 1e-4}
LOSSES = {1: ("contrast", "matching", "captioning"), 2: ("noise",)}


def stages(folder):
    """Short runs of both stages; the second one begins at random but for image tower and VAE."""
    first = from_record(Stage1Settings, STAGE1 | SHORT | {"out": str(folder / "stage1")})
    return {
        1: first,
        2: from_record(Stage2Settings, STAGE2 | SHORT | FROM_SCRATCH | {"out": str(folder / "stage2")}),
    }


def measure(folder):
    """Numbers of both stages."""
    numbers = {}
    for stage, settings in stages(folder).items():
        train(settings)
        rows = read_losses(Path(settings.out))
        for name in LOSSES[stage]:
            numbers[f"stage{stage}_{name}_first"] = _mean(rows[:5], name)
            numbers[f"stage{stage}_{name}_last"] = _mean(rows[-5:], name)
        speeds = [row["samples_per_second"] for row in rows[1:]]
        numbers[f"stage{stage}_samples_per_second"] = round(float(np.median(speeds)), 1)
        numbers[f"stage{stage}_resumed_difference"] = _difference(rows, _broken(settings), stage)
        numbers[f"stage{stage}_two_processes_difference"] = _one_and_two(replace(settings, **GENTLE), folder, stage)
    return numbers


def _mean(rows, name):
    return round(float(np.mean([row[name] for row in rows])), 4)


def _broken(settings):
    """Losses of the run resumed from its first checkpoint."""
    folder = Path(settings.out)
    for path in (folder / "checkpoints").iterdir():
        if path.name != "step_00000020":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    train(settings)
    return read_losses(folder)


def _one_and_two(settings, folder, stage):
    """The largest difference between the losses of one process and of two."""
    alone = replace(settings, out=f"{settings.out}-one")
    train(alone)
    return _difference(read_losses(Path(alone.out)), _on_two(settings, folder), stage)


def _on_two(settings, folder):
    """Losses of the same run on two processes."""
    twin = replace(settings, out=f"{settings.out}-two")
    path = folder / "two.yaml"
    path.write_text(to_yaml(twin), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "blipdiff_impl", "pretrain", str(path)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Problem(f"Training on two processes ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return read_losses(Path(twin.out))


def _difference(rows, others, stage):
    """The largest between losses of the same step."""
    pairs = zip(rows, others, strict=True)
    return max(abs(a[name] - b[name]) for a, b in pairs for name in LOSSES[stage])


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-ablations", action="store_true", help="only the training itself, about four minutes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(Path(folder))
    if not chosen.without_ablations:
        found = ablations.measure()
        print(ablations.table(found))
        numbers |= found
    for name, value in numbers.items():
        print(f"{name}: {value}")
    print(json.dumps(numbers))


if __name__ == "__main__":
    run_command(main)
