"""GILLMapper: eight states of the language model to what a text encoder would say (docs/method.md 14.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import IMAGE_TOKENS, MapperConfig


class GILLMapper(nn.Module):
    """PyTorch's own encoder-decoder Transformer between two linear layers; parameters are named as released.

    Norms come first and once more behind each stack; there are no masks, no positions and no dropout.
    """

    def __init__(self, config: MapperConfig, language_width: int):
        super().__init__()
        width = config.width
        self.fc = nn.Linear(language_width, width)
        self.query_embs = nn.Parameter(torch.randn(1, config.queries, width))
        layer = nn.TransformerEncoderLayer(
            width, config.heads, config.feed_forward, dropout=0.0, batch_first=True, norm_first=True
        )
        # Given by hand, as nn.Transformer's own warns that it cannot use nested tensors.
        encoder = nn.TransformerEncoder(
            layer, config.encoder_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.tfm = nn.Transformer(
            width,
            config.heads,
            num_decoder_layers=config.decoder_layers,
            dim_feedforward=config.feed_forward,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
            custom_encoder=encoder,
        )
        self.model = nn.Linear(width, config.output_width)

    def forward(self, states: Tensor, rows: Tensor) -> Tensor:
        """What stands in for a row of the text encoder.

        Args:
            states: the language model's last states at [IMG0] to [IMG7], behind its last norm, `[B, 8, W]`.
            rows: the embeddings of these tokens, `[8, W]`.

        Returns:
            `[B, queries, output width]`.
        """
        if states.shape[1:] != rows.shape or len(rows) != IMAGE_TOKENS:
            raise ValueError(f"states {list(states.shape)} and rows {list(rows.shape)} should be [B, 8, W] and [8, W]")
        memory = self.fc(states + rows)
        return self.model(self.tfm(memory, self.query_embs.expand(len(states), -1, -1)))
