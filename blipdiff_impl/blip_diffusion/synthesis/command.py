"""The command `synthesise`: photos to training pairs (docs/synthesis.md)."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, fields
from pathlib import Path

from ...ray_session import check_workers
from . import lists_command
from .sharding.manifest import Manifest
from .sharding.settings import SynthesisSettings
from .sharding.speed import Speed
from .sharding.synthesise import Sources, synthesise

_HELP = {
    "seed": "of backgrounds and their crops",
    "picture_side": "shorter side of the original",
    "composite_side": "shorter side of the subject on its new background",
    "working_side": "longer side that alpha is solved at",
    "edge": "half the unknown band around a given mask, part of the picture's size",
    "foreground_threshold": "of CLIPSeg's stretched confidence: above is subject",
    "background_threshold": "likewise: up to here is background",
    "least_side": "pixels a side of photo and box at least",
    "least_cover": "least part of its box that a subject fills",
    "most_cover": "largest part of its box that a subject fills",
    "quality": "of the JPEG files",
    "shard_samples": "samples of a shard",
}


log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command, with its own subcommands, to a parser's subcommands."""
    parser = commands.add_parser("synthesise", help="photos to training pairs (docs/synthesis.md)")
    subcommands = parser.add_subparsers(required=True, metavar="STEP")
    lists_command.add_commands(subcommands)
    _add_shards(subcommands)


def _add_shards(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser("shards", help="cut subjects out, put them on other backgrounds, write shards")
    parser.add_argument("list", help="photos with captions, JSON Lines")
    parser.add_argument("--backgrounds", required=True, help="folder of pictures to put subjects on")
    parser.add_argument("--out", required=True, help="folder of the shards; an interrupted run resumes there")
    parser.add_argument("--clipseg", help="folder of CLIPSeg, for photos without a mask")
    parser.add_argument("--workers", type=int, default=0, help="Ray processes (default: none, a plain loop)")
    parser.add_argument("--ray-address", default="", help="a Ray cluster (default: one on this computer)")
    settings = parser.add_argument_group("settings", "another value makes other shards")
    for field in fields(SynthesisSettings):
        kind, option = type(field.default), "--" + field.name.replace("_", "-")
        settings.add_argument(
            option, type=kind, default=field.default, help=f"{_HELP[field.name]} (default: {field.default:g})"
        )
    parser.set_defaults(run=run_shards)


def run_shards(options: argparse.Namespace) -> None:
    """Make the shards and report counts."""
    check_workers(options.workers, options.ray_address)
    clipseg = Path(options.clipseg) if options.clipseg else None
    sources = Sources(Path(options.list), Path(options.backgrounds), clipseg)
    settings = SynthesisSettings(**{name: getattr(options, name) for name in asdict(SynthesisSettings())})
    for line in report(*synthesise(sources, Path(options.out), settings, options.workers, options.ray_address)):
        log.info("%s", line)


def report(manifest: Manifest, speed: Speed) -> list[str]:
    """Lines on what the folder holds and how fast this run was."""
    rejected = {rule: count for rule, count in manifest.rejected().items() if count}
    photos = manifest.samples + sum(rejected.values())
    lines = [f"{manifest.folder}: {photos} photos, {manifest.samples} samples in {len(manifest.shards)} shards"]
    lines += [f"left out, {rule}: {count}" for rule, count in rejected.items()]
    return lines + [f"this run: {speed.line()}", speed.stages()] if speed.done else lines
