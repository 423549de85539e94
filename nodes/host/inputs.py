"""What comes in through sockets and texts, checked for all nodes in one place, before a node runs.

The host compares the names of socket types only: a node of another pack whose output fits everywhere can deliver
anything. Sizes and values are each node's own business.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.prompts.rows import check_length

# What the thing behind a socket must have; by attribute, because packs bring models of classes of their own.
_SIGNS = {
    "MODEL": "get_model_object",
    "CLIP": "tokenize",
    "VAE": "decode_tiled",
    "SUBJECT": "encoder_fingerprint",
    "SUBJECT_ENCODER": "see",
    "CLIP_VISION": "encode_image",
    "MS_ADAPTER": "adapter",
    "MS_SUBJECTS": "placed",
    "GILL_MODEL": "gill",
    "GILL_PROMPT": "pictures",
    "GILL_EMBEDDING": "vectors",
    "GILL_INDEX": "folder",
}
_WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": (bool, int), "COMBO": str}
_PICTURES = ("IMAGE", "MASK")
_AN = ("A", "E", "I", "O", "U", "MS_")  # how kinds begin that are read with a vowel
_NAMELESS_EMBEDDING = re.compile(r"embedding:(?=[\s)]|$)")


def with_checked_inputs(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, whose `execute` refuses what is no value of the input's type, with a SubjectError.

    A node whose schema says `is_input_list` gets lists of everything from the host. Its pictures and masks are handed
    on together, as photos of one subject: the one value where there is one, else the list. Of every other input it
    gets one value: where several came in, it runs once for each, as the host does with other nodes, and gives lists.
    """
    execute = node.execute.__func__
    signature = inspect.signature(execute)

    def run(cls, given: dict) -> io.NodeOutput:
        for name in _inputs(node):
            if given.get(name) is not None or name not in _optional(signature):
                _require(node, name, given.get(name))
        return execute(**given)

    @functools.wraps(execute)
    def checking(cls, *args, **named):
        given = signature.bind(cls, *args, **named).arguments
        lists = {name for name, value in given.items() if isinstance(value, list)}
        try:
            if not (lists and _schema(node).is_input_list):
                return run(cls, given)
            return _together([run(cls, one) for one in _single_runs(node, given, lists)])
        except SubjectError as error:
            raise _as_shown(type(error))(*error.args).with_traceback(error.__traceback__) from None

    open_node: Any = node  # the host declares an `execute` of no certain inputs
    open_node.execute = classmethod(checking)
    return node


@functools.cache
def _as_shown(kind: type[SubjectError]) -> type[SubjectError]:
    """The same error for the front end, which puts module and class before the sentence: a class without a module."""
    return type(kind.__name__, (kind,), {"__module__": "builtins", "__doc__": kind.__doc__})


def _single_runs(node: type[io.ComfyNode], given: dict, lists: set[str]) -> list[dict]:
    """The arguments of each run, from lists of everything; a shorter list goes on with its last value."""
    for name in lists:
        if not given[name]:
            raise SubjectError(f"The input {name} got an empty list. The node before this one gave nothing out.")
    photos = {name for name in lists if _inputs(node)[name].get_io_type() in _PICTURES}
    count = max((len(given[name]) for name in lists - photos), default=1)

    def value(name: str, index: int):
        if name not in lists:
            return given[name]
        if name in photos:
            return given[name] if len(given[name]) > 1 else given[name][0]
        return given[name][min(index, len(given[name]) - 1)]

    return [{name: value(name, index) for name in given} for index in range(count)]


def _together(runs: list[io.NodeOutput]) -> io.NodeOutput:
    """The outputs of some runs, each as a list; what is a list already (of cut-outs, one for each photo) is joined."""
    columns = zip(*(run.args for run in runs), strict=True)
    outputs = [
        [one for value in column for one in (value if isinstance(value, list) else [value])] for column in columns
    ]
    shown = [run.ui if isinstance(run.ui, dict) else run.ui.as_dict() for run in runs if run.ui is not None]
    if not shown:
        return io.NodeOutput(*outputs)
    return io.NodeOutput(*outputs, ui={name: [item for one in shown for item in one[name]] for name in shown[0]})


@functools.cache
def _schema(node: type[io.ComfyNode]) -> io.Schema:
    """Remembered: of all this only lists of files change, which are not looked at."""
    return node.define_schema()


@functools.cache
def _inputs(node: type[io.ComfyNode]) -> dict[str, io.Input]:
    """What the node takes, by name."""
    return {item.id: item for item in _schema(node).inputs}


def _optional(signature: inspect.Signature) -> set[str]:
    return {name for name, parameter in signature.parameters.items() if parameter.default is not parameter.empty}


def _require(node: type[io.ComfyNode], name: str, value) -> None:
    kind = _inputs(node)[name].get_io_type()
    if not _fits(kind, value):
        raise SubjectError(
            f"The input {name} takes {'an' if kind.startswith(_AN) else 'a'} {kind}, but {_described(value)} came in. "
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
    """Refuse what the host's tokenizer fails on, or would take minutes for."""
    check_length(f"The text of {name}", text)
    if re.search("[\ud800-\udfff]", text):
        raise SubjectError(f"The text of {name} holds one half of a character, such as an emoji cut in two: delete it.")
    if is_prompt and _NAMELESS_EMBEDDING.search(text):
        raise SubjectError(f"In {name}, 'embedding:' has no name behind it. Write embedding:my_file, without a space.")


def _fits(kind: str, value) -> bool:
    if kind in _PICTURES:
        return all(map(_is_tensor, value if isinstance(value, list) and value else [value]))
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
    if isinstance(value, list) and value and any(isinstance(item, Tensor) for item in value):
        value = next(item for item in value if not _is_tensor(item))
    if isinstance(value, Tensor):
        return f"a {str(value.layout).removeprefix('torch.')} tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, float | int):
        return f"the number {value}"
    return "nothing" if value is None else f"something else (a Python {type(value).__name__})"
