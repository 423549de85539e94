"""A plain torch network lent to the host's memory manager, which moves and evicts it like any model."""

from __future__ import annotations

from typing import Generic, TypeVar

import comfy.model_management as mm
from torch import nn

from .weights import patcher_class

_ALL = 1e30  # bytes, as the host itself writes "all there is"

Network = TypeVar("Network", bound=nn.Module)


class LentModule(Generic[Network]):
    """Holds a network that the host has never heard of.

    Args:
        network: made of plain torch layers, which work only where all of them lie on one device.
        working_memory: bytes that one evaluation needs beside the weights, generously.

    Attributes:
        patcher: the host's handle; caches of the host look for this name on objects that travel through sockets.
    """

    def __init__(self, network: Network, working_memory: int):
        self.network, self._working_memory = network, working_memory
        # In a list, because the host writes `device` on the module, which those of transformers do not allow.
        self.patcher = patcher_class()(
            nn.ModuleList([network]),
            load_device=mm.text_encoder_device(),
            offload_device=mm.text_encoder_offload_device(),
        )

    def fetch(self) -> Network:
        """The network, whole and on the device where it computes; other models make room for it."""
        mm.load_models_gpu([self.patcher], memory_required=self._working_memory, force_full_load=True)
        return self.network

    def release(self) -> None:
        """Take the network off the device at once, not only when another model needs the room."""
        others = [loaded for loaded in mm.current_loaded_models if loaded.model is not self.patcher]
        mm.free_memory(_ALL, self.patcher.load_device, keep_loaded=others)
