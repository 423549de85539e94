"""First stage: the subject encoder learns to say, from a reference picture, how the subject looks.

Linear heads read the three colours (Lab), the pattern and the set of parts from the 16 subject vectors. The background
behind the subject is of no use to them, so it is not encoded. The heads are thrown away afterwards.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..blip_diffusion.subject_module import SubjectEncoderModule
from ..pictures.preprocess import normalise
from ..prompts.tokenizers import WordPieceTokenizer
from ..toy_world.bank import CACHE, open_bank
from ..toy_world.colour import rgb_to_lab
from ..toy_world.render import render_reference
from ..toy_world.world import CATEGORIES, HELD_OUT_SEED, PATTERNS, ToySubject, subject_from_seed, vocabulary
from ..training.optimisers import fast_type
from .model import WIDTH, build_subject_encoder
from .training import Optimiser, keep, learning_rate, resume

LAB_UNIT = 40.0

log = logging.getLogger(__name__)


class LookHeads(nn.Module):
    """Linear readouts of a look from subject vectors [B, 16, W]: colours [B, 3, 3] in Lab / 40, pattern, variant."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16 * WIDTH)
        self.colours = nn.Linear(16 * WIDTH, 9)
        self.pattern = nn.Linear(16 * WIDTH, len(PATTERNS))
        self.variant = nn.Linear(16 * WIDTH, 2)

    def forward(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = self.norm(vectors.flatten(1))
        return self.colours(rows).unflatten(1, (3, 3)), self.pattern(rows), self.variant(rows)


def look_targets(subjects: list[ToySubject]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the heads should say: colours [B, 3, 3] (main, second, accent), pattern [B], variant [B]."""
    colours = np.array([[s.look.main, s.look.second, s.look.accent] for s in subjects])
    lab = torch.from_numpy((rgb_to_lab(colours) - [50, 0, 0]) / LAB_UNIT).float()
    pattern = torch.tensor([PATTERNS.index(s.look.pattern) for s in subjects])
    return lab, pattern, torch.tensor([s.look.variant for s in subjects])


def to_pixels(references: np.ndarray) -> torch.Tensor:
    """uint8 [B, 64, 64, 3] -> what the image tower takes, [B, 3, 64, 64]."""
    return normalise(torch.from_numpy(np.array(references)).float() / 255)


def category_ids() -> torch.Tensor:
    """Word pieces of every category, int64 [12, 3]."""
    return WordPieceTokenizer(vocabulary()).batch(list(CATEGORIES))[0]


def look_loss(answers: tuple, targets: tuple) -> torch.Tensor:
    """Huber on colours (the second one only where the pattern shows it), cross-entropy on pattern and variant."""
    colours, pattern, variant = (a.float() for a in answers)
    weight = torch.ones(len(colours), 3, 1)
    weight[:, 1, 0] = (targets[1] != PATTERNS.index("plain")).float()
    loss = (weight * F.smooth_l1_loss(colours, targets[0], beta=0.25, reduction="none")).mean()
    return 3 * loss + 0.5 * F.cross_entropy(pattern, targets[1]) + 0.3 * F.cross_entropy(variant, targets[2])


def train_subject(minutes: float, batch: int = 48, rate: float = 1.5e-3, seed: int = 3) -> None:
    """Train for `minutes` in all and write `subject.pt` (encoder and heads)."""
    encoder = build_subject_encoder(seed).to(fast_type())
    heads = LookHeads().to(fast_type())
    both = nn.ModuleDict({"encoder": encoder, "heads": heads})
    optimiser = Optimiser(both.named_parameters(), adam_only=("embedding", "heads", "query_tokens"))
    path, ids = CACHE / "subject.pt", category_ids()
    clock = resume(optimiser, path)
    total = 0.0
    while clock.spent < minutes * 60:
        if optimiser.steps % 500 == 0:
            bank = open_bank()
        rows = np.sort(np.random.default_rng((seed, optimiser.steps)).choice(len(bank.labels), batch, replace=False))
        vectors = encoder(
            to_pixels(bank.references[rows]).to(fast_type()),
            ids[bank.labels[rows, 0].astype(np.int64)],
            torch.ones(batch, 3),
        )
        loss = look_loss(heads(vectors), look_targets([subject_from_seed(int(i)) for i in rows]))
        loss.backward()
        optimiser.clip(1.0)
        optimiser.step(learning_rate(clock.spent / (minutes * 60), rate))
        total += float(loss.detach())
        if optimiser.steps % 200 == 0:
            log.info("step %d, %.1f min, loss %.4f", optimiser.steps, clock.spent / 60, total / 200)
            total = 0.0
        if clock.checkpoint_due():
            keep(optimiser, clock.spent, path)
    keep(optimiser, clock.spent, path)
    log.info("held out: %s", measure_subject())


def averaged_subject_encoder() -> tuple[SubjectEncoderModule, LookHeads]:
    """Encoder and heads with averaged weights, float32."""
    both = nn.ModuleDict({"encoder": build_subject_encoder(0), "heads": LookHeads()})
    both.load_state_dict(torch.load(CACHE / "subject.pt", weights_only=True)["optimiser"]["average"])
    return both["encoder"].eval(), both["heads"].eval()


@torch.no_grad()
def measure_subject(count: int = 512) -> dict[str, float]:
    """On held-out subjects: median Lab error of main and accent colour, accuracy of pattern and variant."""
    encoder, heads = averaged_subject_encoder()
    subjects = [subject_from_seed(HELD_OUT_SEED + i) for i in range(count)]
    pictures = np.stack(
        [render_reference(s, np.random.default_rng((i, 9)), bank=True).picture for i, s in enumerate(subjects)]
    )
    ids = category_ids()[[CATEGORIES.index(s.category) for s in subjects]]
    colours, pattern, variant = heads(encoder(to_pixels(pictures), ids, torch.ones(count, 3)))
    lab, patterns, variants = look_targets(subjects)
    error = (colours - lab).norm(dim=2).median(dim=0).values * LAB_UNIT
    return {
        "main": float(error[0]),
        "accent": float(error[2]),
        "pattern": float((pattern.argmax(1) == patterns).float().mean()),
        "variant": float((variant.argmax(1) == variants).float().mean()),
    }
