"""The toy GILL's picture encoder: the built-in model's image tower as a CLIP vision model, tuned to hold in its class
token what the language has words for, and the look.

The heads that it is tuned with are thrown away.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blip_diffusion.pretraining.toy import COLOURS, colour_word
from ..files import as_tensor
from ..gill.companions import VisionConfig, stored
from ..pictures.preprocess import fit_square, normalise
from ..toy_world.colour import rgb_to_lab
from ..toy_world.render import render_picture, render_reference
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, PATTERNS, ToySubject, subject_from_seed
from ..toybox.training import Optimiser, train_steps
from ..toybox.vision import tower_as_clip_vision
from ..training.optimisers import fast_type
from .places import FOLDER, TOWER

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

CHECKPOINT = FOLDER / "tower.pt"
REFERENCE_SHARE = 0.2
# What the encoder is told by name: how many names there are, and what their loss counts.
NAMED = {"kind": (len(CATEGORIES), 1.0), "place": (len(BACKGROUND_NAMES), 1.0), "pattern": (len(PATTERNS), 0.5),
         "variant": (2, 0.3), "colour": (len(COLOURS), 1.0)}  # fmt: skip
_LAB_UNIT = 40.0

log = logging.getLogger(__name__)


def copy_of_image_tower() -> CLIPVisionModel:
    """The built-in model's tower in transformers' class, float32."""
    config, weights = tower_as_clip_vision()
    sizes = {name: config[name] for name in VisionConfig.__dataclass_fields__ if name in config}
    network = VisionConfig(**sizes).build()
    with torch.no_grad():
        for name, value in stored(network).items():
            value.copy_(weights[f"vision_model.{name}"])
    return network


class Heads(nn.Module):
    """What linear maps read off the class token: what is in `NAMED`, and three colours in Lab / 40."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = [count for count, _ in NAMED.values()]
        self.names = nn.Linear(width, sum(self.sizes))
        self.colours = nn.Linear(width, 9)

    def forward(self, pooled: Tensor) -> tuple[list[Tensor], Tensor]:
        return list(self.names(pooled).float().split(self.sizes, 1)), self.colours(pooled).float().unflatten(1, (3, 3))


def train_tower(steps: int, batch: int = 40, rate: float = 2e-3, seed: int = 12) -> None:
    """Train for `steps` in all on fresh renders; resumes, then writes the folder of transformers in float16."""
    torch.manual_seed(seed)
    tower = copy_of_image_tower()
    heads = Heads(int(tower.config.hidden_size))
    both = nn.ModuleDict({"tower": tower, "heads": heads}).to(fast_type())
    optimiser = Optimiser(both.named_parameters(), adam_only=("embedding", "heads"), decay=0.99)

    def loss_of(step: int) -> Tensor:
        pixels, targets = draw_views(np.random.default_rng((seed, step)), batch)
        return _loss(heads(tower(pixel_values=pixels.to(fast_type())).pooler_output), targets)

    train_steps(optimiser, CHECKPOINT, steps, rate, loss_of)
    both.float().load_state_dict(optimiser.average, strict=False)
    log.info("held out: %s", measure_tower(tower, heads))
    tower.half().save_pretrained(TOWER)


def draw_views(
    rng: np.random.Generator, count: int, held_out: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Pictures `[B, 3, 64, 64]` as the encoder takes them, and what they show: names `[B, 5]` in the order of `NAMED`
    (the place is -1 on a plain ground), colours `[B, 3, 3]`, and how much each colour counts `[B, 3, 1]`."""
    pictures, subjects, places = [], [], []
    for _ in range(count):
        subject = subject_from_seed(int(rng.integers(HELD_OUT_SEED)) + HELD_OUT_SEED * held_out)
        place = int(rng.integers(len(BACKGROUND_NAMES)))
        if rng.uniform() < REFERENCE_SHARE and not held_out:
            picture, place = render_reference(subject, rng, bank=True).picture, -1
        else:
            picture = render_picture(subject, BACKGROUND_NAMES[place], rng, bank=True).picture
        pictures.append(fit_square(as_tensor(picture)[None], 64))
        subjects.append(subject)
        places.append(place)
    return normalise(torch.cat(pictures)), _targets(subjects, places)


def _targets(subjects: list[ToySubject], places: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    looks = [each.look for each in subjects]
    colour_names = list(COLOURS)
    names = [[CATEGORIES.index(s.category), place, PATTERNS.index(s.look.pattern), s.look.variant,
              colour_names.index(colour_word(s.look.main))]
             for s, place in zip(subjects, places, strict=True)]  # fmt: skip
    colours = np.array([[look.main, look.second, look.accent] for look in looks])
    weights = torch.ones(len(looks), 3, 1)
    weights[:, 1, 0] = torch.tensor([float(look.pattern != "plain") for look in looks])
    return torch.tensor(names), torch.from_numpy((rgb_to_lab(colours) - [50, 0, 0]) / _LAB_UNIT).float(), weights


def _loss(found: tuple[list[Tensor], Tensor], targets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    names, colours, weights = targets
    loss = 3 * (weights * F.smooth_l1_loss(found[1], colours, beta=0.25, reduction="none")).mean()
    for number, (_, share) in enumerate(NAMED.values()):
        loss = loss + share * F.cross_entropy(found[0][number], names[:, number], ignore_index=-1)
    return loss


@torch.no_grad()
def measure_tower(tower: CLIPVisionModel, heads: Heads, count: int = 400) -> dict[str, float]:
    """On held-out subjects: how often kind, place and pattern are right, and the median Lab error of the colours."""
    pixels, (names, colours, _) = draw_views(np.random.default_rng((12, 5)), count, held_out=True)
    said, seen = heads(torch.cat([tower(pixel_values=part).pooler_output for part in pixels.split(50)]))
    found = {
        name: float((said[number].argmax(1) == names[:, number]).float().mean()) for number, name in enumerate(NAMED)
    }
    error = (seen - colours).norm(dim=2).median(dim=0).values * _LAB_UNIT
    return found | dict(zip(("main", "second", "accent"), error.tolist(), strict=True))
