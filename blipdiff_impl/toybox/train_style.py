"""Two small LoRAs for the built-in model's UNet, so that the way into somebody's own checkpoint can be walked here too.

`stock` takes the subjects away: with it the model knows its words alone, as Stable Diffusion 1.5 does beside the
released BLIP-Diffusion. `print` is somebody's style on top of that, every place in two colours, learned from pictures
and words without any subject. What the model has beyond `stock` can then be added to `stock` with `print`
(`nodes/blip_diffusion/transplant.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..blip_diffusion.pipeline import SubjectPipeline
from ..blip_diffusion.stored_weights import store_factors
from ..stable_diffusion.config import VAE_FACTOR
from ..stable_diffusion.noise import alphas_bar
from ..toy_world import prompts
from ..toy_world.bank import CACHE
from ..toy_world.render import LARGE_SIZE, PICTURE_SIZE, render_picture, render_reference
from ..toy_world.scenes import MAX_THINGS
from ..toy_world.two_colours import in_two_colours
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES, captions, subject_from_seed
from ..training.optimisers import fast_type
from ..weights.writing import write_tensors
from .train_scenes import Prompt, RegionAttention, conditions, noised
from .train_subject import category_ids, to_pixels
from .training import Optimiser, train_steps

FOLDER = Path(__file__).parent / "loras"
STOCK_FILE, PRINT_FILE = (f"blipdiffusion_toybox_{name}.safetensors" for name in ("stock", "print"))
PICTURES = 1024
"""Of each size, rendered at the start."""
SEED, RATE = 17, 2e-3
STOCK_RANK, PRINT_RANK = 8, 8
STOCK_STEPS, PRINT_STEPS = 200, 500
SIZES = {LARGE_SIZE: 8, PICTURE_SIZE: 16}
"""Side of the pictures in pixels, and how many of them are in a step."""
CHUNK = 32


class LowRankChange(nn.Module):
    """A frozen weight plus up @ down, which starts at zero; for linear layers and convolutions alike.

    Args:
        weight: `[out, in, ...]`.
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        inputs = weight[0].numel()
        self.shape = weight.shape
        self.down = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + (self.up @ self.down).view_as(weight)


Changes = dict[str, LowRankChange]


def add_low_rank(unet: nn.Module, rank: int, *, cross_attention_only: bool) -> Changes:
    """Put changes on a frozen UNet's matrices, in place; returns them by the weight's name."""
    unet.requires_grad_(False)
    changes = {}
    for name, module in list(unet.named_modules()):
        counts = "attn2" in name if cross_attention_only else "time_embedding" not in name
        if counts and isinstance(module, nn.Linear | nn.Conv2d):
            changes[f"{name}.weight"] = change = LowRankChange(module.weight.detach(), rank)
            parametrize.register_parametrization(module, "weight", change)
    return changes


class Pictures:
    """Things in places, by their latents, plain and in the style.

    Args:
        side: of the pictures, in pixels.
    """

    def __init__(self, pipeline: SubjectPipeline, side: int, seed: int):
        self._rng_seed, self.side = seed, side
        self.alphas = alphas_bar()
        parts = [self._chunk(pipeline, range(i, i + CHUNK)) for i in range(0, PICTURES, CHUNK)]
        self.plain, self.styled, self.vectors, self.cells = (torch.cat(each) for each in zip(*parts, strict=True))

    def _named(self, number: int) -> tuple[str, str]:
        """Kind and place of a picture."""
        return CATEGORIES[number % len(CATEGORIES)], BACKGROUND_NAMES[number // len(CATEGORIES) % len(BACKGROUND_NAMES)]

    @torch.no_grad()
    def _chunk(self, pipeline: SubjectPipeline, numbers: range) -> tuple[Tensor, ...]:
        drawn, styled, references, masks, kinds = [], [], [], [], []
        for number in numbers:
            rng = np.random.default_rng((self._rng_seed, self.side, number))
            kind, place = self._named(number)
            subject = subject_from_seed(int(rng.integers(10**6)), kind)
            picture = render_picture(subject, place, rng, bank=True, size=self.side)
            drawn.append(picture.picture)
            styled.append(in_two_colours(picture.picture, picture.mask))
            masks.append(picture.mask)
            references.append(render_reference(subject, rng, bank=True).picture)
            kinds.append(CATEGORIES.index(kind))
        cells = torch.from_numpy(np.stack(masks))[:, None].float() / 255
        ids = category_ids()[kinds]
        vectors = pipeline.encoder.module(to_pixels(np.stack(references)), ids, torch.ones_like(ids).float())
        return (
            _latents(pipeline, drawn), _latents(pipeline, styled), vectors,
            nn.functional.avg_pool2d(cells, VAE_FACTOR),
        )  # fmt: skip

    def draw(self, rng: np.random.Generator, count: int, styled: bool) -> dict[str, Tensor]:
        """Noised latents of some pictures and all that belongs to them; `rows` says which."""
        rows = rng.choice(len(self.plain), count, replace=False)
        latents = (self.styled if styled else self.plain)[rows]
        return {"rows": torch.from_numpy(rows), **noised(latents, self.cells[rows], self.alphas, rng)}

    def texts(self, rows: Tensor, rng: np.random.Generator) -> list[str]:
        """A prompt for each, in the released template."""
        found = []
        for number in rows.tolist():
            kind, place = self._named(number)
            phrases = captions(place)
            count = prompts.REPETITIONS[rng.integers(len(prompts.REPETITIONS))]
            found.append(prompts.repeat(kind, phrases[rng.integers(len(phrases))], count))
        return found


class Studio:
    """The built-in model and pictures to train on.

    Attributes:
        pictures: by side.
    """

    def __init__(self, seed: int):
        self.pipeline = SubjectPipeline.from_checkpoint("toybox")
        self.pictures = {side: Pictures(self.pipeline, side, seed) for side in SIZES}
        self._attention = RegionAttention()

    def unet(self) -> nn.Module:
        """A copy of the UNet, frozen."""
        unet = deepcopy(self.pipeline.unet).requires_grad_(False)
        unet.set_attn_processor(self._attention)
        return unet

    def predict(self, unet: nn.Module, drawn: dict[str, Tensor], texts: list[str], vectors: Tensor | None) -> Tensor:
        """Noise that a UNet finds `[B, 4, h, w]`, with vectors `[B, 16, W]` in the prompts or without any."""
        place = None if vectors is None else 2
        rows = [prompts.row(text, place)[0] for text in texts]
        shown = torch.zeros(len(rows), MAX_THINGS, prompts.VECTORS, self.pipeline.config.text_encoder.hidden_size)
        if vectors is not None:
            shown[:, 0] = vectors
        given = [Prompt([row], [(0, place, 0)] if place else [], [], []) for row in rows]
        context, owner = conditions(self.pipeline.text_encoder, given, shown)
        self._attention.look(owner, torch.zeros(len(rows), MAX_THINGS, *drawn["noisy"].shape[2:]))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_type() == torch.bfloat16):
            return unet(drawn["noisy"], drawn["times"], context).sample.float()


def train_style(steps: int | None = None, folder: Path = FOLDER) -> None:
    """Train both and write them to `folder`; a run that was stopped resumes.

    Args:
        steps: of each; None for what the files in the pack were made with.
    """
    studio = Studio(SEED)
    stock = _train_stock(studio, steps or STOCK_STEPS)
    _write(stock, folder / STOCK_FILE)
    for change in stock.values():
        change.requires_grad_(False)
    _write(_train_print(studio, stock, steps or PRINT_STEPS), folder / PRINT_FILE)


def _train_stock(studio: Studio, steps: int) -> Changes:
    """With a subject's vectors the UNet learns to draw what it draws without them, where nothing changes."""
    teacher, unet = studio.unet(), studio.unet()
    torch.manual_seed(SEED)
    changes = add_low_rank(unet, STOCK_RANK, cross_attention_only=True)

    def loss_of(step: int) -> Tensor:
        losses = []
        for side, count in SIZES.items():
            rng, pictures = np.random.default_rng((SEED, step, side)), studio.pictures[side]
            drawn = pictures.draw(rng, count, styled=False)
            texts = pictures.texts(drawn["rows"], rng)
            with torch.no_grad():
                due = studio.predict(teacher, drawn, texts, None)
            for vectors in (pictures.vectors[drawn["rows"]], None):
                losses.append((studio.predict(unet, drawn, texts, vectors) - due).square().mean())
        return torch.stack(losses).mean()

    return _train(changes, CACHE / "style_stock.pt", steps, loss_of)


def _train_print(studio: Studio, stock: Changes, steps: int) -> Changes:
    """On the stock model: noise prediction on pictures in the style, described by words alone."""
    unet = studio.unet()
    for name, change in stock.items():
        weight = unet.get_parameter(name)
        weight.data = change(weight.data).detach()
    torch.manual_seed(SEED + 1)
    changes = add_low_rank(unet, PRINT_RANK, cross_attention_only=False)

    def loss_of(step: int) -> Tensor:
        losses = []
        for side, count in SIZES.items():
            rng, pictures = np.random.default_rng((SEED, 1, step, side)), studio.pictures[side]
            drawn = pictures.draw(rng, count, styled=True)
            texts = ["" if rng.uniform() < prompts.EMPTY_SHARE else text for text in pictures.texts(drawn["rows"], rng)]
            error = (studio.predict(unet, drawn, texts, None) - drawn["noise"]).square()
            losses.append((drawn["weight"] * error).mean())
        return torch.stack(losses).mean()

    return _train(changes, CACHE / "style_print.pt", steps, loss_of)


def _train(changes: Changes, checkpoint: Path, steps: int, loss_of: Callable[[int], Tensor]) -> Changes:
    """Train changes for `steps` in all and leave their running means in them."""
    named = nn.ModuleDict({name.replace(".", "/"): change for name, change in changes.items()})
    optimiser = Optimiser(named.named_parameters(), adam_only=("up", "down"), decay=0.99)
    train_steps(optimiser, checkpoint, steps, RATE, loss_of)
    named.load_state_dict(optimiser.average)
    return changes


def _write(changes: Changes, path: Path) -> None:
    tensors = {}
    for name, change in changes.items():
        up, down = change.up.detach(), change.down.detach()
        tensors |= store_factors(name, up, down, change.shape, float(len(down)))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {"format": "pt"}, overwrite=True)


def _latents(pipeline: SubjectPipeline, pictures: list[np.ndarray]) -> Tensor:
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pipeline.vae.encode(pixels).latent_dist.mean * pipeline.config.vae.scaling_factor
