"""Which text encoder a mapper imitates: another one would read its output as anything (docs/method.md 14.9)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..weights.fingerprint import fingerprint_of

_NAMES = ("final_layer_norm.weight", "final_layer_norm.bias")


def text_encoder_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A name for a text encoder, the same in every precision that it is loaded in.

    Its last norm is enough: all training of the text encoder changes it.

    Args:
        weights: by any names that end in CLIP's own.
    """
    found = {}
    for name in _NAMES:
        value = next(value for each, value in sorted(weights.items()) if each.endswith(name))
        found[name] = value.detach().to("cpu", torch.float16).contiguous()
    return fingerprint_of(found)
