"""`python -m blipdiff_impl`: the commands for work outside ComfyUI."""

from __future__ import annotations

import argparse
import logging
import sys

from .checkpoints import command as checkpoint_command
from .errors import SubjectError
from .evaluation import command as evaluate_command
from .finetuning import command as finetune_command
from .pretraining import command as pretrain_command
from .synthesis import command as synthesise_command


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m blipdiff_impl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checkpoint_command.add_commands(commands)
    finetune_command.add_commands(commands)
    pretrain_command.add_commands(commands)
    evaluate_command.add_commands(commands)
    synthesise_command.add_commands(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return options.run(options) or 0
    except SubjectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
