"""How a method lets the commands `convert` and `inspect` take its files, which are known by what is in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch

from ..errors import CheckpointError
from .tensor_file import TensorInfo

Run = Callable[[argparse.Namespace], int | None]


def extend_file_commands(
    commands: argparse._SubParsersAction, is_one: Callable[[str], bool], run_convert: Run, run_inspect: Run
) -> None:
    """Let both commands take files of a further kind; for other files they do what they did.

    Args:
        is_one: whether the source is of that kind.
    """
    for name, run in (("convert", run_convert), ("inspect", run_inspect)):
        parser = commands.choices[name]
        parser.set_defaults(run=_chosen(is_one, run, parser.get_default("run")))


def _chosen(is_one: Callable[[str], bool], run: Run, other: Run) -> Run:
    return lambda options: run(options) if is_one(options.source) else other(options)


def refuse_other_options(options: argparse.Namespace, kind: str) -> None:
    """Refuse what only checkpoints of Stable Diffusion need beside the file.

    Args:
        kind: how the sentence goes on after the file's name: "a GILL model, whose files say".
    """
    if given := [f"--{name}" for name in ("sizes", "stock") if getattr(options, name, None)]:
        raise CheckpointError(f"{options.source} is {kind} all that is needed: leave out {given[0]}.")


def report_parts(infos: Mapping[str, TensorInfo], parts: Mapping[str, str], width: int) -> None:
    """Print a line for each part that is there: its numbers, tensors and types.

    Args:
        parts: what a part is called, by the first word of its tensors' names.
        width: letters that the name of a part takes.
    """
    for prefix, part in parts.items():
        found = [info for name, info in infos.items() if name.startswith(f"{prefix}.") or name == prefix]
        numbers = sum(torch.Size(info.shape).numel() for info in found)
        types = "/".join(sorted({str(info.dtype).removeprefix("torch.") for info in found}))
        if found:
            print(f"  {part:<{width}} {numbers:>13,} numbers in {len(found)} tensors, {types}")
