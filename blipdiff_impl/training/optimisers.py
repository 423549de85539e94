"""What steps the weights: AdamW, or Muon for matrices with AdamW for the rest; and the learning rate over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..toybox.training import orthogonalise
from .settings import StageSettings

# Tables and what stands next to pixels are no maps between features, which Muon is made for.
_NEVER_MUON = ("embedding", "conv_in", "conv_out", "query_tokens")
_MOMENTUM = 0.95


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose parameter groups with `muon: True` are stepped by Muon (Jordan et al. 2024).

    The update has the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", equation 4), so that one
    learning rate suits both. Kernels of convolutions count as matrices `[out, in * h * w]`.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One step with the gradients that lie in the parameters."""
        groups = self.param_groups
        for group in groups:
            if group.get("muon"):
                _step_matrices(group, self.state)
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def _step_matrices(group: dict, state: dict) -> None:
    by_shape = defaultdict(list)
    for weight in group["params"]:
        if weight.grad is not None:
            by_shape[weight.flatten(1).shape].append(weight)
    for shape, weights in by_shape.items():
        updates = orthogonalise(torch.stack([_momentum(weight, state[weight]).flatten(1) for weight in weights]))
        rate = group["lr"] * 0.2 * math.sqrt(max(shape))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, update in zip(weights, updates.float(), strict=True):
            weight.add_(update.view_as(weight), alpha=-rate)


def _momentum(weight: nn.Parameter, state: dict) -> Tensor:
    """Nesterov's look ahead along the running mean of gradients."""
    if not state:
        # AdamW, which loads the state, wants a count in it.
        state["step"], state["momentum"] = torch.tensor(0.0), torch.zeros_like(weight)
    state["step"] += 1
    mean = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
    return weight.grad.lerp(mean, _MOMENTUM)


def make_optimiser(
    named: Iterable[tuple[str, nn.Parameter]], settings: StageSettings, slow: tuple[str, ...], vectors_decay: bool
) -> torch.optim.AdamW:
    """The optimiser of a stage.

    Args:
        slow: beginnings of names that learn at `settings.encoder_rate` times the rate.
        vectors_decay: weight decay also on biases, norms and single numbers.
    """
    multiple = getattr(settings, "encoder_rate", 1.0)
    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    for name, weight in named:
        if weight.requires_grad:
            decays = weight.ndim > 1 or vectors_decay
            groups[name.startswith(slow) if slow else False, _suits_muon(name, weight, settings), decays].append(weight)
    records = [
        {"params": weights, "scale": multiple if is_slow else 1.0, "muon": muon,
         "weight_decay": settings.weight_decay if decays else 0.0}
        for (is_slow, muon, decays), weights in groups.items()
    ]  # fmt: skip
    return MuonAdamW(records, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)


def _suits_muon(name: str, weight: nn.Parameter, settings: StageSettings) -> bool:
    if settings.optimiser != "muon" or weight.ndim < 2 or any(part in name for part in _NEVER_MUON):
        return False
    return min(weight.flatten(1).shape) > 4


def learning_rate(step: int, settings: StageSettings) -> float:
    """Of optimiser step `step`, counted from 1: a linear rise, then a cosine from the peak to `last_rate`."""
    if step <= settings.warm_up:
        return settings.learning_rate * step / settings.warm_up
    way = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    share = (1 + math.cos(math.pi * min(1.0, way))) / 2
    return settings.last_rate + (settings.learning_rate - settings.last_rate) * share


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
