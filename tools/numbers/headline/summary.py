"""From curves of single subjects to what is reported: after how many steps and seconds each way is as good as ours.

As good is the mean of *ours, full* after `TARGET_STEPS` steps. Between two looks a curve is a straight line. Errors are
standard deviations over resampled subjects (bootstrap), the same subjects for all ways. A way that does not get there
has no number (null), but `..._at_least`: its last step. Where *ours* is there before its first step there is no ratio,
in steps (0) or in seconds (what preparing takes, a denominator that would be next to nothing).
"""

import numpy as np

from tools.numbers.headline.methods import METHODS, TARGET_STEPS

RESAMPLED = 1000
# What is held against the target, and whether more is better.
TARGETS = {"": ("top1", 1), "palette_": ("palette_distance", -1)}
PEERS = ("dreambooth", "textual_inversion", "trainlora")
KEYS = ("seconds", "top1", "palette_distance", "background")


class Curves:
    """`steps` by method, and for each of `KEYS` an array `[subjects, steps]` by method.

    Args:
        records: curves by (method, number of the subject).
    """

    def __init__(self, records):
        self.subjects = sorted({subject for _, subject in records})
        self.methods = [name for name in METHODS if any(method == name for method, _ in records)]
        self.steps, self.values = {}, {key: {} for key in KEYS}
        for method in self.methods:
            curves = [records[method, subject] for subject in self.subjects]
            self.steps[method] = np.array([look["step"] for look in curves[0]])
            for key in KEYS:
                self.values[key][method] = np.array([[look[key] for look in curve] for curve in curves])

    def mean(self, key, method, rows=None):
        """Over all subjects, or over those with these places in `subjects`."""
        values = self.values[key][method]
        return (values if rows is None else values[rows]).mean(axis=0)

    def error(self, key, method):
        """Standard error of the mean over subjects."""
        values = self.values[key][method]
        return values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(values.shape[1], np.nan)


def crossing(where, values, target):
    """The first place at which the line through (where, values) is not below the target; None where it never is."""
    for index, value in enumerate(values):
        if value >= target:
            if index == 0:
                return float(where[0])
            share = (target - values[index - 1]) / (value - values[index - 1])
            return float(where[index - 1] + share * (where[index] - where[index - 1]))
    return None


def reached(curves, rows=None):
    """For all subjects, or these: steps and seconds to the target and their ratios to ours, by the names of the report;
    None where the target is not reached."""
    found = {}
    for prefix, (key, sign) in TARGETS.items():
        at_target = list(curves.steps["ours"]).index(TARGET_STEPS)
        target = sign * curves.mean(key, "ours", rows)[at_target]
        for method in curves.methods:
            values = sign * curves.mean(key, method, rows)
            for unit, where in (("steps", curves.steps[method]), ("seconds", curves.mean("seconds", method, rows))):
                found[f"{unit}_to_{prefix}target_{method}"] = crossing(where, values, target)
        for peer in (name for name in PEERS if name in curves.methods):
            for unit, name in (("steps", "speedup_over"), ("seconds", "speedup_in_seconds_over")):
                found[f"{prefix}{name}_{peer}"] = _times(found[f"{unit}_to_{prefix}target_{peer}"], found, unit, prefix)
    return found


def _times(theirs, found, unit, prefix):
    """How many times what ours needs; None where either is not known, or ours needs no step."""
    if theirs is None or not found[f"steps_to_{prefix}target_ours"]:
        return None
    return theirs / found[f"{unit}_to_{prefix}target_ours"]


def numbers(curves):
    """What the last line prints."""
    generator, count = np.random.default_rng(0), len(curves.subjects)
    resampled = [reached(curves, generator.integers(0, count, count)) for _ in range(RESAMPLED)]
    record = {"subjects": count, "target_steps": TARGET_STEPS}
    for method in curves.methods:
        last = len(curves.steps[method]) - 1
        at = list(curves.steps["ours"]).index(TARGET_STEPS) if method == "ours" else last
        record[f"steps_at_end_{method}"] = int(curves.steps[method][at])
        for key in KEYS[1:]:
            record[f"{key}_at_end_{method}"] = round(float(curves.mean(key, method)[at]), 4)
            record[f"{key}_at_end_{method}_se"] = _rounded(curves.error(key, method)[at])
    for name, value in reached(curves).items():
        others = [sample[name] for sample in resampled if sample[name] is not None]
        record[name] = _rounded(value)
        record[f"{name}_se"] = _rounded(np.std(others)) if value is not None and len(others) > 1 else None
        if value is None:
            record[f"{name}_at_least"] = _bound(curves, name)
        record[f"{name}_reached"] = round(len(others) / RESAMPLED, 3)
    return record


def _bound(curves, name):
    """What a number is at least, where the target was not reached within the steps that were made."""
    method = next(method for method in curves.methods if name.endswith(f"_{method}"))
    unit = "seconds" if "seconds" in name else "steps"
    last = curves.steps[method][-1] if unit == "steps" else curves.mean("seconds", method)[-1]
    if "speedup" not in name:
        return _rounded(last)
    prefix = "palette_" if name.startswith("palette_") else ""
    return _rounded(_times(last, reached(curves), unit, prefix))


def _rounded(value):
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
