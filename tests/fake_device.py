"""A GPU that is not there: PyTorch's fake tensors know shapes, number types and devices, and compute nothing.

An operation on tensors of two devices fails as it would on a GPU. So does a question to a value, which nothing knows.
"""

from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


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
