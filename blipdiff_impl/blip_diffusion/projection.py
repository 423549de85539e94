"""The projection that turns query rows into words of the text encoder (docs/method.md 1.4)."""

from __future__ import annotations

from torch import Tensor, nn

from ..stable_diffusion.text_encoder import quick_gelu


class SubjectProjection(nn.Module):
    """`y = x + W2 · QuickGELU(W1 · LayerNorm(x))`, row by row: pre-norm, a residual around everything.

    The paper names two linear layers with GELU; the released model also has the norm, the residual and QuickGELU.
    """

    def __init__(self, width: int, hidden: int, eps: float = 1e-12):
        super().__init__()
        self.dense1 = nn.Linear(width, hidden)
        self.dense2 = nn.Linear(hidden, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dense1(self.LayerNorm(x))
        return x + self.dropout(self.dense2(quick_gelu(hidden)))
