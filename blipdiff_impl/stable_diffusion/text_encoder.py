"""The text encoder of Stable Diffusion 1.5, with vectors in the place of words (docs/method.md 1.5).

Vectors replace token embeddings before positions are added. transformers' CLIP model takes ids only, so a hook on its
embedding table puts the vectors in; the rest of the model stays as it is, causal mask included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..prompts.rows import ROW, ROW_POSITIONS, Token
from ..prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from .config import TextEncoderConfig

_PREFIX = "text_model."


class TextEncoder(nn.Module):
    """Rows of tokens and vectors to the UNet's context."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        self.config = config
        settings: dict[str, Any] = {**config.to_transformers(), "attn_implementation": "sdpa"}
        self.clip = CLIPTextModel(CLIPTextConfig(**settings))

    @classmethod
    def from_canonical(cls, config: TextEncoderConfig, tensors: dict[str, Tensor]) -> TextEncoder:
        """The encoder with these weights (`text_model.` names), in evaluation mode.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        encoder = cls(config)
        # transformers 5 dropped the prefix that files and transformers 4 have.
        prefixed = any(name.startswith(_PREFIX) for name in encoder.clip.state_dict())
        own = {name if prefixed else name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        try:
            encoder.clip.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"The text encoder's weights do not fit its configuration: {error}") from error
        return encoder.requires_grad_(False).eval()

    def canonical_state_dict(self) -> dict[str, Tensor]:
        """All weights under the names that checkpoints use."""
        return {f"{_PREFIX}{name.removeprefix(_PREFIX)}": tensor for name, tensor in self.clip.state_dict().items()}

    def token_embedding(self) -> nn.Embedding:
        """The table of 49,408 words."""
        table = self.clip.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        return table

    def forward(self, ids: Tensor, places: Tensor | None = None, vectors: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, `[B, L, W]`; pads are attended to, as in Stable Diffusion 1.5.

        Args:
            ids: `[B, L]`, L at most 77; what stands at the places of vectors is ignored.
            places: `[B, K]`, positions that vectors take; None for a prompt without a subject.
            vectors: `[B, K, W]`.
        """
        if places is None:
            return self.clip(input_ids=ids).last_hidden_state
        assert vectors is not None  # they come with their places

        def splice(module: nn.Module, inputs: tuple, embedded: Tensor) -> Tensor:
            index = places[..., None].expand(-1, -1, embedded.shape[-1])
            return embedded.scatter(1, index, vectors.to(embedded.dtype))

        hook = self.token_embedding().register_forward_hook(splice)
        try:
            return self.clip(input_ids=ids).last_hidden_state
        finally:
            hook.remove()

    def encode_plain(self, text: str) -> Tensor:
        """A prompt without a subject, cut to 77 positions: `[1, 77, W]`."""
        ids = torch.tensor([_pad([CLIP_START, *clip_ids(text)[:ROW_POSITIONS], CLIP_END])])
        return self(ids.to(self.token_embedding().weight.device))

    def encode_row(self, row: list[Token]) -> Tensor:
        """One chunk of at most 75 ids and vectors, start, end and padding added: `[1, 77, W]`."""
        device = self.token_embedding().weight.device
        places = [i + 1 for i, (item, _) in enumerate(row) if isinstance(item, Tensor)]
        ids = _pad([CLIP_START, *(CLIP_END if isinstance(item, Tensor) else item for item, _ in row), CLIP_END])
        ids = torch.tensor([ids], device=device)
        if not places:
            return self(ids)
        vectors = torch.stack([item for item, _ in row if isinstance(item, Tensor)])[None].to(device)
        return self(ids, torch.tensor([places], device=device), vectors)


def _pad(ids: list[int]) -> list[int]:
    return ids + [CLIP_END] * (ROW - len(ids))


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)
