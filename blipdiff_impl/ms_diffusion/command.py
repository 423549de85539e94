"""`convert` and `inspect` for adapters: a file is known by what is in it."""

from __future__ import annotations

import argparse

import torch

from ..weights.command import extend_file_commands, refuse_other_options, report_parts
from .checkpoint import AdapterFile, convert_adapter, is_adapter, open_adapter

_OTHER = "an MS-Diffusion adapter, whose file says"


def extend_commands(commands: argparse._SubParsersAction) -> None:
    """Let the commands `convert` and `inspect` take adapters too; for other files they do what they did."""
    extend_file_commands(commands, is_adapter, run_convert, run_inspect)


def run_convert(options: argparse.Namespace) -> None:
    """Write the adapter, in 16 bit unless another type is asked for."""
    refuse_other_options(options, _OTHER)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    convert_adapter(options.source, options.destination, dtype, overwrite=options.overwrite)
    _report(open_adapter(options.destination))


def run_inspect(options: argparse.Namespace) -> None:
    """Say what the file holds; opening it has checked names, shapes and types."""
    refuse_other_options(options, _OTHER)
    _report(open_adapter(options.source))


def _report(opened: AdapterFile) -> None:
    print(f"{opened.path} (MS-Diffusion adapter)")
    parts = {"image_proj": "resampler", "ms_adapter": "keys and values", "dummy_image_tokens": "dummy tokens"}
    report_parts(opened.infos, parts, width=16)
