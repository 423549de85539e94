"""A prompt with a subject through the text encoder, outside ComfyUI (fact sheet 1.5).

Subject vectors replace token embeddings before positions are added. transformers' CLIP model takes ids only, so a hook
on its embedding table puts the vectors in; the rest of the model stays as it is, causal mask included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import TextEncoderConfig
from .errors import CheckpointError, SubjectError
from .prompt import ROW_POSITIONS, SENTINEL, PromptText, Token, arrange
from .subject import Subject
from .tokenizers import CLIP_END, CLIP_START, clip_ids

_PREFIX = "text_model."


class TextEncoder(nn.Module):
    """Rows of tokens and vectors to the UNet's context."""

    def __init__(self, config: TextEncoderConfig):
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        self.config = config
        self.clip = CLIPTextModel(CLIPTextConfig(**config.to_transformers(), attn_implementation="sdpa"))

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
        return self.clip.get_input_embeddings()

    def forward(self, ids: Tensor, places: Tensor | None = None, vectors: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm, `[B, L, W]`; pads are attended to, as in Stable Diffusion 1.5.

        Args:
            ids: `[B, L]`, L at most 77; what stands at the places of vectors is ignored.
            places: `[B, K]`, positions that vectors take; None for a prompt without a subject.
            vectors: `[B, K, W]`.
        """
        if places is None:
            return self.clip(input_ids=ids).last_hidden_state

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

    def encode_subject(self, text: PromptText, subject: Subject) -> Tensor:
        """A composed prompt with each subject of the batch: `[N, 77 * rows, W]`.

        Raises:
            SubjectError: the subject's width is not the encoder's.
        """
        if subject.width != self.config.hidden_size:
            raise SubjectError(
                f"The subject's vectors are {subject.width} wide, the text encoder takes {self.config.hidden_size}. "
                "Encode the subject with the model that generates."
            )
        tokens = [[(i, 1.0) for i in clip_ids(part)] for part in (text.first, text.repeat)]
        contexts = []
        for vectors in subject.embeddings:
            rows = arrange(*tokens, text.repetitions, clip_ids(SENTINEL), vectors)
            contexts.append(torch.cat([self._encode_row(row) for row in rows], dim=1))
        return torch.cat(contexts)

    def _encode_row(self, row: list[Token]) -> Tensor:
        device = self.token_embedding().weight.device
        places = [i + 1 for i, (item, _) in enumerate(row) if isinstance(item, Tensor)]
        ids = _pad([CLIP_START, *(CLIP_END if isinstance(item, Tensor) else item for item, _ in row), CLIP_END])
        ids = torch.tensor([ids], device=device)
        if not places:
            return self(ids)
        vectors = torch.stack([item for item, _ in row if isinstance(item, Tensor)])[None].to(device)
        return self(ids, torch.tensor([places], device=device), vectors)


def _pad(ids: list[int]) -> list[int]:
    return ids + [CLIP_END] * (ROW_POSITIONS + 2 - len(ids))
