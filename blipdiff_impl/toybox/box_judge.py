"""The judge of boxes: it says what stands in a box of a picture of several things.

It has the judge's network and goes on from its weights, on renders alone: crops around things of scenes, with parts of
their neighbours, things that are bent, beside their box or larger than it, and grounds of no certain place. The judge
itself knows things as the renderer draws them, in the middle; what stands or looks otherwise it often takes for
something else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from ..files import write_whole
from ..toy_world.bank import CACHE
from ..toy_world.render import LARGE_SIZE, PICTURE_SIZE, scene_ground
from ..toy_world.scenes import RenderedScene, draw_boxes, render_scene
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, PATTERNS, ToySubject, subject_from_seed
from .judge import Judge, spoil, to_input
from .training import Optimiser, train_steps

WEIGHTS = Path(__file__).with_name("box_judge.safetensors")
CHECKPOINT = CACHE / "box_judge.pt"
FILL = 0.72  # share of the crop's side that a thing takes, as in the pictures the judge was trained on
COUNTS = (1, 2, 3, 3)  # things in a scene, each as likely as the next
MIXED_SHARE = 0.5
"""Share of the scenes whose ground is between two places, blurred, in another light."""
# Of what a crop shows, in its sides: how far it is shifted and bent, by how much larger, wider and slanted it gets.
SHIFT, BENT, GROWN, WIDENED, SLANTED = 0.13, 0.05, 1.35, 1.25, 0.2
BENDS = 4  # each way, of the bends

Crop = tuple[np.ndarray, np.ndarray, ToySubject]


def load_box_judge() -> Judge:
    """The one that comes with the package. What it says of places means nothing."""
    return Judge.load(WEIGHTS)


def crop_square(box: np.ndarray) -> tuple[float, float, float]:
    """Left, top and side of the square around a box (x0, y0, x1, y1) in which it takes `FILL` of the side."""
    side = max(box[2] - box[0], box[3] - box[1]) / FILL
    return (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2, side


def crop_around(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What is in `crop_square`, uint8 [96, 96, 3].

    Beyond the picture's border its last pixels go on.
    """
    left, top, side = crop_square(box)
    margin = int(np.ceil(side))
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    area = (left + margin, top + margin, left + margin + side, top + margin + side)
    resized = Image.fromarray(padded).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC, box=area)
    return np.asarray(resized)


def train_box_judge(steps: int, batch: int = 48, rate: float = 1e-3, seed: int = 9, path: Path = WEIGHTS) -> None:
    """Train for `steps` in all, from the judge's weights; resumes, then writes the weights in float16."""
    from safetensors.torch import save

    network = Judge.load().network.train()
    optimiser = Optimiser(network.named_parameters(), adam_only=("mask.2", "category.6", "background.6", "pattern.6"))

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        crops: list[Crop] = []
        while len(crops) < batch:
            crops += draw_crops(rng)
        pictures, masks, things = zip(*crops[:batch], strict=True)
        seen, mask = bent(to_input(np.stack(pictures)), torch.from_numpy(np.stack(masks))[:, None].float() / 255, rng)
        answers = network(spoil(seen, rng))
        return (
            F.cross_entropy(answers["category"], torch.tensor([CATEGORIES.index(t.category) for t in things]))
            + F.cross_entropy(answers["pattern"], torch.tensor([PATTERNS.index(t.look.pattern) for t in things]))
            + F.binary_cross_entropy_with_logits(answers["mask"], F.avg_pool2d(mask, 2))
        )

    train_steps(optimiser, CHECKPOINT, steps, rate, loss_of)
    kept = {**network.state_dict(), **optimiser.average}
    write_whole(path, save({name: tensor.half().contiguous() for name, tensor in kept.items()}))


def draw_crops(rng: np.random.Generator, first_seed: int = 0) -> list[Crop]:
    """What is in each box of a scene by chance: picture uint8 [96, 96, 3], mask of the thing uint8 [96, 96], thing.

    Args:
        first_seed: of the things; `HELD_OUT_SEED` gives some that are never trained on.
    """
    size = (LARGE_SIZE, LARGE_SIZE)
    count = COUNTS[rng.integers(len(COUNTS))]
    things = [subject_from_seed(first_seed + int(rng.integers(HELD_OUT_SEED))) for _ in range(count)]
    place = BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]
    scene = render_scene(things, draw_boxes(count, *size, rng), place, size, rng)
    picture = _on_another_ground(scene, rng) if rng.uniform() < MIXED_SHARE else scene.picture
    crops = []
    for number, thing in enumerate(things):
        box = scene.boxes[number].astype(float)
        covered = scene.masks[number + 1 :].max(axis=0, initial=0)
        own = np.minimum(scene.masks[number], 255 - covered)
        mask = crop_around(np.repeat(own[..., None], 3, axis=2), box)[..., 0]
        crops.append((crop_around(picture, box), mask, thing))
    return crops


def bent(pictures: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [N, 3, S, S] and masks [N, 1, S, S], each shifted, resized, slanted and bent by chance; the border's
    pixels go on."""
    count, random = len(pictures), torch.from_numpy(rng.uniform(-1, 1, (len(pictures), 6))).float()
    size, wide = GROWN ** -random[:, 0], WIDENED ** (random[:, 1] / 2)
    linear = torch.stack([size * wide, SLANTED * random[:, 2], SLANTED * random[:, 3], size / wide], 1).view(
        count, 2, 2
    )
    grid = F.affine_grid(
        torch.cat([linear, 2 * SHIFT * random[:, 4:, None]], 2), list(pictures.shape), align_corners=False
    )
    bends = torch.from_numpy(rng.uniform(-2 * BENT, 2 * BENT, (count, 2, BENDS, BENDS))).float()
    field = F.interpolate(bends, size=pictures.shape[2:], mode="bicubic", align_corners=True)
    grid = grid + field.permute(0, 2, 3, 1)
    both = F.grid_sample(torch.cat([pictures, masks], 1), grid, padding_mode="border", align_corners=False)
    return both[:, :3], both[:, 3:]


def _on_another_ground(scene: RenderedScene, rng: np.random.Generator) -> np.ndarray:
    """The scene with its things as they are, and a ground as an unsure model paints it."""
    other = scene_ground(BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))], LARGE_SIZE, rng, bank=True)
    share, light = rng.uniform(0.2, 0.8), rng.uniform(0.7, 1.2, size=3)
    mixed = (share * scene.picture + (1 - share) * other) * light
    ground = Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
    ground = np.asarray(ground.filter(ImageFilter.GaussianBlur(rng.uniform(0, 6))))
    there = scene.masks.max(axis=0)[..., None] / 255
    return (there * scene.picture + (1 - there) * ground).round().astype(np.uint8)
