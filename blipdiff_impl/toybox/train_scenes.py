"""The UNet goes on from the embedded model: pictures of 96 and 192 pixels, with one to three things in them.

Text encoder, subject encoder and the autoencoder's encoder stay as they are. A picture is described by text alone, by
text with the vectors of its things in one row, or as the nodes do it for subjects in regions: the prompt in words, and
behind it the columns of every thing from a prompt of its own, seen only inside its box.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blip_diffusion.pipeline import SubjectPipeline
from ..prompts.rows import ROW
from ..stable_diffusion.config import VAE_FACTOR
from ..stable_diffusion.noise import TRAIN_TIMESTEPS, add_noise, alphas_bar, error_weights
from ..toy_world import prompts
from ..toy_world.bank import CACHE
from ..toy_world.scenes import EMPTY_SHARE, MAX_THINGS, ROW_SHARE, TEXT_SHARE, draw_text, scene_row, word_column
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES
from ..training.optimisers import fast_type
from . import scene_bank
from .training import Optimiser, keep, learning_rate, resume

CHECKPOINT = CACHE / "scenes.pt"
MIN_SNR = 5.0
MASK_WEIGHT = 2.0
HIDDEN = -1e4
COLUMNS = ROW + MAX_THINGS * (prompts.VECTORS + 1)
UNTRAINED = prompts.token_ids("and")[0]
"""A word whose row in the table is zero."""
LONE_REGION_SHARE = 0.15
HALVES_SHARE = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """What one picture is described with.

    Attributes:
        rows: token ids [77] each, the picture's prompt first, then one for each thing with a region.
        places: (row, position of the first vector, number of the thing) of every thing whose vectors are in a row.
        columns: (row, first column, columns, number of the thing) of what is added behind the first row.
        owners: (column, number of the thing): columns of the first row that only the thing's region sees.
    """

    rows: list[np.ndarray]
    places: list[tuple[int, int, int]]
    columns: list[tuple[int, int, int, int]]
    owners: list[tuple[int, int]]


def draw_prompt(kinds: list[str], background: str, rng: np.random.Generator) -> Prompt:
    """One prompt for a picture of these things."""
    if len(kinds) == 1 and rng.uniform() >= LONE_REGION_SHARE:
        ids, position = prompts.draw_row(kinds[0], background, rng)
        ids = np.where(ids == prompts.UNKNOWN, UNTRAINED, ids)
        return Prompt([ids], [] if position < 0 else [(0, position, 0)], [], [])
    chance = rng.uniform()
    if chance < EMPTY_SHARE:
        return Prompt([prompts.row("", None)[0]], [], [], [])
    order = rng.permutation(len(kinds))
    named = [kinds[i] for i in order]
    text = draw_text(named, background, rng)
    plain = scene_row(text, named, ())
    if chance < EMPTY_SHARE + TEXT_SHARE:
        return Prompt([plain.ids], [], [], [])
    if chance < EMPTY_SHARE + TEXT_SHARE + ROW_SHARE:
        # as many of them as a row can hold
        shown = tuple(sorted(rng.permutation(len(kinds))[: int(rng.integers(1, len(kinds) + 1))]))
        row = scene_row(text, named, shown)
        return Prompt([row.ids], [(0, row.places[i], int(order[i])) for i in shown], [], [])
    rows, places, columns, owners = [plain.ids], [], [], []
    for index, kind in enumerate(named):
        thing = int(order[index])
        own = scene_row(text, named, (index,))
        places.append((len(rows), own.places[index], thing))
        columns.append((len(rows), own.places[index], prompts.VECTORS + 1, thing))
        owners.append((word_column(plain, kind, named[:index].count(kind)), thing))
        rows.append(own.ids)
    return Prompt(rows, places, columns, owners)


def region(box: np.ndarray, size: tuple[int, int], soft: float) -> np.ndarray:
    """A box (x0, y0, x1, y1) in latent cells as a mask float32 [h, w]; its edge fades over `soft` cells or one."""
    width, height = size
    soft = max(1.0, soft)
    across, down = np.arange(width) + 0.5, np.arange(height) + 0.5

    def inside(x: np.ndarray, a: float, b: float) -> np.ndarray:
        return np.clip((x - a) / soft + 0.5, 0, 1) * np.clip((b - x) / soft + 0.5, 0, 1)

    return (inside(down, box[1], box[3])[:, None] * inside(across, box[0], box[2])).astype(np.float32)


def draw_regions(boxes: np.ndarray, size: tuple[int, int], wide: bool, rng: np.random.Generator) -> np.ndarray:
    """Regions of the things with these boxes [n, 4] in latent cells, [n, h, w]: larger boxes, or two halves."""
    width, height = size
    soft = rng.uniform(0, 2)
    if len(boxes) == 2 and rng.uniform() < (HALVES_SHARE if wide else HALVES_SHARE / 2):
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        axis = int(abs(centres[0, 1] - centres[1, 1]) > abs(centres[0, 0] - centres[1, 0]))
        first = int(centres[1, axis] < centres[0, axis])
        cut = (boxes[first, 2 + axis] + boxes[1 - first, axis]) / 2
        halves = np.array([[-9, -9, width + 9, height + 9]] * 2, float)
        halves[first, 2 + axis] = halves[1 - first, axis] = size[0] / 2 if wide else cut
        return np.stack([region(half, size, soft) for half in halves])
    grown = []
    for box in boxes.astype(float):
        margin = rng.uniform(-0.03, 0.2, size=4) * (box[2] - box[0])
        grown.append(region(box + margin * [-1, -1, 1, 1], size, soft))
    return np.stack(grown)


class SceneData:
    """Draws batches from one shape of the bank; a batch depends only on seed and step (and on what was ready).

    Args:
        scenes: only the first so many are drawn from.
    """

    def __init__(self, name: str, seed: int, scenes: int | None = None):
        self.name, self.seed, self.scenes = name, seed, scenes
        self.arrays = scene_bank.open_shape(name)
        self.size = tuple(side // VAE_FACTOR for side in scene_bank.SHAPES[name].size)
        self.alphas = alphas_bar()

    def batch(self, step: int, size: int) -> dict:
        """Everything that a training step needs, on the CPU; see `conditions` for what becomes of the prompts."""
        rng = np.random.default_rng((self.seed, step))
        rows = np.sort(rng.choice(self.scenes or scene_bank.ready(self.name), size, replace=False))
        arrays = {name: array[rows] for name, array in self.arrays.items() if name != "references"}
        drawn, masks = [], np.zeros((size, MAX_THINGS, *self.size[::-1]), np.float32)
        for i, labels in enumerate(arrays["labels"]):
            count = labels[0]
            drawn.append(draw_prompt([CATEGORIES[k] for k in labels[3 : 3 + count]], BACKGROUND_NAMES[labels[1]], rng))
            boxes = arrays["boxes"][i, :count] / VAE_FACTOR
            masks[i, :count] = draw_regions(boxes, self.size, self.name == "wide", rng)
        cells = torch.from_numpy(arrays["cells"].astype(np.float32) / 255).sum(1, keepdim=True).clamp(max=1)
        latents = torch.from_numpy(arrays["latents"]).float()
        return {
            "rows": rows,
            "prompts": drawn,
            "vectors": torch.from_numpy(arrays["vectors"]).float(),
            "masks": torch.from_numpy(masks),
            **noised(latents, cells, self.alphas, rng),
        }


def noised(latents: Tensor, cells: Tensor, alphas_bar: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Noise at times that cover all of them evenly: `noisy`, `noise`, `times`, and what each place counts, `weight`.

    Args:
        latents: `[B, 4, h, w]`.
        cells: share of things in each latent cell, `[B, 1, h, w]`.
    """
    size = len(latents)
    times = torch.from_numpy((rng.permutation(size) + rng.uniform(size=size)) / size * TRAIN_TIMESTEPS).long()
    noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), dtype=np.float32))
    alphas = alphas_bar[times]
    noisy = add_noise(latents, noise, alphas)
    weight = error_weights(alphas, cells, MIN_SNR, MASK_WEIGHT)
    return {"noisy": noisy, "noise": noise, "times": times, "weight": weight}


@torch.no_grad()
def conditions(text_encoder: nn.Module, drawn: list[Prompt], vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The UNet's context and whose column is whose.

    Args:
        vectors: of the things of each picture, [B, 3, 16, W].

    Returns:
        context [B, 128, W], and int64 [B, 128]: 0 seen everywhere, i + 1 only in the region of thing i, 4 nowhere.
    """
    ids = torch.from_numpy(np.stack([row for prompt in drawn for row in prompt.rows]))
    starts = np.cumsum([0, *(len(prompt.rows) for prompt in drawn)])
    replaced, rows = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros(*ids.shape, vectors.shape[-1])
    for i, prompt in enumerate(drawn):
        for row, first, thing in prompt.places:
            replaced[starts[i] + row, first : first + prompts.VECTORS] = True
            rows[starts[i] + row, first : first + prompts.VECTORS] = vectors[i, thing]
    hook = text_encoder.token_embedding().register_forward_hook(
        lambda module, given, embedded: torch.where(replaced[..., None], rows, embedded)
    )
    try:
        encoded = text_encoder(ids)
    finally:
        hook.remove()
    context = torch.zeros(len(drawn), COLUMNS, encoded.shape[-1])
    owner = torch.full((len(drawn), COLUMNS), MAX_THINGS + 1)
    for i, prompt in enumerate(drawn):
        context[i, :ROW], owner[i, :ROW] = encoded[starts[i]], 0
        for column, thing in prompt.owners:
            owner[i, column] = thing + 1
        start = ROW
        for row, first, width, thing in prompt.columns:
            context[i, start : start + width] = encoded[starts[i] + row, first : first + width]
            owner[i, start : start + width] = thing + 1
            start += width
    return context, owner


class RegionAttention:
    """diffusers' attention by plain matrix products, with regions in cross-attention; one serves the whole UNet."""

    def __init__(self):
        self.owner: Tensor = torch.empty(0)  # set by `look` before each forward
        self.masks: Tensor = torch.empty(0)
        self._biases: dict[int, Tensor] = {}

    def look(self, owner: Tensor, masks: Tensor) -> None:
        """What the next forward follows; see `conditions` and `SceneData`."""
        self.owner, self.masks = owner, masks
        self._biases.clear()

    def _bias(self, queries: int) -> Tensor:
        """[B, 1, queries, columns]."""
        if queries not in self._biases:
            height, width = self.masks.shape[2:]
            factor = round((height * width / queries) ** 0.5)
            seen = F.avg_pool2d(self.masks, factor) if factor > 1 else self.masks
            seen = seen.flatten(2).log().clamp(min=HIDDEN)
            everywhere = torch.zeros_like(seen[:, :1])
            table = torch.cat([everywhere, seen, torch.full_like(everywhere, HIDDEN)], dim=1)
            index = self.owner[..., None].expand(-1, -1, queries)
            self._biases[queries] = table.gather(1, index).mT[:, None]
        return self._biases[queries]

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        crossing = encoder_hidden_states is not None
        source = encoder_hidden_states if crossing else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = (q * attn.scale) @ k.mT
        if crossing:
            scores = scores + self._bias(q.shape[2])
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](mixed)


def train_scenes(minutes: float, seed: int, large: int = 16, small: int = 16, rate: float = 1e-3) -> None:
    """Train for `minutes` in all (resumed runs count) and write `scenes.pt`.

    Args:
        seed: of the batches; a run from a model that one seed has made takes another.
        large: pictures of 192 pixels in a step; small: of 96 (every third step half as many, twice as wide).
    """
    pipeline = SubjectPipeline.from_checkpoint("toybox")
    unet, attention = pipeline.unet.requires_grad_(True), RegionAttention()
    unet.set_attn_processor(attention)
    optimiser = Optimiser(unet.named_parameters(), adam_only=("embedding", "conv_in", "conv_out"), decay=0.995)
    data = {name: SceneData(name, seed + i) for i, name in enumerate(scene_bank.SHAPES)}
    clock = resume(optimiser, CHECKPOINT)
    totals: dict[str, list[float]] = {name: [] for name in data}
    while clock.spent < minutes * 60:
        step = optimiser.steps
        other = ("wide", small // 2) if step % 3 == 2 else ("small", small)
        for name, size, share in (("large", large, 1.0), (*other, 0.5)):
            batch = data[name].batch(step, size)
            context, owner = conditions(pipeline.text_encoder, batch["prompts"], batch["vectors"])
            attention.look(owner, batch["masks"])
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_type() == torch.bfloat16):
                predicted = unet(batch["noisy"], batch["times"], context).sample
            loss = (batch["weight"] * (predicted.float() - batch["noise"]).square()).mean()
            (share * loss).backward()
            totals[name].append(float(loss.detach()))
        optimiser.clip(1.0)
        optimiser.step(learning_rate(clock.spent / (minutes * 60), rate))
        if optimiser.steps % 25 == 0:
            losses = " ".join(f"{name} {np.mean(values):.4f}" for name, values in totals.items() if values)
            log.info("step %d, %.1f min, %s", optimiser.steps, clock.spent / 60, losses)
            totals = {name: [] for name in data}
        if clock.checkpoint_due() or clock.spent >= minutes * 60:
            keep(optimiser, clock.spent, CHECKPOINT)


def averaged_unet() -> dict[str, Tensor]:
    """The UNet's averaged weights from the training's checkpoint."""
    return torch.load(CHECKPOINT, weights_only=True)["optimiser"]["average"]
