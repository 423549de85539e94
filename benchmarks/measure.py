"""Timing two things against each other in one run: in turn, with the median of the ratios of neighbouring runs.

The machine's speed drifts; neighbouring runs see the same drift, so their ratio holds where absolute seconds do not.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


def seconds(job: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def compare(title: str, ours: Callable[[], float], peer: Callable[[], float], pairs: int, goal: str) -> float:
    """Run both in turn and print medians and the ratio peer / ours (above 1: ours is faster).

    Args:
        ours, peer: return the seconds of one run.
        goal: what the ratio should be, printed beside it.
    """
    ours(), peer()  # warm-up: first-touch memory, lazy kernels
    times = [(ours(), peer()) for _ in range(pairs)]
    ratio = statistics.median(theirs / own for own, theirs in times)
    own, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    spread = sorted(theirs / own for own, theirs in times)
    print(
        f"{title}: ours {own:.4f} s, peer {theirs:.4f} s, ratio {ratio:.3f} "
        f"(of {pairs} pairs {spread[0]:.3f} to {spread[-1]:.3f}; goal {goal})",
        flush=True,
    )
    return ratio


def machine() -> str:
    """One line on where the numbers come from."""
    python, threads = platform.python_version(), torch.get_num_threads()
    return f"{platform.machine()}, {threads} threads, Python {python}, torch {torch.__version__}"
