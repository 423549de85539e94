"""What comes in through sockets and texts, checked for all nodes in one place, before a node runs.

The host compares the names of socket types only: a node of another pack whose output fits everywhere can deliver
anything. Sizes and values are each node's own business.
"""

from __future__ import annotations

import functools
import inspect
import math
import re

import torch
from comfy_api.latest import io
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError

# What the thing behind a socket must have; by attribute, because packs bring models of classes of their own.
_SIGNS = {
    "MODEL": "get_model_object",
    "CLIP": "tokenize",
    "VAE": "decode_tiled",
    "SUBJECT": "encoder_fingerprint",
    "SUBJECT_ENCODER": "see",
}
_WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": (bool, int), "COMBO": str}
_NAMELESS_EMBEDDING = re.compile(r"embedding:(?=[\s)]|$)")


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, whose `execute` refuses what is no value of the input's type, with a SubjectError."""
    execute = node.execute.__func__
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def checking(cls, *args, **named):
        given = signature.bind(cls, *args, **named).arguments
        for name in _inputs(node):
            if given.get(name) is not None or name not in _optional(signature):
                _require(node, name, given.get(name))
        return execute(cls, *args, **named)

    node.execute = classmethod(checking)
    return node


@functools.cache
def _inputs(node: type[io.ComfyNode]) -> dict[str, io.Input]:
    """What the node takes, by name. Remembered: of all this only lists of files change, which are not looked at."""
    return {item.id: item for item in node.define_schema().inputs}


def _optional(signature: inspect.Signature) -> set[str]:
    return {name for name, parameter in signature.parameters.items() if parameter.default is not parameter.empty}


def _require(node: type[io.ComfyNode], name: str, value) -> None:
    kind = _inputs(node)[name].get_io_type()
    if not _fits(kind, value):
        raise SubjectError(
            f"The input {name} takes {'an' if kind[0] in 'AEIOU' else 'a'} {kind}, but {_described(value)} came in. "
            "Connect another output to it; the node before this one may be broken."
        )
    if kind == "STRING":
        _require_text(name, value, any(item.get_io_type() == "CLIP" for item in _inputs(node).values()))
    if kind in ("INT", "FLOAT"):
        _require_in_range(name, value, _inputs(node)[name])


def _require_in_range(name: str, value: float, item) -> None:
    """The host holds typed numbers to these limits, but not those that are linked in."""
    low, high = -math.inf if item.min is None else item.min, math.inf if item.max is None else item.max
    if not low <= value <= high:
        raise SubjectError(f"{name} = {value} is out of range. Use a number from {low} to {high}.")


def _require_text(name: str, text: str, is_prompt: bool) -> None:
    """Refuse what the host's tokenizer fails on."""
    if re.search("[\ud800-\udfff]", text):
        raise SubjectError(f"The text of {name} holds one half of a character, such as an emoji cut in two: delete it.")
    if is_prompt and _NAMELESS_EMBEDDING.search(text):
        raise SubjectError(f"In {name}, 'embedding:' has no name behind it. Write embedding:my_file, without a space.")


def _fits(kind: str, value) -> bool:
    if kind in ("IMAGE", "MASK"):
        return _is_tensor(value)
    if kind == "LATENT":
        return isinstance(value, dict) and _is_tensor(value.get("samples"))
    if kind == "CONDITIONING":
        return isinstance(value, list) and all(map(_is_conditioning_entry, value))
    if kind in _WIDGETS:
        return isinstance(value, _WIDGETS[kind])
    return hasattr(value, _SIGNS[kind]) if kind in _SIGNS else True


def _is_tensor(value) -> bool:
    """Whether there are real numbers in it: not sparse, not a shape without content."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and not value.is_complex()


def _is_conditioning_entry(entry) -> bool:
    return isinstance(entry, list | tuple) and len(entry) == 2 and _is_tensor(entry[0]) and isinstance(entry[1], dict)


def _described(value) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.layout).removeprefix('torch.')} tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, float | int):
        return f"the number {value}"
    return "nothing" if value is None else f"something else (a Python {type(value).__name__})"
