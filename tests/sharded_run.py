"""A process of a pre-training whose weights and optimiser are sharded by FSDP2, for `torchrun`.

On a GPU `accelerate launch --use_fsdp --fsdp_version 2` is all it takes. On CPUs accelerate leaves sharding out without
a word, so its state is told here what its own configuration would tell it on GPUs.
"""

import logging
import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from blipdiff_impl.blip_diffusion.pretraining import command
from blipdiff_impl.blip_diffusion.pretraining.settings import STAGES
from blipdiff_impl.command import exit_status
from blipdiff_impl.training import trainer
from blipdiff_impl.training.settings_file import read_settings


def main():
    """Take the settings' file, as `pretrain` does, and the layers that are sharded each by itself."""
    path, *layers = sys.argv[1:]
    make = trainer.make_accelerator

    def sharded(settings):
        accelerator = make(settings)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap" if layers else "no_wrap",
            transformer_cls_names_to_wrap=layers or None, state_dict_type="SHARDED_STATE_DICT",
        )  # fmt: skip
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        return accelerator

    trainer.make_accelerator = sharded
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command.train(read_settings(Path(path), STAGES, []))


if __name__ == "__main__":
    sys.exit(exit_status(main))
