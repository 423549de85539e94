"""A GPU that is not there: PyTorch's fake tensors know shapes, number types and devices, and compute nothing.

An operation on tensors of two devices fails as it would on a GPU. So does a question to a value, which nothing knows.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def fake_gpu():
    """Within the block tensors are fake; gives a function that turns a module's weights into such on "cuda"."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode, mock.patch.object(nn.Module, "_apply", replaced):
        yield lambda module: replaced(
            module, lambda tensor: mode.from_tensor(tensor, static_shapes=True).detach().to("cuda")
        )


def replaced(module, change, recurse=True):
    """What `Module.to` does, with new parameters: those that are there cannot become fake, nor take fake content."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(change(weight).detach(), weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = change(buffer)
    return module


def zeros(*shape, device="cpu", dtype=torch.float32):
    return torch.zeros(*shape, device=device, dtype=dtype)


class Waits(TorchDispatchMode):
    """Within the block, inside of `fake_gpu`: the operations for which a GPU is waited for, by name in `seen`."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        held = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_gpu = [leaf for leaf in held if leaf.device.type == "cuda"]
        comes_back = isinstance(result, torch.Tensor) and result.device.type == "cpu"
        picks = name in ("index", "index_put", "index_put_") and any(leaf.dtype == torch.bool for leaf in on_gpu[1:])
        if on_gpu and (comes_back or picks or name in ("nonzero", "masked_select", "_local_scalar_dense")):
            self.seen.append(name)
        return result
