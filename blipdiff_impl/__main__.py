"""`python -m blipdiff_impl`: the commands for work outside ComfyUI."""

from __future__ import annotations

import sys

from .command import exit_status


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user ends in one sentence and exit status 2, Ctrl-C in 130."""
    return exit_status(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int | None:
    # Imported here, so that Ctrl-C while PyTorch loads ends like any other.
    import argparse
    import logging

    from .blip_diffusion.checkpoints import command as checkpoint_command
    from .blip_diffusion.finetuning import command as finetune_command
    from .blip_diffusion.pretraining import command as pretrain_command
    from .blip_diffusion.synthesis import command as synthesise_command
    from .command import require_device
    from .evaluation import command as evaluate_command
    from .evaluation import gill_command as evaluate_gill_command
    from .gill import command as gill_command
    from .gill.pretraining import command as gill_pretraining
    from .ms_diffusion import command as ms_diffusion_command
    from .ms_diffusion.pretraining.settings import MSSettings
    from .toybox.train_adapter import open_base, train_ms_diffusion

    parser = argparse.ArgumentParser(prog="python -m blipdiff_impl", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checkpoint_command.add_commands(commands)
    ms_diffusion_command.extend_commands(commands)
    gill_command.extend_commands(commands)
    gill_command.add_commands(commands)
    finetune_command.add_commands(commands)
    pretrain_command.add_commands(commands, {MSSettings: train_ms_diffusion, **gill_pretraining.STAGES})
    evaluate_command.add_commands(commands, open_base)
    evaluate_gill_command.add_commands(commands)
    synthesise_command.add_commands(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if hasattr(options, "device"):
        require_device(options.device)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
