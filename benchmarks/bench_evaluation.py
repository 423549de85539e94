"""Pictures a second that `evaluate` draws with one and with two Ray workers, of one thread each, on the built-in model.

What is counted begins when every worker has drawn once and ends with the last picture, so neither the start of Ray nor
the loading of the model.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blipdiff_impl.evaluation.benchmark import open_benchmark
from blipdiff_impl.evaluation.generation import GenerationSettings
from blipdiff_impl.evaluation.workers import Studio, draw_with_ray
from blipdiff_impl.toy_world.render import render_reference
from blipdiff_impl.toy_world.world import BACKGROUNDS, HELD_OUT_SEED, subject_from_seed

from .measure import machine

SUBJECTS, SEEDS, STEPS, TURNS = 4, (1000, 2000), 25, 2
WORKERS = (1, 2)


def main(subjects: int = SUBJECTS, steps: int = STEPS, turns: int = TURNS) -> None:
    """Measure both in turn; the ratio is that of their means."""
    torch.set_num_threads(1)
    print(machine())
    settings = GenerationSettings(seeds=SEEDS, images=1, steps=steps, guidance=2.5)
    rates: dict[int, list[float]] = {count: [] for count in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        write_benchmark(Path(folder) / "data", subjects)
        for turn in range(turns):
            for count in WORKERS:
                out = Path(folder) / f"{turn}-{count}"
                rates[count].append(pictures_a_second(Path(folder) / "data", settings, out, count))
                print(f"{count} Ray worker(s): {rates[count][-1]:.2f} pictures/s", flush=True)
    one, two = (statistics.mean(rates[count]) for count in WORKERS)
    print(
        f"drawing of evaluate, {steps} steps: {one:.2f} pictures/s with one Ray worker, {two:.2f} with two, which are "
        f"{two / one:.2f} times as fast (goal at least 1.7)"
    )


def pictures_a_second(data: Path, settings: GenerationSettings, out: Path, workers: int) -> float:
    """Draw the benchmark into an empty folder."""
    moments: list[float] = []
    studio = Studio("toybox", "cpu", torch.float32, settings, out / "pictures", out / "tuned")
    draw_with_ray(studio, open_benchmark(data), workers, on_picture=lambda *_: moments.append(time.perf_counter()))
    return (len(moments) - workers) / (moments[-1] - moments[workers - 1])


def write_benchmark(folder: Path, subjects: int) -> None:
    """Held-out toy subjects with a picture each, and a prompt for every place."""
    entries = {}
    for number in range(subjects):
        subject, name = subject_from_seed(HELD_OUT_SEED + number), f"toy_{number}"
        entries[name] = {"category": subject.category, "prompts": "object"}
        (folder / name).mkdir(parents=True)
        picture = render_reference(subject, np.random.default_rng(number)).picture
        Image.fromarray(picture).save(folder / name / "00.png")
    prompts = {"object": [f"a {{}} {phrases[0]}" for phrases in BACKGROUNDS.values()]}
    (folder / "benchmark.json").write_text(json.dumps({"prompts": prompts, "subjects": entries}), encoding="utf-8")


if __name__ == "__main__":
    main()
