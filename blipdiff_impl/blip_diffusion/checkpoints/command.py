"""The commands `convert` and `inspect`."""

from __future__ import annotations

import argparse
import sys

import torch

from .checkpoint import Checkpoint
from .convert import convert
from .expected_shapes import PARTS
from .fingerprint import fingerprint_of
from .opening import open_checkpoint
from .stock import stock_warnings, warnings_against

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add both commands to a parser's subcommands; each sets `run`."""
    converting = commands.add_parser("convert", help="write a checkpoint of any layout as one .safetensors file")
    converting.add_argument("source", help="folder or file of any layout")
    converting.add_argument("destination", help="the .safetensors file to write")
    converting.add_argument("--dtype", choices=_DTYPES, help="store all weights in this type (default: as they are)")
    converting.add_argument("--overwrite", action="store_true", help="replace the destination if it exists")
    converting.set_defaults(run=run_convert)
    inspecting = commands.add_parser("inspect", help="check a checkpoint and say what it holds")
    inspecting.add_argument("source", help="folder or file of any layout")
    inspecting.add_argument("--stock", help="a stock Stable Diffusion 1.5 folder or file to compare with")
    inspecting.set_defaults(run=run_inspect)


def run_convert(options: argparse.Namespace) -> None:
    """Convert, with a progress line where somebody watches."""
    progress = _show_progress if sys.stderr.isatty() else None
    convert(options.source, options.destination, _DTYPES.get(options.dtype), progress, overwrite=options.overwrite)
    _report(open_checkpoint(options.destination))


def run_inspect(options: argparse.Namespace) -> int:
    """Check every part and its stated fingerprint; exit status 1 where a fingerprint is wrong."""
    checkpoint = open_checkpoint(options.source)
    found = warnings_against(checkpoint, options.stock) if options.stock else []
    wrong = [name for name in PARTS if checkpoint.has(name) and not _fingerprint_holds(checkpoint, name)]
    checkpoint.warnings = list(dict.fromkeys([*checkpoint.warnings, *stock_warnings(checkpoint), *found]))
    _report(checkpoint)
    for name in wrong:
        print(f"warning: the weights of the {name.replace('_', ' ')} are not those that the file says it holds.")
    return 1 if wrong else 0


def _fingerprint_holds(checkpoint: Checkpoint, name: str) -> bool:
    return checkpoint.fingerprint(name) == fingerprint_of(checkpoint.part(name))


def _report(checkpoint: Checkpoint) -> None:
    print(f"{checkpoint.path} ({checkpoint.layout})")
    for name in PARTS:
        print(f"  {name:<16} {_describe(checkpoint, name)}")
    vectors = checkpoint.subject_vectors()
    if vectors is not None:
        print(f"  {'subject vectors':<16} {'x'.join(map(str, vectors.shape))}")
    for sentence in checkpoint.notes:
        print(f"note: {sentence}")
    for sentence in checkpoint.warnings:
        print(f"warning: {sentence}")


def _describe(checkpoint: Checkpoint, name: str) -> str:
    if not checkpoint.has(name):
        return "not there"
    infos = checkpoint.infos(name).values()
    numbers = sum(torch.Size(info.shape).numel() for info in infos)
    types = "/".join(sorted({str(info.dtype).removeprefix("torch.") for info in infos}))
    return f"{numbers:>13,} numbers in {len(infos)} tensors, {types}, {checkpoint.fingerprint(name)[:16]}"


def _show_progress(done: int, total: int) -> None:
    print(f"\r{done / max(total, 1):4.0%} of {total / 1e9:.2f} GB", end="\n" if done == total else "", file=sys.stderr)
