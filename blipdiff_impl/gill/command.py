"""`convert` and `inspect` for GILL's learned parts, which are known by what is in a file, and `gill-decision`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..settings import require_in_range
from ..weights.command import extend_file_commands, refuse_other_options, report_parts
from ..weights.writing import require_destination
from .checkpoint import GILLFile, convert_gill, is_gill, open_gill

_OTHER = "a GILL model, whose files say"
_PARTS = {
    "input_embeddings": "words [IMG0] to [IMG7]",
    "visual_embeddings": "pictures into the prompt",
    "visual_fc": "retrieval, pictures",
    "ret_text_hidden_fcs": "retrieval, words",
    "gen_text_hidden_fcs": "mapper",
    "logit_scale": "temperature",
    "decision_model": "draw or retrieve",
    "language_model": "language model",
    "vision_model": "picture encoder",
}


def extend_commands(commands: argparse._SubParsersAction) -> None:
    """Let the commands `convert` and `inspect` take GILL models too; for other files they do what they did."""
    extend_file_commands(commands, is_gill, run_convert, run_inspect)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command that trains the classifier."""
    parser = commands.add_parser("gill-decision", help="train GILL's classifier that says draw or retrieve")
    parser.add_argument("model", help="the GILL model, as `convert` takes it")
    parser.add_argument("language_model", help="the folder of its OPT")
    parser.add_argument("prompts", help='a line each: {"prompt": "...", "votes": {"gen": 4, "ret": 1, "same": 0}}')
    parser.add_argument("destination", help="the .safetensors file to write: the model with its classifier")
    parser.add_argument("--train", type=int, default=600, help="prompts to train on; the others judge (default: 600)")
    parser.add_argument("--steps", type=int, default=2000, help="over all prompts each (default: 2000)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace the destination if it exists")
    parser.set_defaults(run=run_decision)


def run_decision(options: argparse.Namespace) -> None:
    """Train the classifier on the frozen model, judge it on prompts that were held out, and write all as one file."""
    from .pretraining.decision import add_classifier

    require_in_range("--train", options.train, 1, 10**6)
    require_destination(Path(options.destination), options.overwrite, CheckpointError)
    report = add_classifier(
        Path(options.model), Path(options.language_model), Path(options.prompts), Path(options.destination),
        train=options.train, steps=options.steps, rate=options.learning_rate, seed=options.seed,
        overwrite=options.overwrite,
    )  # fmt: skip
    print(report)


def run_convert(options: argparse.Namespace) -> None:
    """Write the model, in bfloat16 unless another type is asked for."""
    refuse_other_options(options, _OTHER)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    convert_gill(options.source, options.destination, dtype, overwrite=options.overwrite)
    _report(open_gill(options.destination))


def run_inspect(options: argparse.Namespace) -> None:
    """Say what the file holds; opening it has checked names, shapes and types."""
    refuse_other_options(options, _OTHER)
    _report(open_gill(options.source))


def _report(opened: GILLFile) -> None:
    config = opened.config
    print(f"{opened.path} (GILL model)")
    print(
        f"  for a language model {config.language_width} wide, CLIP vision {config.vision_width} wide, "
        f"text of {config.mapper.queries} x {config.mapper.output_width}"
    )
    report_parts(opened.infos, _PARTS, width=24)
