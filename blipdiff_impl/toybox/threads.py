"""How the stages that make small models run: on one thread, side by side where several are started."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def on_one_thread(stage: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """On one thread: two of them wait for each other many times as long as they work when a core is not free.

    Attention by plain products, because its fused backward is the slower one at these sizes.
    """

    def run(options: argparse.Namespace) -> None:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        torch.set_num_threads(1)
        with sdpa_kernel(SDPBackend.MATH):
            stage(options)

    return run
