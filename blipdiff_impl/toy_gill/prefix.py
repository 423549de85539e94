"""The toy GILL's visual prefix in closed form: pictures as near as a linear map gets to the words that stood for them.

The language model has read pictures as four words each (`corpus.View.tags`). The prefix that the loss of captions finds
in a short training mixes kinds up; this one is the ridge regression of the words' embeddings, kind, place, and colour
with pattern, on what the picture encoder says.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..files import as_tensor
from ..gill.language_model import LanguageModel
from ..gill.parts import LearnedParts
from ..gill.vision import ClipVision
from ..toy_world.bank import make_bank, open_bank
from ..toy_world.world import BACKGROUND_NAMES, subject_from_seed
from .corpus import View
from .samples import BANK, BANK_VIEWS

RIDGE = 1e-3


@torch.no_grad()
def fit_prefix(parts: LearnedParts, language: LanguageModel, vision: ClipVision, count: int = BANK_VIEWS) -> None:
    """Give the parts the best linear prefix on the pictures of the bank."""
    make_bank(BANK_VIEWS, BANK)
    bank = open_bank(BANK)
    features, targets = [], []
    for start in range(0, count, 50):
        numbers = range(start, min(start + 50, count))
        pictures = torch.cat([as_tensor(np.array(bank.pictures[number]))[None] for number in numbers])
        features.append(vision.pooled(pictures))
        for number in numbers:
            view = View(subject_from_seed(number), BACKGROUND_NAMES[bank.labels[number, 1]])
            targets.append(words_of(view, language))
    weight, bias = _ridge(torch.cat(features).double(), torch.stack(targets).double())
    layer = parts.visual_embeddings
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


def words_of(view: View, language: LanguageModel) -> Tensor:
    """What three positions should be, `[3 * W]`."""
    kind, place, colour, pattern = (
        language.embed(language.tokenizer.ids(f" {tag}"))[0, 0].float() for tag in view.tags()
    )
    return torch.cat([kind, place, colour + pattern])


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[Y, X]` and bias `[Y]` of the regression of y `[N, Y]` on x `[N, X]`, by standardised columns."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / spread
    gram = z.T @ z / len(z) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
    weight = torch.linalg.solve(gram, z.T @ (y - y.mean(0)) / len(z)).T / spread
    return weight.float(), (y.mean(0) - weight @ mean).float()
