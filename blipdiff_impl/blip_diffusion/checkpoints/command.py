"""The commands `convert`, `inspect` and `extract`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ...files import read_text
from ...settings import require_in_range
from ...weights.fingerprint import fingerprint_of
from ..config import ModelConfig
from .checkpoint import Checkpoint
from .convert import convert
from .expected_shapes import PARTS
from .extract import MOST_RANK, Extracted, extract
from .opening import open_checkpoint
from .stock import stock_warnings, warnings_against

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to a parser's subcommands; each sets `run`."""
    converting = commands.add_parser("convert", help="write a checkpoint of any layout as one .safetensors file")
    converting.add_argument("source", help="folder or file of any layout")
    converting.add_argument("destination", help="the .safetensors file to write")
    converting.add_argument(
        "--dtype", choices=_DTYPES, help="store all weights in this type (default: as they are, adapters in float16)"
    )
    converting.add_argument("--overwrite", action="store_true", help="replace the destination if it exists")
    _add_sizes(converting)
    converting.set_defaults(run=run_convert)
    inspecting = commands.add_parser("inspect", help="check a checkpoint and say what it holds")
    inspecting.add_argument("source", help="folder or file of any layout")
    inspecting.add_argument("--stock", help="a stock Stable Diffusion 1.5 folder or file to compare with")
    _add_sizes(inspecting)
    inspecting.set_defaults(run=run_inspect)
    extracting = commands.add_parser(
        "extract", help="write what a model learned beyond stock Stable Diffusion 1.5, for ComfyUI's Load LoRA"
    )
    extracting.add_argument("source", help="folder or file of any layout")
    extracting.add_argument("destination", help="the .safetensors file to write")
    extracting.add_argument(
        "--base",
        required=True,
        help="stock Stable Diffusion 1.5, as one file such as v1-5-pruned-emaonly.safetensors or as a diffusers folder",
    )
    size = extracting.add_mutually_exclusive_group()
    size.add_argument("--rank", type=int, default=64, help="of the factors of each matrix (default: 64)")
    size.add_argument(
        "--energy",
        type=float,
        metavar="SHARE",
        help="0..1: the smallest rank with which the matrices of the UNet and those of the text encoder keep this "
        "share of their change (sum of squares); biases, norms and embeddings, left out at any rank, do not count",
    )
    size.add_argument("--full", action="store_true", help="every difference whole, in float32")
    extracting.add_argument("--overwrite", action="store_true", help="replace the destination if it exists")
    extracting.set_defaults(run=run_extract)


def run_convert(options: argparse.Namespace) -> None:
    """Convert, with a progress line where somebody watches."""
    progress = _show_progress if sys.stderr.isatty() else None
    convert(
        options.source,
        options.destination,
        _DTYPES.get(options.dtype),
        progress,
        overwrite=options.overwrite,
        config=_sizes(options),
    )
    _report(open_checkpoint(options.destination))


def run_inspect(options: argparse.Namespace) -> int:
    """Check every part and its stated fingerprint; exit status 1 where a fingerprint is wrong."""
    checkpoint = open_checkpoint(options.source, _sizes(options))
    found = warnings_against(checkpoint, options.stock) if options.stock else []
    wrong = [name for name in PARTS if checkpoint.has(name) and not _fingerprint_holds(checkpoint, name)]
    checkpoint.warnings = list(dict.fromkeys([*checkpoint.warnings, *stock_warnings(checkpoint), *found]))
    _report(checkpoint)
    for name in wrong:
        print(f"warning: the weights of the {name.replace('_', ' ')} are not those that the file says it holds.")
    return 1 if wrong else 0


def run_extract(options: argparse.Namespace) -> None:
    """Write the difference, and say how much of it the file holds."""
    require_in_range("rank", options.rank, 1, MOST_RANK, "64 is usual")
    if options.energy is not None:
        require_in_range("energy", options.energy, 0.0, 1.0, "0.9 keeps most")
    rank = None if options.full else options.rank
    found = extract(options.source, options.base, options.destination, rank, options.overwrite, options.energy)
    if options.energy is not None:
        print(f"rank: {found.rank}")
    for part, kept in found.kept.items():
        print(f"{part.replace('_', ' ')}: {kept:.2%} of the change's energy kept{_of_matrices(found, part)}")
    if options.full:
        print(f"numbers that are off by a rounding: {found.inexact}")


def _of_matrices(found: Extracted, part: str) -> str:
    return "" if found.rank is None else f", {found.of_matrices[part]:.2%} of that of its matrices"


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        metavar="MODEL",
        help="a model of the same sizes, such as the one it was tuned from, or their JSON: for files that do not say "
        "theirs, such as a LAVIS .pth (default: the released sizes)",
    )


def _sizes(options: argparse.Namespace) -> ModelConfig | None:
    """The sizes for a source that states none.

    Raises:
        CheckpointError: no such model, or JSON of something else.
    """
    if options.sizes is None:
        return None
    if options.sizes.endswith(".json"):
        return ModelConfig.from_json(read_text(Path(options.sizes), "The sizes"))
    return open_checkpoint(options.sizes).config


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
