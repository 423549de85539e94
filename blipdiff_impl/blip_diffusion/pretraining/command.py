"""The command `pretrain`: a file of settings, or the toy world, to trained weights."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from ..errors import SubjectError
from .loading import open_source
from .settings import Stage1Settings, Stage2Settings, StageSettings
from .settings_file import from_record, parse_overrides, read_settings


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser("pretrain", help="train subject encoder and UNet (docs/pretraining.md)")
    parser.add_argument("settings", nargs="?", help="YAML: `stage: 1` or `stage: 2`, then the stage's settings")
    parser.add_argument("--toybox", action="store_true", help="both stages on the toy world, no file needed")
    parser.add_argument("--stage", type=int, choices=(1, 2), help="only this one of --toybox")
    parser.add_argument("--out", help="folder of the run (default: what the settings say; `pretraining`)")
    for name, where in (("set", "all stages"), ("set1", "the first stage"), ("set2", "the second stage")):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=VALUE", help=f"change {where}")
    parser.set_defaults(run=run_pretrain)


def run_pretrain(options: argparse.Namespace) -> None:
    """Train; what is there already is gone on from."""
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
    settings = read_settings(Path(options.settings), options.set)
    train(replace(settings, out=options.out) if options.out else settings)


def train(settings: StageSettings) -> Path:
    """Run one stage to its end; returns the file it writes."""
    from .trainer import Trainer

    source = open_source(settings)
    return Trainer(make_task(settings), source).run()


def make_task(settings: StageSettings):
    """The task that these settings describe."""
    if isinstance(settings, Stage1Settings):
        from .stage1_task import Stage1Task

        return Stage1Task(settings)
    from .stage2_task import Stage2Task

    return Stage2Task(settings)


def toy_stages(options: argparse.Namespace) -> list[StageSettings]:
    """Settings of the toy world's stages, the second one going on from the first."""
    from .stage1_task import Stage1Task
    from .toy import STAGE1, STAGE2

    folder = Path(options.out or "pretraining")
    shared = parse_overrides(options.set)
    first = {"out": str(folder / "stage1")} | shared | parse_overrides(options.set1)
    second = {"out": str(folder / "stage2")} | shared | parse_overrides(options.set2)
    second = {"stage1": str(Path(first["out"]) / Stage1Task.result)} | second
    stages = {1: from_record(Stage1Settings, STAGE1 | first), 2: from_record(Stage2Settings, STAGE2 | second)}
    return [stages[options.stage]] if options.stage else list(stages.values())
