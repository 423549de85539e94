"""docs/headline.md: what is written by hand stays, the last section is made from the numbers."""

from tools.numbers.headline.methods import METHODS
from tools.numbers.headline.summary import PEERS
from tools.places import ROOT

PAGE, PLOT = ROOT / "docs" / "headline.md", ROOT / "docs" / "headline.png"
HEADING = "## The last run"


def page_with(page, where, numbers):
    """The page's text with its last section made again; `where`: on what machine."""
    parts = [
        page.partition(HEADING)[0].rstrip(),
        HEADING,
        f"{numbers['subjects']} held-out subjects. {where}",
        f"![Curves of all methods against steps and seconds]({PLOT.name})",
        _qualities(numbers),
        _targets(numbers),
        _speedups(numbers),
    ]
    return "\n\n".join(parts) + "\n"


def _qualities(numbers):
    lines = ["| way | steps | subject top-1 of 16 | palette distance | place |", "|---|---|---|---|---|"]
    for name, method in METHODS.items():
        if f"steps_at_end_{name}" in numbers:
            cells = [_cell(numbers, f"{key}_at_end_{name}") for key in ("top1", "palette_distance", "background")]
            lines.append(f"| {method.title} | {numbers[f'steps_at_end_{name}']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _targets(numbers):
    lines = [
        f"| until as good as *{METHODS['ours'].title}* after {numbers['target_steps']} steps "
        "| steps, top-1 | seconds, top-1 | steps, palette | seconds, palette |",
        "|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        if f"steps_to_target_{name}" in numbers:
            keys = [f"{unit}_to_{prefix}target_{name}" for prefix in ("", "palette_") for unit in ("steps", "seconds")]
            lines.append(f"| {method.title} | {' | '.join(_cell(numbers, key) for key in keys)} |")
    return "\n".join(lines)


def _speedups(numbers):
    lines = [
        "| times as many as ours | steps, top-1 | seconds, top-1 | steps, palette | seconds, palette |",
        "|---|---|---|---|---|",
    ]
    for name in PEERS:
        if f"speedup_over_{name}" in numbers:
            keys = [f"{prefix}speedup{unit}_over_{name}" for prefix in ("", "palette_") for unit in ("", "_in_seconds")]
            lines.append(f"| {METHODS[name].title} | {' | '.join(_cell(numbers, key) for key in keys)} |")
    return "\n".join(lines)


def _cell(numbers, name):
    """A number with its error; where the target was not reached, what it is at least."""
    value, error = numbers[name], numbers.get(f"{name}_se")
    if value is None:
        bound = numbers.get(f"{name}_at_least")
        return "not reached" if bound is None else f"not reached, over {_short(bound)}"
    return _short(value) if error is None else f"{_short(value)} ± {_short(error)}"


def _short(value):
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
