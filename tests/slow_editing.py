"""Prompt-to-prompt editing as it is explained on a blackboard, for tests only: slow, plain, one picture at a time.

diffusers' UNet in float64, one forward pass for each prompt. Every attention layer writes out its probabilities, the
pass of the source keeps all of them, the pass of the edit changes its own by them. Nothing here comes from the pack.

The mask acts as the editing of the pack says: on what the UNet sees, with the maps of the steps before, and on the
guided result, with those of the step itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

START, END, ROW = 49406, 49407, 77
NEW = None  # a column of the target that no column of the source belongs to
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
# Cross-attention that the release takes its masks from, the two last on the way down and the three first on the way up.
RELEASED_LAYERS = [f"{place}.transformer_blocks.0.attn2" for place in (
    "down_blocks.2.attentions.0", "down_blocks.2.attentions.1",
    "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "up_blocks.1.attentions.2",
)]  # fmt: skip
FINER_LAYERS = [f"{place}.transformer_blocks.0.attn2" for place in (
    "down_blocks.1.attentions.0", "down_blocks.1.attentions.1",
    "up_blocks.2.attentions.0", "up_blocks.2.attentions.1", "up_blocks.2.attentions.2",
)]  # fmt: skip
TRAINING_SIGMAS = (1 / (1 - BETAS).cumprod(0) - 1).sqrt()


@dataclass(frozen=True)
class Edit:
    """What to do to the edit's attention and where it may differ. Numbers of steps, not shares.

    Attributes:
        copied: for each column of the target up to its end, the source's column or `NEW`; padding is itself.
        weights: column of the target: how strongly it is attended to.
        source_words, edit_words: columns whose attention says where the thing is.
        threshold: None for no mask from attention.
        blend_from: the first step in which the mask acts.
        mask: pixels `[height, width]`, 0 to 1, or None.
        join: how both masks become one.
        textbook: blend the latents after every step by `mask`, and nothing else.
    """

    copied: list[int | None]
    cross_steps: int = 0
    self_steps: int = 0
    weights: dict[int, float] = field(default_factory=dict)
    source_words: tuple[int, ...] = ()
    edit_words: tuple[int, ...] = ()
    threshold: float | None = None
    blend_from: int = 0
    mask: Tensor | None = None
    join: str = "replace"
    textbook: bool = False


@dataclass
class Outcome:
    """Attributes:
    source, edit: latents `[1, 4, h, w]` in the UNet's scale.
    mask: the last one, `[h, w]`, or None.
    margin: how near any cell came to the threshold, as a share of its map's range.
    """

    source: Tensor
    edit: Tensor
    mask: Tensor | None
    margin: float


def encode(text_encoder, ids: list[int], vectors: Tensor | None = None, at: int = 0) -> Tensor:
    """A prompt in rows of 77: `[1, rows * 77, W]`. `vectors` take the places `at`, `at + 1` ... of the first row, where
    `ids` hold anything."""
    rows = []
    for first in range(0, len(ids), ROW - 2):
        row = [START, *ids[first : first + ROW - 2]]
        row += [END] * (ROW - len(row))
        spliced = vectors if first == 0 else None
        rows.append(_encode_row(text_encoder, row, spliced, at))
    return torch.cat(rows, dim=1).double()


def _encode_row(text_encoder, row: list[int], vectors: Tensor | None, at: int) -> Tensor:
    def splice(module, inputs, embedded):
        embedded = embedded.clone()
        embedded[:, at : at + len(vectors)] = vectors
        return embedded

    if vectors is None:
        return text_encoder(torch.tensor([row])).last_hidden_state
    hook = text_encoder.get_input_embeddings().register_forward_hook(splice)
    try:
        return text_encoder(torch.tensor([row])).last_hidden_state
    finally:
        hook.remove()


@torch.no_grad()
def run(
    unet, texts: dict[str, Tensor], noise: Tensor, latent: Tensor | None, sigmas: Tensor, cfg: float, plan: Edit
) -> Outcome:
    """Sample source and edit side by side with Euler's method.

    Args:
        unet: diffusers' UNet in float64.
        texts: "source", "edit" and "negative", `[1, T, W]`.
        noise: `[1, 4, h, w]`.
        latent: the picture to start from, in the UNet's scale; None starts from noise alone.
        sigmas: descending to 0.
    """
    sigmas, noise = sigmas.double(), noise.double()
    # From noise alone the variance counts the picture's own, which is 1.
    start = noise * (sigmas[0] ** 2 + 1).sqrt() if latent is None else latent.double() + noise * sigmas[0]
    source, edit, maps = start, start, Maps(plan, tuple(noise.shape[-2:]))
    mask = maps.mask()
    for step, (sigma, lower) in enumerate(pairwise(sigmas)):
        acts = step >= plan.blend_from and not plan.textbook
        seen = mixed(source, edit, mask) if acts else edit
        clean_source, clean_edit = predict(unet, texts, source, seen, sigma, cfg, plan, step, maps)
        mask = maps.mask()
        if acts:
            clean_edit = mixed(clean_source, clean_edit, mask)
        source = source + (lower - sigma) * (source - clean_source) / sigma
        edit = edit + (lower - sigma) * (edit - clean_edit) / sigma
        if plan.textbook:
            edit = mixed(source, edit, mask)
    return Outcome(source, edit, mask, maps.margin)


@torch.no_grad()
def first_mask(unet, texts: dict[str, Tensor], noise: Tensor, sigma: Tensor, plan: Edit) -> tuple[Tensor, float]:
    """The mask `[h, w]` after one evaluation from noise alone whose attention is left as it is, and its margin.

    Only the layers that the mask is made from are written out, so that large pictures can be looked at.
    """
    maps, kept = Maps(plan, tuple(noise.shape[-2:])), {}

    def keep(layer: str, probs: Tensor) -> Tensor:
        kept[layer] = probs
        return probs

    def look(layer: str, probs: Tensor) -> Tensor:
        maps.look(layer, kept[layer], probs)
        return probs

    start = noise.double() * (sigma.double() ** 2 + 1).sqrt()
    for text, control in ((texts["source"], keep), (texts["edit"], look)):
        denoised(unet, start, sigma.double(), text, control, maps.layers)
    return maps.mask(), maps.margin


def predict(
    unet, texts: dict[str, Tensor], source: Tensor, edit: Tensor, sigma: Tensor, cfg: float, plan: Edit, step: int, maps
) -> tuple[Tensor, Tensor]:
    """Both pictures as the model sees them without noise, guided; `maps` looks at the words."""
    kept: dict[str, Tensor] = {}

    def keep(layer: str, probs: Tensor) -> Tensor:
        kept[layer] = probs
        return probs

    def change(layer: str, probs: Tensor) -> Tensor:
        changed = changed_attention(layer, kept[layer], probs, plan, step)
        maps.look(layer, kept[layer], changed)
        return changed

    def leave(layer: str, probs: Tensor) -> Tensor:
        return probs

    results = []
    for x, text, control in ((source, texts["source"], keep), (edit, texts["edit"], change)):
        result = denoised(unet, x, sigma, text, control)
        if cfg != 1:
            unconditional = denoised(unet, x, sigma, texts["negative"], leave)
            result = unconditional + cfg * (result - unconditional)
        results.append(result)
    return results[0], results[1]


def denoised(unet, x: Tensor, sigma: Tensor, text: Tensor, control, layers: list[str] | None = None) -> Tensor:
    """x = x0 + sigma * eps, solved for x0. `control(layer, probs)` gives the probabilities to use in these layers; None
    means all."""
    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")) and (layers is None or name in layers):
            module.set_processor(WrittenOut(name, control))
    time = (TRAINING_SIGMAS.log() - sigma.log()).abs().argmin()
    return x - sigma * unet(x / (sigma**2 + 1).sqrt(), time, text).sample


class WrittenOut:
    """Attention of one layer, `[heads, queries, keys]`."""

    def __init__(self, layer: str, control):
        self.layer, self.control = layer, control

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **others):
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states)[0], attn.to_k(read)[0], attn.to_v(read)[0]
        q, k, v = (torch.stack(each.chunk(attn.heads, dim=-1)) for each in (q, k, v))
        strengths = (torch.einsum("hqd,hkd->hqk", q, k) / q.shape[-1] ** 0.5).exp()
        probs = self.control(self.layer, strengths / strengths.sum(-1, keepdim=True))
        out = torch.cat(list(torch.einsum("hqk,hkd->hqd", probs, v)), dim=-1)
        return attn.to_out[0](out[None])


def changed_attention(layer: str, source: Tensor, edit: Tensor, plan: Edit, step: int) -> Tensor:
    """The edit's probabilities under control."""
    if layer.endswith("attn1"):
        return source if level_of(layer) >= 2 and step < plan.self_steps else edit
    changed = edit.clone()
    for column in range(edit.shape[-1]):
        origin = plan.copied[column] if column < len(plan.copied) else column
        if step < plan.cross_steps and origin is not NEW:
            changed[..., column] = source[..., origin]
        changed[..., column] *= plan.weights.get(column, 1.0)
    return changed


def level_of(layer: str) -> int:
    """How often the sides were halved on the way to a layer of a UNet with four levels."""
    if layer.startswith("mid_block"):
        return 3
    place, number = layer.split(".")[:2]
    return int(number) if place == "down_blocks" else 3 - int(number)


class Maps:
    """Attention to the words, summed over layers and steps, and the masks that follow from it."""

    def __init__(self, plan: Edit, latent: tuple[int, int]):
        self.plan, self.latent, self.margin = plan, latent, 1.0
        # The release reads five layers, which are 16x16 at 512x512 pixels. The pack reads them down to 256x256, and
        # for the smaller pictures of these tests those of twice the sides.
        self.layers, shrinking = (RELEASED_LAYERS, 4) if min(latent) >= 32 else (FINER_LAYERS, 2)
        self.grid = tuple(-(-side // shrinking) for side in latent)
        self.source, self.edit = torch.zeros(self.grid).double(), torch.zeros(self.grid).double()
        self.looked = False

    def look(self, layer: str, source: Tensor, edit: Tensor) -> None:
        if layer in self.layers:
            self.looked = True
            for column in self.plan.source_words:
                self.source += source[..., column].mean(0).reshape(self.grid)
            for column in self.plan.edit_words:
                self.edit += edit[..., column].mean(0).reshape(self.grid)

    def mask(self) -> Tensor | None:
        """`[h, w]`; None where everything may change."""
        drawn = None if self.plan.mask is None else shrunk(self.plan.mask.double(), self.latent)
        if self.plan.threshold is None or not self.looked:
            return drawn
        seen = torch.maximum(self.place_of(self.source), self.place_of(self.edit))
        if drawn is None:
            return seen
        return torch.minimum(drawn, seen) if self.plan.join == "intersect" else torch.maximum(drawn, seen)

    def place_of(self, words: Tensor) -> Tensor:
        rows, columns = (smooth(small, large) for small, large in zip(self.grid, self.latent, strict=True))
        joined = greatest_around(rows @ words @ columns.T)
        share = (joined - joined.min()) / (joined.max() - joined.min())
        self.margin = min(self.margin, float((share - self.plan.threshold).abs().min()))
        return (share > self.plan.threshold).double()


def smooth(small: int, large: int) -> Tensor:
    """`[large, small]`: each new cell between the centres of the two old ones that it lies between."""
    weights = torch.zeros(large, small).double()
    for cell in range(large):
        place = min(max((cell + 0.5) * small / large - 0.5, 0), small - 1)
        below = min(int(place), small - 2)
        weights[cell, below], weights[cell, below + 1] = 1 - (place - below), place - below
    return weights


def greatest_around(values: Tensor) -> Tensor:
    """The greatest value within a sixteenth of each side, at least one cell."""
    height, width = values.shape
    up, left = max(1, round(height / 16)), max(1, round(width / 16))
    out = torch.empty_like(values)
    for y in range(height):
        for x in range(width):
            out[y, x] = values[max(0, y - up) : y + up + 1, max(0, x - left) : x + left + 1].max()
    return out


def shrunk(pixels: Tensor, latent: tuple[int, int]) -> Tensor:
    """Means of 8x8 pixels."""
    return pixels.reshape(latent[0], 8, latent[1], 8).mean((1, 3))


def mixed(source: Tensor, edit: Tensor, mask: Tensor | None) -> Tensor:
    return edit if mask is None else (1 - mask) * source + mask * edit
