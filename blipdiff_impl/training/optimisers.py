"""What steps the weights: AdamW, or Muon for matrices with AdamW for the rest; and the learning rate over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

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
        for weight, update in zip(weights, updates, strict=True):
            weight.add_(update.view_as(weight), alpha=-rate)


def _momentum(weight: nn.Parameter, state: dict) -> Tensor:
    """Nesterov's look ahead along the running mean of gradients."""
    if not state:
        # AdamW, which loads the state, wants a count in it.
        state["step"], state["momentum"] = torch.tensor(0.0), torch.zeros_like(weight)
    state["step"] += 1
    gradient = weight.grad
    assert gradient is not None  # others are not stepped
    mean = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
    return gradient.lerp(mean, _MOMENTUM)


def fast_type(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 (with AVX-512 BF16 faster than float32, and than autocast), but float32 on a CPU without AVX-512, where
    bfloat16 takes 20 times as long."""
    slow = torch.device(device).type == "cpu" and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return torch.float32 if slow else torch.bfloat16


def fast_precision(device: torch.device | str = "cpu") -> str:
    """`precision` of `training.settings` for `fast_type`."""
    return "bf16" if fast_type(device) is torch.bfloat16 else "no"


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz iteration towards the nearest orthogonal matrices; float [N, R, C] -> float32 [N, R, C].

    In float32 throughout: rounded to bfloat16, the Gram matrix of gradients of quickly falling singular values gets
    eigenvalues below zero, from which the iteration runs away (updates of 1e4 times their size).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.float()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # x' = (a + b G + c G^2) x with G = x x^T: all factors are polynomials of the first G, so they can be multiplied
    # before they meet the long side of x.
    gram = x @ x.mT
    factor = torch.eye(gram.shape[1], device=x.device)
    for _ in range(steps):
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        factor, gram = polynomial @ factor, polynomial @ gram @ polynomial
    x = factor @ x
    return x.mT if tall else x


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
    first, second = settings.betas
    return MuonAdamW(records, lr=settings.learning_rate, betas=(first, second), eps=settings.epsilon)


def _suits_muon(name: str, weight: nn.Parameter, settings: StageSettings) -> bool:
    if settings.optimiser != "muon" or weight.ndim < 2 or any(part in name for part in _NEVER_MUON):
        return False
    return min(weight.flatten(1).shape) > 4


def learning_rate(step: int, settings: StageSettings) -> float:
    """Of optimiser step `step`, counted from 1: a linear rise, then a cosine from the peak to `last_rate`.

    Where the settings have `tenth_every`, the rate falls to a tenth each time so many steps are done, instead.
    """
    if step <= settings.warm_up:
        return settings.learning_rate * step / settings.warm_up
    if every := getattr(settings, "tenth_every", 0):
        return settings.learning_rate * 0.1 ** ((step - 1) // every)
    way = (step - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    share = (1 + math.cos(math.pi * min(1.0, way))) / 2
    return settings.last_rate + (settings.learning_rate - settings.last_rate) * share


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]
