"""Two things in one picture by text alone: are both there, and of the kinds that the text names?

The judge knows pictures of one large thing. So its mask is cut into two things, and at each the judge of boxes looks.
Where the mask ends is a question of its threshold; the one at which most of the named kinds are found counts. Two
checks of this go along: the renderer's own scenes (is it fair?), and kinds that the text does not name, sought in these
scenes in the same way (is it fooled?).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..blip_diffusion.pipeline import SubjectPipeline
from ..pictures.pixels import to_uint8
from ..toy_world.render import LARGE_SIZE
from ..toy_world.scenes import Box, RenderedScene, box_around, draw_boxes, render_scene, scene_text
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, ToySubject, captions, subject_from_seed
from .box_judge import crop_around, load_box_judge
from .judge import Judge

FIRST_SEED = HELD_OUT_SEED + 700_000_000
STEPS, GUIDANCE, BATCH = 25, 2.5, 16
MIN_AREA = 0.004  # of the picture; what is smaller is a speck, not a thing
MIN_SHARE = 0.15  # of the larger part; what falls off and is smaller is an arm or a handle
THRESHOLDS = (0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class SceneTrial:
    """Two held-out subjects of different kinds, their boxes in a picture of 192 pixels, the place, and the text."""

    subjects: tuple[ToySubject, ...]
    boxes: tuple[Box, ...]
    background: str
    text: str


def make_scene_trials(count: int) -> list[SceneTrial]:
    """Always the same; every second one draws the other kind first."""
    return [_trial(i) for i in range(count)]


def rendered_scene(trial: SceneTrial, index: int) -> RenderedScene:
    """A trial as the renderer draws it, 192 x 192."""
    rng = np.random.default_rng((FIRST_SEED, index, 1))
    size = (LARGE_SIZE, LARGE_SIZE)
    return render_scene(list(trial.subjects), list(trial.boxes), trial.background, size, rng)


def scene_numbers(pipeline: SubjectPipeline, count: int) -> dict[str, float]:
    """`scene2_kind`: the share of things named in the text that are found in the picture, `scene2_all` that of pictures
    with both. `renderer_*` are those of rendered pictures, `renderer_scene2_other_kinds` is the share of things found
    there that are not in them."""
    trials, judges = make_scene_trials(count), (Judge.load(), load_box_judge())
    named = [tuple(subject.category for subject in trial.subjects) for trial in trials]
    others = [tuple(CATEGORIES[(CATEGORIES.index(kind) + 4) % 12] for kind in kinds) for kinds in named]
    rendered = np.stack([rendered_scene(trial, i).picture for i, trial in enumerate(trials)])
    found = kinds_found(*judges, generate_scenes(pipeline, trials), named)
    fair, fooled = kinds_found(*judges, rendered, named), kinds_found(*judges, rendered, others)
    return {
        "scene2_kind": round(float(found.mean()), 4),
        "scene2_kind_se": round(float(found.mean(axis=1).std() / count**0.5), 4),
        "scene2_all": round(float(found.all(axis=1).mean()), 4),
        "renderer_scene2_kind": round(float(fair.mean()), 4),
        "renderer_scene2_all": round(float(fair.all(axis=1).mean()), 4),
        "renderer_scene2_other_kinds": round(float(fooled.mean()), 4),
    }


@torch.inference_mode()
def generate_scenes(pipeline: SubjectPipeline, trials: list[SceneTrial]) -> np.ndarray:
    """Pictures of the texts alone, uint8 [N, 192, 192, 3]."""
    drawn, empty, size = [], pipeline.text_encoder.encode_plain(""), (LARGE_SIZE, LARGE_SIZE)
    for start in range(0, len(trials), BATCH):
        part = trials[start : start + BATCH]
        context = torch.cat([pipeline.text_encoder.encode_plain(trial.text) for trial in part])
        noise = [pipeline.start_noise(1, size, start + i) for i in range(len(part))]
        latents = pipeline.denoise(torch.cat(noise), context, empty, STEPS, GUIDANCE, "pndm")
        drawn.append(to_uint8(pipeline.decode(latents)))
    return np.concatenate(drawn)


def kinds_found(judge: Judge, boxes: Judge, pictures: np.ndarray, kinds: list[tuple[str, ...]]) -> np.ndarray:
    """bool [N, 2]: is there a thing of each of these kinds in pictures uint8 [N, 192, 192, 3]? A thing counts once.

    Args:
        judge: finds the things.
        boxes: says what each is, looking at a crop around it.
    """
    return np.array([_found(judge, boxes, picture, wanted) for picture, wanted in zip(pictures, kinds, strict=True)])


def _found(judge: Judge, boxes: Judge, picture: np.ndarray, kinds: tuple[str, ...]) -> list[bool]:
    scores, best = judge.mask_scores(picture), [False, False]
    for threshold in THRESHOLDS:
        crops = [
            crop_around(picture, box_around(area) * len(picture) / len(area)) for area in two_areas(scores > threshold)
        ]
        seen = [CATEGORIES[i] for i in boxes.look_at(np.stack(crops)).category] if crops else []
        answers = []
        for kind in kinds:
            answers.append(kind in seen)
            if answers[-1]:
                seen.remove(kind)
        best = max(best, answers, key=sum)
    return best


def two_areas(mask: Tensor) -> list[np.ndarray]:
    """The two things of a mask bool [H, W], or as many as there are: areas that hang together, or, where there is one
    only, what it falls into when it is worn away from its edge, each with the places that are nearest to it."""
    areas = [area for area in _areas(mask) if area.sum() >= MIN_AREA * area.numel()]
    if len(areas) == 1:
        core = areas[0]
        while core.any():
            core = ~_grown(~core)
            parts = _areas(core)
            parts = [part for part in parts if part.sum() >= MIN_SHARE * parts[0].sum()]
            if len(parts) > 1:
                return [area.numpy() for area in _divide(areas[0], parts[:2])]
    return [area.numpy() for area in areas[:2]]


def _divide(whole: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """`whole` between two parts of it, which grow inside it at one speed."""
    first, second = parts
    while True:
        taken = first | second
        first, second = first | (_grown(first) & whole & ~taken), second | (_grown(second) & whole & ~taken)
        second = second & ~first
        if torch.equal(first | second, taken):
            return [first, second]


def _grown(mask: Tensor) -> Tensor:
    """A mask bool [H, W] with all neighbours of its places."""
    return F.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0


def _areas(mask: Tensor) -> list[Tensor]:
    """Areas of a mask bool [H, W] that hang together, the largest first."""
    # numbers spread over neighbours until nothing changes: each area ends with its largest number
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view(1, 1, *mask.shape) * mask
    while True:
        spread = F.max_pool2d(labels, 3, 1, 1) * (labels > 0)
        if torch.equal(spread, labels):
            break
        labels = spread
    areas = [labels[0, 0] == number for number in labels[labels > 0].unique()]
    return sorted(areas, key=lambda area: -int(area.sum()))


def _trial(index: int) -> SceneTrial:
    rng = np.random.default_rng((FIRST_SEED, index))
    first = index % 12
    kinds = CATEGORIES[first], CATEGORIES[(first + 1 + index // 12 % 11) % 12]
    background = BACKGROUND_NAMES[(index * 5 + index // 12) % 12]
    phrases = captions(background)
    return SceneTrial(
        tuple(subject_from_seed(FIRST_SEED + 2 * index + k, kind) for k, kind in enumerate(kinds)),
        tuple(draw_boxes(2, LARGE_SIZE, LARGE_SIZE, rng)),
        background,
        scene_text(list(kinds), phrases[rng.integers(len(phrases))], commas=False, place_first=False),
    )
