"""`python -m blipdiff_impl.toy_gill STAGE [--steps N]`: the stages that make the toy GILL, in order."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from ..command import exit_status
from ..settings import require_in_range
from ..toybox.threads import on_one_thread


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; what is wrong ends in one sentence and exit status 2, Ctrl-C in 130."""
    return exit_status(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m blipdiff_impl.toy_gill", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--steps", type=int, help="length of a training stage over all its runs")
    parser.add_argument("--out", type=Path, help="where `export` writes, instead of the built-in model's file")
    options = parser.parse_args(arguments)
    if options.steps is not None:
        require_in_range("steps", options.steps, 1, 10**6)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    STAGES[options.stage](options)


def _language(options: argparse.Namespace) -> None:
    from .language import measure_language, train_language

    train_language(options.steps or 1600)
    print(json.dumps(measure_language(600)))


def _look_up(options: argparse.Namespace) -> None:
    from .language import measure_language, train_look_up

    train_look_up(options.steps or 1200)
    print(json.dumps(measure_language(600, as_prefix=True)))


def _tower(options: argparse.Namespace) -> None:
    from .tower import train_tower

    train_tower(options.steps or 2500)


def _gill(options: argparse.Namespace) -> None:
    from .train import train_gill

    train_gill(options.steps)


def _decision(options: argparse.Namespace) -> None:
    from .train import train_decision

    train_decision()


def _look(options: argparse.Namespace) -> None:
    from .train import train_look

    train_look(options.steps)


def _export(options: argparse.Namespace) -> None:
    from .train import TOY_FILE, export

    export(options.out or TOY_FILE)


STAGES = {
    "language": on_one_thread(_language),
    "look_up": on_one_thread(_look_up),
    "tower": on_one_thread(_tower),
    "gill": on_one_thread(_gill),
    "decision": on_one_thread(_decision),
    "look": on_one_thread(_look),
    "export": _export,
}

if __name__ == "__main__":
    sys.exit(main())
