"""The judge: a small network and two colour distances that say what a picture of the toy world shows.

It is trained on renders alone and never sees a generated picture. The network finds the subject's mask and names kind,
place and pattern; which subject it is, the Lab colours inside the mask decide.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..files import write_whole
from ..toy_world.bank import CACHE
from ..toy_world.colour import rgb_to_lab
from ..toy_world.render import PICTURE_SIZE, render_picture
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, PATTERNS, subject_from_seed
from .training import Optimiser, keep, learning_rate, resume

WEIGHTS = Path(__file__).with_name("judge.safetensors")
CHECKPOINT = CACHE / "judge.pt"
POSITION_SCALE = 30.0  # the length of the box in Lab units; two colours of one subject lie at least 30 apart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in N pictures: indices [N], and masks bool [N, S, S]."""

    category: np.ndarray
    background: np.ndarray
    pattern: np.ndarray
    mask: np.ndarray


class JudgeNetwork(nn.Module):
    """Four strided levels; the mask is read at half the size, names from coarse maps that keep the layout."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
                nn.Conv2d(b, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
            )
            for a, b in pairwise(widths)
        )  # fmt: skip
        self.context = nn.Conv2d(128, 32, 1)
        self.mask = nn.Sequential(nn.Conv2d(64, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 1))
        self.category = _reader(128, 3, len(CATEGORIES))
        self.background = _reader(128, 3, len(BACKGROUND_NAMES))
        self.pattern = _reader(96, 6, len(PATTERNS))

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures [B, 3, 96, 96] in -1..1 -> logits; the mask's are [B, 1, 48, 48]."""
        maps = [pictures]
        for level in self.levels:
            maps.append(level(maps[-1]))
        context = F.interpolate(self.context(maps[4]), scale_factor=8, mode="bilinear")
        return {
            "mask": self.mask(torch.cat([maps[1], context], dim=1)),
            "category": self.category(maps[4]),
            "background": self.background(maps[4]),
            "pattern": self.pattern(maps[3]),
        }


def _reader(channels: int, side: int, classes: int) -> nn.Sequential:
    """Logits from a map, pooled to [side, side] cells."""
    return nn.Sequential(
        nn.Conv2d(channels, 48, 1), nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.SiLU(),
        nn.Linear(48 * side * side, 64), nn.SiLU(), nn.Linear(64, classes),
    )  # fmt: skip


class Judge:
    """The trained judge; `look_at` names, `sliced_distance` and `palette_distance` compare two subjects' colours."""

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        """The judge that comes with the package, or another one's weights."""
        from safetensors.torch import load_file

        network = JudgeNetwork()
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return cls(network)

    @torch.inference_mode()
    def look_at(self, pictures: np.ndarray) -> Verdict:
        """Judge pictures uint8 [N, 96, 96, 3]."""
        answers = [self.network(to_input(part)) for part in np.array_split(pictures, max(1, len(pictures) // 64))]
        joint = {name: torch.cat([a[name] for a in answers]) for name in answers[0]}
        mask = F.interpolate(joint["mask"], size=pictures.shape[1], mode="bilinear")[:, 0] > 0
        return Verdict(*(joint[n].argmax(1).numpy() for n in ("category", "background", "pattern")), mask.numpy())

    @torch.inference_mode()
    def mask_scores(self, picture: np.ndarray) -> torch.Tensor:
        """How surely each place of a picture uint8 [S, S, 3] of any size is subject (0: undecided), [S / 2, S / 2]."""
        return self.network(to_input(picture[None]))["mask"][0, 0]


def judged_size(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, S, S, 3] at the size the judge was trained on, each pixel the mean of what it covers."""
    factor = pictures.shape[1] // PICTURE_SIZE
    if factor == 1:
        return pictures
    cells = pictures.reshape(len(pictures), PICTURE_SIZE, factor, PICTURE_SIZE, factor, 3)
    return cells.mean(axis=(2, 4)).round().astype(np.uint8)


def subject_points(picture: np.ndarray, mask: np.ndarray, count: int = 400) -> np.ndarray:
    """The subject as points [count, 5]: Lab colour, and place inside the mask's box in units of `POSITION_SCALE`.

    Places make a pattern count, not only its colours. An empty mask takes the middle of the picture.
    """
    if mask.sum() < 20:
        mask = np.zeros_like(mask)
        mask[32:64, 32:64] = True
    y, x = np.nonzero(mask)
    chosen = np.linspace(0, len(x) - 1, count).astype(int)
    y, x = y[chosen], x[chosen]
    place = np.stack([(x - x.min()) / (np.ptp(x) + 1), (y - y.min()) / (np.ptp(y) + 1)], axis=1)
    return np.concatenate([rgb_to_lab(picture[y, x]), POSITION_SCALE * place], axis=1)


def sliced_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Sliced Wasserstein-1 distance between two sets [M, 5] of points, over 64 fixed directions."""
    return float(np.abs(np.sort(a @ _DIRECTIONS, axis=0) - np.sort(b @ _DIRECTIONS, axis=0)).mean())


def palette(colours: np.ndarray, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The main colours [size, 3] of a set and their shares, by k-means from evenly spread starts in lightness."""
    centres = colours[np.argsort(colours[:, 0])][np.linspace(0, len(colours) - 1, size).astype(int)]
    for _ in range(8):
        nearest = np.linalg.norm(colours[:, None] - centres, axis=2).argmin(axis=1)
        centres = np.stack(
            [colours[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(size)]
        )
    return centres, np.bincount(nearest, minlength=size) / len(colours)


def palette_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Lab distance from each main colour to the other set's nearest one, weighted by share, both ways.

    Takes sets [M, 3 or more] whose first columns are Lab.
    """
    (centres_a, shares_a), (centres_b, shares_b) = palette(a[:, :3]), palette(b[:, :3])
    between = np.linalg.norm(centres_a[:, None] - centres_b, axis=2)
    return float((shares_a @ between.min(axis=1) + shares_b @ between.min(axis=0)) / 2)


def train_judge(minutes: float, batch: int = 32, rate: float = 2e-3, seed: int = 6) -> None:
    """Train on fresh renders, made noisy and soft by chance; resumes, then writes `judge.safetensors` in float16."""
    from safetensors.torch import save

    torch.manual_seed(seed)
    network = JudgeNetwork()
    optimiser = Optimiser(network.named_parameters(), adam_only=("mask.2", "category.6", "background.6", "pattern.6"))
    clock = resume(optimiser, CHECKPOINT)
    while clock.spent < minutes * 60:
        loss = _judge_loss(network, np.random.default_rng((seed, optimiser.steps)), batch)
        loss.backward()
        optimiser.step(learning_rate(clock.spent / (minutes * 60), rate))
        if optimiser.steps % 100 == 0:
            log.info("step %d, %.1f min, loss %.4f", optimiser.steps, clock.spent / 60, float(loss.detach()))
        if clock.checkpoint_due():
            keep(optimiser, clock.spent, CHECKPOINT)
    keep(optimiser, clock.spent, CHECKPOINT)
    write_whole(WEIGHTS, save({name: tensor.half() for name, tensor in optimiser.average.items()}))


def _judge_loss(network: JudgeNetwork, rng: np.random.Generator, count: int) -> torch.Tensor:
    subjects = [subject_from_seed(int(rng.integers(HELD_OUT_SEED))) for _ in range(count)]
    places = rng.integers(len(BACKGROUND_NAMES), size=count)
    rendered = [render_picture(s, BACKGROUND_NAMES[b], rng, bank=True) for s, b in zip(subjects, places, strict=True)]
    mask = torch.from_numpy(np.stack([r.mask for r in rendered]))[:, None].float() / 255
    answers = network(spoil(to_input(np.stack([r.picture for r in rendered])), rng))
    return (
        F.cross_entropy(answers["category"], torch.tensor([CATEGORIES.index(s.category) for s in subjects]))
        + F.cross_entropy(answers["background"], torch.from_numpy(places))
        + F.cross_entropy(answers["pattern"], torch.tensor([PATTERNS.index(s.look.pattern) for s in subjects]))
        + F.binary_cross_entropy_with_logits(answers["mask"], F.avg_pool2d(mask, 2))
    )


def spoil(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """What a judge learns from instead of clean renders: half go through a smaller size and back; all get a little
    noise."""
    small = F.interpolate(pictures, scale_factor=float(rng.uniform(0.35, 0.8)), mode="bilinear", antialias=True)
    soft = F.interpolate(small, size=pictures.shape[2:], mode="bilinear")
    chosen = torch.from_numpy(rng.uniform(size=(len(pictures), 1, 1, 1)) < 0.5)
    noise = torch.from_numpy(rng.standard_normal(tuple(pictures.shape), dtype=np.float32))
    return torch.where(chosen, soft, pictures) + float(rng.uniform(0, 0.08)) * noise


def to_input(pictures: np.ndarray) -> torch.Tensor:
    """Pictures uint8 [N, S, S, 3] as the network takes them: float [N, 3, S, S] in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


_DIRECTIONS = np.random.default_rng(8).standard_normal((5, 64))
_DIRECTIONS /= np.linalg.norm(_DIRECTIONS, axis=0)
