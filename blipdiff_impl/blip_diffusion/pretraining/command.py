"""The command `pretrain`: a file of settings, or the toy world, to trained weights."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import SubjectError
from ...training.settings import StageSettings
from ...training.settings_file import from_record, parse_overrides, read_settings
from .settings import STAGES, Stage1Settings, Stage2Settings
from .sources import open_source

if TYPE_CHECKING:
    from .stage1_task import Stage1Task
    from .stage2_task import Stage2Task


def add_commands(
    commands: argparse._SubParsersAction, others: Mapping[type[StageSettings], Callable[[Any], Path]] | None = None
) -> None:
    """Add the command to a parser's subcommands.

    Args:
        others: stages of other methods by the kind of their settings: what trains one.
    """
    others = others or {}
    names = " or ".join(f"`stage: {kind.stage}`" for kind in (*STAGES.values(), *others))
    parser = commands.add_parser("pretrain", help="train subject encoder and UNet, or an adapter (docs/pretraining.md)")
    parser.add_argument("settings", nargs="?", help=f"YAML: {names}, then the stage's settings")
    parser.add_argument("--toybox", action="store_true", help="both stages on the toy world, no file needed")
    parser.add_argument("--stage", type=int, choices=(1, 2), help="only this one of --toybox")
    parser.add_argument("--out", help="folder of the run (default: what the settings say; `pretraining`)")
    for name, where in (("set", "all stages"), ("set1", "the first stage"), ("set2", "the second stage")):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=VALUE", help=f"change {where}")
    parser.set_defaults(run=run_pretrain, others=others)


def run_pretrain(options: argparse.Namespace) -> None:
    """Train; resumes from the newest checkpoint."""
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    if options.toybox == bool(options.settings):
        raise SubjectError("Give either a file of settings or --toybox.")
    if options.toybox:
        for settings in toy_stages(options):
            train(settings)
        return
    for name in ("stage", "set1", "set2"):
        if getattr(options, name):
            raise SubjectError(f"--{name} goes with --toybox; a file of settings is one stage.")
    stages = {**STAGES, **{kind.stage: kind for kind in options.others}}
    settings = read_settings(Path(options.settings), stages, options.set)
    settings = replace(settings, out=options.out) if options.out else settings
    options.others.get(type(settings), train)(settings)


def train(settings: StageSettings) -> Path:
    """Run one stage to its end; returns the file it writes."""
    from ...training.trainer import train_stage

    return train_stage(settings, open_source, make_task)


def make_task(settings: StageSettings) -> Stage1Task | Stage2Task:
    """The task that these settings describe."""
    if isinstance(settings, Stage1Settings):
        from .stage1_task import Stage1Task

        return Stage1Task(settings)
    from .stage2_task import Stage2Task

    assert isinstance(settings, Stage2Settings)  # `STAGES` has no third
    return Stage2Task(settings)


def toy_stages(options: argparse.Namespace) -> list[StageSettings]:
    """Settings of the toy world's stages, the second one starting from the first."""
    from .stage1_task import Stage1Task
    from .toy import STAGE1, STAGE2

    folder = Path(options.out or "pretraining")
    shared = parse_overrides(options.set)
    first = {"out": str(folder / "stage1")} | shared | parse_overrides(options.set1)
    second = {"out": str(folder / "stage2")} | shared | parse_overrides(options.set2)
    second = {"stage1": str(Path(first["out"]) / Stage1Task.result)} | second
    stages = {1: from_record(Stage1Settings, STAGE1 | first), 2: from_record(Stage2Settings, STAGE2 | second)}
    return [stages[options.stage]] if options.stage else list(stages.values())
