"""Which means make tuning better: each one alone against the same 80 steps, on subjects that no setting was chosen on.

The first row has the paper's means (whole UNet, AdamW, timesteps by chance, nothing masked, no running mean) at the
learning rate of `make numbers-finetune`; every other row changes what it names. The subjects, their four photos, the
size of pictures and the judge are those of `make numbers-finetune --trial`. `margin` is by how much nearer a picture
lies to its own subject than to the nearest look-alike (sliced distance of colours and their places, in Lab): it still
tells rows apart where each finds every subject. `*_gain` is paired with the first row, `_se` are standard errors over
subjects. A run that was stopped goes on where it was. A table, then one JSON object.
"""

import argparse
import json

import numpy as np

from blipdiff_impl.blip_diffusion.finetuning.settings import EVEN, FinetuneSettings
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.toy_world.render import LARGE_SIZE
from blipdiff_impl.toybox.numbers_finetune import SETTINGS, TRIAL, Jury, draw, make_case, tune_on
from tools.numbers.records import Records
from tools.places import CACHE
from tools.problems import run_command

STEPS = 80
BASE = {"steps": STEPS, "learning_rate": SETTINGS.learning_rate}
ROWS: dict[str, dict] = {
    "as in the paper": {},
    "masks": {"background_weight": 0.0},
    "running mean": {"ema_decay": 0.95},
    "mirrored photos": {"flip": True},
    "min-SNR 5": {"min_snr": 5.0},
    "even timesteps": {"timesteps": EVEN},
    "vectors 30 times faster": {"vectors_speed": 30.0},
    "masks and running mean": {"background_weight": 0.0, "ema_decay": 0.95},
    "all but the mirror": {
        "background_weight": 0.0, "ema_decay": 0.95, "timesteps": EVEN, "min_snr": 5.0, "vectors_speed": 30.0,
    },
}  # fmt: skip
KEYS = ("top1", "margin", "palette_distance", "background")


def measure(count, first, records):
    """Scores by row, `[rows, subjects, keys]`; the row "zero-shot" is of the encoder alone."""
    pipeline, jury = SubjectPipeline.from_checkpoint("toybox"), Jury()
    found = {name: [] for name in ("zero-shot", *ROWS)}
    for index in range(count):
        case = make_case(first + index, TRIAL, LARGE_SIZE)

        def score(changes, case=case):
            if changes is None:
                subject = pipeline.encoder.encode(case.photos, case.category)
                return jury.score(case, draw(pipeline, subject, case))
            _, tuned = tune_on(pipeline, case, FinetuneSettings(**(BASE | changes)))
            return jury.score(case, draw(tuned.pipeline, tuned.subject, case))

        for name, changes in {"zero-shot": None, **ROWS}.items():
            scores = records.get([first + index, LARGE_SIZE, changes], lambda changes=changes: score(changes))
            found[name].append([scores[key] for key in KEYS])
        print(f"{index + 1} of {count}", flush=True)
    return {name: np.array(rows) for name, rows in found.items()}


def table(found):
    """The rows as Markdown, gains paired with the first of `ROWS`."""
    base = found[next(iter(ROWS))]
    lines = ["| means | subject top-1 of 16 | gain | margin | gain | palette distance | place |", f"|{'---|' * 7}"]
    for name, scores in found.items():
        cells = [_cell(column) for key in (0, 1) for column in (scores[:, key], scores[:, key] - base[:, key])]
        cells += [_cell(scores[:, 2], 1), f"{scores[:, 3].mean():.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def numbers(found):
    """One flat dictionary."""
    base, flat = found[next(iter(ROWS))], {}
    for name, scores in found.items():
        short = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
        for column, key in enumerate(KEYS):
            for ending, values in (("", scores[:, column]), ("_gain", scores[:, column] - base[:, column])):
                flat[f"{short}_{key}{ending}"] = round(float(values.mean()), 4)
                flat[f"{short}_{key}{ending}_se"] = round(_error(values), 4)
    return flat


def _cell(values, digits=3):
    return f"{values.mean():.{digits}f} ± {_error(values):.{digits}f}"


def _error(values):
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def main():
    """Print the table and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument(
        "--first", type=int, default=100, help="number of the first subject; below 20 settings were chosen"
    )
    options = parser.parse_args()
    records = Records(CACHE / "tuning.jsonl")
    found = measure(options.subjects, options.first, records)
    print(table(found))
    print(json.dumps(numbers(found)))


if __name__ == "__main__":
    run_command(main)
