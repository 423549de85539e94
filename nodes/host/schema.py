"""What node forms need of the host beyond its API: arguments that only newer hosts take, and blocked outputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from comfy_execution.graph_utils import ExecutionBlocker


def supported(function: Callable, **arguments) -> dict:
    """Those of the keyword arguments that `function` (or a class) of this host accepts."""
    return {name: value for name, value in arguments.items() if name in inspect.signature(function).parameters}


def blocked(sentence: str) -> ExecutionBlocker:
    """An output that skips the nodes behind it; the artist sees the sentence if there are any."""
    return ExecutionBlocker(sentence)
