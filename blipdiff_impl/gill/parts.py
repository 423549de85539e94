"""All learned parts of GILL as one module; parameters are named as released (docs/method.md 14.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, first_few
from .config import IMAGE_TOKENS, GILLConfig
from .mapper import GILLMapper

_FIRST_TEMPERATURE = 0.07


class _Named(nn.Module):
    """A linear layer one name deeper, as in the released file."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.model = nn.Linear(inputs, outputs)


def make_classifier(width: int) -> nn.Sequential:
    """Draw or retrieve, from the state of [IMG0]; its dropout acts in its own training alone."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 2))


class LearnedParts(nn.Module):
    """What GILL adds to a frozen language model and a frozen picture encoder."""

    def __init__(self, config: GILLConfig):
        super().__init__()
        self.config = config
        width = config.language_width
        self.input_embeddings = nn.Embedding(IMAGE_TOKENS, width)
        self.visual_embeddings = nn.Linear(config.vision_width, config.visual_tokens * width)
        self.visual_fc = nn.Linear(config.vision_width, config.retrieval_width)
        self.ret_text_hidden_fcs = nn.ModuleList([_Named(width, config.retrieval_width)])
        self.gen_text_hidden_fcs = nn.ModuleList([GILLMapper(config.mapper, width)])
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / _FIRST_TEMPERATURE)))
        self.decision_model = make_classifier(width) if config.decision else None

    @classmethod
    def from_tensors(cls, config: GILLConfig, tensors: Mapping[str, Tensor]) -> LearnedParts:
        """The parts around these tensors (not copied), frozen.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        with torch.device("meta"):
            parts = cls(config)
        own = parts.state_dict()
        shapes = ({name: value.shape for name, value in table.items()}.items() for table in (own, tensors))
        if wrong := sorted({name for name, _ in set.symmetric_difference(*map(set, shapes))}):
            raise CheckpointError(f"GILL's weights do not fit its sizes: {first_few(wrong)}. Load another file.")
        parts.load_state_dict(dict(tensors), strict=True, assign=True)
        return parts.requires_grad_(False).eval()

    @property
    def rows(self) -> Tensor:
        """Embeddings of [IMG0] to [IMG7], `[8, W]`."""
        return self.input_embeddings.weight

    def prefix(self, pooled: Tensor) -> Tensor:
        """Pictures as positions of the prompt: pooled outputs `[B, vision width]` to `[B, visual tokens, W]`."""
        return self.visual_embeddings(pooled.to(self.rows)).unflatten(1, (self.config.visual_tokens, -1))

    def conditioning(self, states: Tensor) -> Tensor:
        """States at the eight tokens, `[B, 8, W]`, to `[B, 77, 768]`."""
        return self.gen_text_hidden_fcs[0](states.to(self.rows), self.rows)

    def text_embedding(self, states: Tensor) -> Tensor:
        """States at the eight tokens to the space of retrieval, `[B, R]` of unit length; only [IMG0]'s counts."""
        layer = cast(_Named, self.ret_text_hidden_fcs[0])
        return F.normalize(layer.model(states[:, 0].to(self.rows)), dim=-1)

    def picture_embedding(self, pooled: Tensor) -> Tensor:
        """Pooled outputs of pictures to the space of retrieval, `[B, R]` of unit length."""
        return F.normalize(self.visual_fc(pooled.to(self.rows)), dim=-1)

    def decisions(self, states: Tensor) -> Tensor | None:
        """Probabilities that a picture should be drawn and that it should be retrieved, `[B, 2]`; None without
        classifier. The raw state of [IMG0] is what counts."""
        if self.decision_model is None:
            return None
        return self.decision_model(states[:, 0].to(self.rows)).softmax(-1)
