"""How many bytes the tensors that code makes take at once, on any device."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HeldMemory(TorchDispatchMode):
    """Within the block every operation's new memory counts until it is let go.

    Attributes:
        peak: the most bytes at one time. What an operation has in hand while it runs does not count.
    """

    def __init__(self):
        super().__init__()
        self.peak, self._held, self._known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in storages((args, kwargs)):
            self._see(storage, 0)  # what was there before
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            self._see(storage, storage.nbytes())
        return result

    def _see(self, storage, size):
        key = storage._cdata
        if key in self._known:
            return

        def gone(_):
            self._held -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._held += size
        self.peak = max(self.peak, self._held)


def storages(values):
    """Of all tensors in there, but those of "meta", which have none."""
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [tensor.untyped_storage() for tensor in tensors if tensor.device.type != "meta"]
