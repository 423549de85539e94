"""What every trainer here shares: optimiser, learning rate, moving average, checkpoints that a run resumes from.

Weights are in `fast_type`, bfloat16 wherever it is not slow, with float32 master copies.
Matrices are stepped by Muon (Jordan et al. 2024; update scale of Liu et al. 2025, "Muon is scalable"), the rest by
AdamW. Batches are drawn from a generator seeded with the step, so the step is the whole position in the data.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from ..training.optimisers import orthogonalise

CHECKPOINT_SECONDS = 120

log = logging.getLogger(__name__)


class Optimiser:
    """Steps weights through float32 master copies and keeps their moving average.

    Args:
        named_parameters: (name, parameter) pairs; parameters of two or more dimensions go to Muon, flattened to
            matrices, unless their name contains one of `adam_only`.
        decay: of the moving average.
        slow: parameters whose name begins so are stepped at `slow_rate` times the learning rate.
    """

    def __init__(
        self,
        named_parameters: Iterable,
        adam_only: tuple[str, ...] = (),
        decay: float = 0.998,
        slow: tuple[str, ...] = (),
        slow_rate: float = 1.0,
    ) -> None:
        self.parameters = {name: p for name, p in named_parameters if p.requires_grad}
        self.master = {n: p.detach().float().clone() for n, p in self.parameters.items()}
        self.average = {n: p.clone() for n, p in self.master.items()}
        self.first = {n: torch.zeros_like(p) for n, p in self.master.items()}
        self.decay, self.steps = decay, 0
        self.rate_of = {n: slow_rate if n.startswith(slow) else 1.0 for n in self.master}
        by_shape = defaultdict(list)
        for name, p in self.master.items():
            if p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 4 and not any(key in name for key in adam_only):
                by_shape[(p.shape[0], p[0].numel())].append(name)
        self.matrices = dict(by_shape)
        muon = {name for names in self.matrices.values() for name in names}
        self.others = [name for name in self.master if name not in muon]
        self.second = {n: torch.zeros_like(self.master[n]) for n in self.others}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at learning rate `rate`; takes the gradients and clears them."""
        self.steps += 1
        gradients = {n: p.grad.float() for n, p in self.parameters.items() if p.grad is not None}
        for names in self.matrices.values():
            self._muon([n for n in names if n in gradients], gradients, rate)
        self._adam([n for n in self.others if n in gradients], gradients, rate)
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.average.values()), list(self.master.values()), 1 - decay)
        for name, p in self.parameters.items():
            p.copy_(self.master[name])
            p.grad = None

    def _muon(self, names: list[str], gradients: dict, rate: float, momentum: float = 0.95) -> None:
        if not names:
            return
        buffers, grads = [self.first[n] for n in names], [gradients[n] for n in names]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, buffers, momentum)
        update = orthogonalise(torch.stack([g.flatten(1) for g in ahead]))
        scale = 0.2 * math.sqrt(max(update.shape[1:]))
        for name, u in zip(names, update, strict=True):
            self.master[name].add_(u.view_as(self.master[name]), alpha=-rate * self.rate_of[name] * scale)

    def _adam(self, names: list[str], gradients: dict, rate: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        if not names:
            return
        first, second = [self.first[n] for n in names], [self.second[n] for n in names]
        grads = [gradients[n] for n in names]
        torch._foreach_lerp_(first, grads, 1 - betas[0])
        torch._foreach_mul_(second, betas[1])
        torch._foreach_addcmul_(second, grads, grads, 1 - betas[1])
        root = torch._foreach_sqrt(torch._foreach_div(second, 1 - betas[1] ** self.steps))
        torch._foreach_add_(root, 1e-8)
        rates = [-rate * self.rate_of[n] / (1 - betas[0] ** self.steps) for n in names]
        torch._foreach_addcdiv_([self.master[n] for n in names], first, root, rates)

    def clip(self, limit: float) -> float:
        """Scale all gradients to a joint norm of at most `limit`; returns the norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    def state_dict(self) -> dict:
        return {
            "master": self.master,
            "average": self.average,
            "first": self.first,
            "second": self.second,
            "steps": self.steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        for kind in ("master", "average", "first", "second"):
            for name, value in getattr(self, kind).items():
                value.copy_(state[kind][name])
        self.steps = state["steps"]
        for name, p in self.parameters.items():
            p.copy_(self.master[name])


def learning_rate(progress: float, peak: float, warm_up: float = 0.02, last: float = 0.02) -> float:
    """Linear warm-up, then a cosine down to `last` of the peak; `progress` runs from 0 to 1."""
    if progress < warm_up:
        return peak * (progress + 1e-3) / warm_up
    t = min(1.0, (progress - warm_up) / (1 - warm_up))
    return peak * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * t)))


def save_atomically(record: dict, path: Path) -> None:
    """torch.save to a temporary neighbour, then rename: a killed run leaves the old file whole.

    It streams; `files.write_whole` would take the states of a training as bytes in memory beside themselves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save(record, temporary)
    os.replace(temporary, path)


class Clock:
    """The running time of a training over all its runs, and when the next checkpoint is due.

    It counts the processor's time: a busy machine makes a training longer, not shorter.
    """

    def __init__(self, spent: float = 0.0) -> None:
        self.begin = time.process_time() - spent
        self.saved = time.monotonic()

    @property
    def spent(self) -> float:
        return time.process_time() - self.begin

    def checkpoint_due(self) -> bool:
        if time.monotonic() - self.saved < CHECKPOINT_SECONDS:
            return False
        self.saved = time.monotonic()
        return True


def resume(optimiser: Optimiser, path: Path) -> Clock:
    """Resume from a checkpoint where there is one; the clock counts what earlier runs spent too."""
    state = torch.load(path, weights_only=True) if path.exists() else None
    if state:
        optimiser.load_state_dict(state["optimiser"])
    return Clock(state["spent"] if state else 0.0)


def keep(optimiser: Optimiser, spent: float, path: Path) -> None:
    """Write what `resume` reads."""
    save_atomically({"optimiser": optimiser.state_dict(), "spent": spent}, path)


def train_steps(
    optimiser: Optimiser, path: Path, steps: int, rate: float, loss_of: Callable[[int], torch.Tensor]
) -> None:
    """Train for `steps` in all over all runs, with checkpoints in `path`.

    Args:
        loss_of: the loss of a step by its number, which is all that it depends on.
    """
    clock, total = resume(optimiser, path), 0.0
    while optimiser.steps < steps:
        loss = loss_of(optimiser.steps)
        loss.backward()
        optimiser.clip(1.0)
        optimiser.step(learning_rate(optimiser.steps / steps, rate))
        total += float(loss.detach())
        if optimiser.steps % 50 == 0:
            log.info("step %d, %.1f min, loss %.4f", optimiser.steps, clock.spent / 60, total / 50)
            total = 0.0
        if clock.checkpoint_due():
            keep(optimiser, clock.spent, path)
    keep(optimiser, clock.spent, path)
