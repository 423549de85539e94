"""AdamW (Loshchilov and Hutter 2019) with the release's grouping, and the undoing of its last step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .settings import LORA_RATE, VECTORS_RATE, FinetuneSettings


def make_adamw(
    vectors: nn.Parameter,
    weights: Sequence[nn.Parameter],
    factors: Sequence[nn.Parameter],
    settings: FinetuneSettings,
) -> torch.optim.AdamW:
    """The optimiser at a constant rate; tensors of one dimension (biases, norms) do not decay.

    Args:
        vectors: the subject's, `VECTORS_RATE` times faster where they alone are trained.
        weights: stepped at `settings.learning_rate`.
        factors: low-rank factors, stepped `LORA_RATE` times faster.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    speed = VECTORS_RATE if settings.method == "vectors" else settings.vectors_speed
    groups = [
        {"params": [vectors], "lr": speed * rate, "weight_decay": decay},
        {"params": [p for p in weights if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in weights if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        {"params": list(factors), "lr": LORA_RATE * rate, "weight_decay": decay},
    ]
    groups = [group for group in groups if group["params"]]
    fused = vectors.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=fused)


@torch.no_grad()
def undo_last_step(optimiser: torch.optim.AdamW) -> None:
    """Bring the parameters back to where they were before the optimiser's last step.

    Its moments still hold what it subtracted, so no copy of the weights has to be kept. The moments themselves stay.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.add_(_update(optimiser.state[parameter], group)).div_(1 - group["lr"] * group["weight_decay"])


def _update(state: dict, group: dict) -> Tensor:
    """lr * m_hat / (sqrt(v_hat) + eps) of the step that was made."""
    step, (beta1, beta2) = float(state["step"]), group["betas"]
    denominator = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
    return state["exp_avg"] / denominator * (group["lr"] / (1 - beta1**step))
