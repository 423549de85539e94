"""The stage as the trainer sees it: samples to batches, the model, sample grids, and the adapter's file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...attention.boxes import boxes_in_area
from ...errors import CheckpointError, SubjectError
from ...files import as_tensor
from ...pictures.pixels import to_uint8
from ...pictures.preprocess import fit_square, normalise
from ...stable_diffusion.noise import TRAIN_TIMESTEPS, alphas_bar, error_weights
from ...training.grids import picture_grid
from ...training.samples import BrokenSample, Sample
from ...training.targets import collated_targets, latents_of, mask_cells, ready_latent, target_square
from ..adapter import MSAdapter
from ..checkpoint import open_adapter, save_adapter
from ..config import AdapterConfig
from ..phrases import checked_phrase
from ..pipeline import denoise
from ..references import cut_out
from ..unet_layers import UNetWithSubjects
from .base import Base, XLBase, prompt_ids
from .model import MSBatch, MSModel, begin_as_text
from .settings import COLUMNS, MSSettings

_NETWORK_WIDTHS = ("image_width", "phrase_width", "context_width")


@dataclass(frozen=True, kw_only=True)
class MSExample:
    """One sample, ready.

    Attributes:
        target: `[3, S, S]` in -1..1, or its latent `[4, h, w]`.
        references: `[subjects, 3, V, V]`, normalised; zeros where there is none.
        phrases: ids `[subjects, 77]`.
        boxes: in the target, `[subjects, 4]`.
        ids: of the prompt, `[2, 77]`.
        ungrounded, time, noise: bool, timestep, `[4, h, w]`.
        cells: the mask's share in each latent cell, `[1, h, w]`.
        vectors: to be imitated, `[subjects, queries, W]`; zeros where there is no subject, empty in other runs.
    """

    target: Tensor
    references: Tensor
    phrases: Tensor
    boxes: Tensor
    ids: Tensor
    ungrounded: Tensor
    time: Tensor
    noise: Tensor
    cells: Tensor
    vectors: Tensor


class MSTask:
    """See the module, and `training.task` for what a task is; draws sample grids too.

    Raises:
        CheckpointError: the model, the picture encoder or the adapter cannot be used, or do not fit.
    """

    result = "ms_adapter.safetensors"
    slow = ()
    vectors_decay = True

    def __init__(self, settings: MSSettings, base: Base | None = None):
        """Args:
        settings: of the run.
        base: the frozen networks; by default those of the folders that the settings name.
        """
        self.settings = settings
        self.frozen: Base = base or XLBase(Path(settings.model), Path(settings.vision))
        config = self.frozen.adapter_config(settings)
        torch.manual_seed(settings.seed)
        if settings.adapter:
            adapter = open_adapter(settings.adapter).load().float()
        else:
            adapter = MSAdapter(config)
            begin_as_text(adapter, self.frozen.unet, self.frozen.text_norm)
        self._config = adapter.config
        self._unet = UNetWithSubjects(self.frozen.unet, adapter.layers)
        _require_widths(settings, adapter.config, config)
        self.model = MSModel(adapter, self._unet)
        if settings.loss == COLUMNS:
            self.model.adapter.ms_adapter.requires_grad_(False)
        self._alphas = alphas_bar()
        if settings.size % self.frozen.factor:
            raise SubjectError(
                f"size = {settings.size} is no multiple of {self.frozen.factor}, the autoencoder's factor."
            )
        side = settings.size // self.frozen.factor
        self._latent_shape = (self.frozen.channels, side, side)

    def prepare(self, sample: Sample, rng: np.random.Generator) -> MSExample:
        """Draw what is left to chance for one sample.

        Raises:
            BrokenSample: it has no references, or one that cannot be used.
        """
        if not sample.references:
            raise BrokenSample(f"{sample.key} has no references (json: subjects), which this stage needs.")
        settings = self.settings
        caption = sample.captions[rng.integers(len(sample.captions))]
        chosen = np.sort(rng.permutation(len(sample.references))[: settings.subjects])
        without_text, without_images = _dropped(settings, rng.uniform())
        latent = ready_latent(sample, self._latent_shape)
        boxes = in_middle_square([sample.references[i].box for i in chosen], sample.picture.shape[:2])
        side, empty = self.frozen.image_side, settings.subjects - len(chosen)
        shown, phrases = [], []
        for number in chosen:
            reference = sample.references[number]
            try:
                phrases.append(prompt_ids(checked_phrase(reference.phrase))[0])
                shown.append(
                    normalise(fit_square(cut_out(as_tensor(reference.picture)[None], None), side, "squash"))[0]
                )
            except SubjectError as error:
                raise BrokenSample(f"{sample.key}: {error}") from error
        blank = torch.zeros(3, side, side)
        if without_images:
            shown = [blank] * len(shown)
        return MSExample(
            target=target_square(sample.picture, settings.size) if latent is None else latent,
            references=torch.stack(shown + [blank] * empty),
            phrases=torch.stack(phrases + [prompt_ids("")[0]] * empty),
            boxes=torch.cat([jittered(boxes, settings.box_jitter, rng), torch.zeros(empty, 4)]),
            ids=prompt_ids("" if without_text else caption),
            ungrounded=torch.tensor(bool(rng.uniform() < settings.grounding_drop)),
            time=torch.tensor(_timestep(settings.noisy_share, rng)),
            noise=torch.from_numpy(rng.standard_normal(self._latent_shape, dtype=np.float32)),
            cells=mask_cells(sample.mask, self._latent_shape[-1]),
            vectors=self._vectors(sample, chosen, empty),
        )

    def _vectors(self, sample: Sample, chosen: np.ndarray, empty: int) -> Tensor:
        """Those of the chosen subjects, and zeros for empty places; empty where nothing is imitated."""
        if self.settings.loss != COLUMNS:
            return torch.empty(0)
        found = [sample.references[number].vectors for number in chosen]
        known = [torch.from_numpy(vectors).float() for vectors in found if vectors is not None]
        if len(known) < len(found):
            raise BrokenSample(f"{sample.key} has no subject vectors, which loss = '{COLUMNS}' imitates.")
        return torch.stack(known + [torch.zeros_like(known[0])] * empty)

    @staticmethod
    def collate(examples: list[MSExample]) -> dict[str, Tensor]:
        """Examples as tensors by name; pictures and ready latents apart, each with its rows."""
        names = {field.name for field in fields(MSExample)} - {"target"}
        raw = {name: torch.stack([getattr(example, name) for example in examples]) for name in names}
        return raw | collated_targets([example.target for example in examples])

    def batch(self, raw: dict[str, Tensor]) -> MSBatch:
        """What the model takes."""
        count, subjects = raw["boxes"].shape[:2]
        size, settings = float(self.settings.size), self.settings
        alphas = self._alphas.to(raw["noise"].device)[raw["time"]]
        phrases = raw["phrases"].flatten(0, 1)
        context, pooled, columns = torch.empty(0), None, None
        if settings.loss == COLUMNS:  # no picture is drawn
            columns = self.frozen.columns(raw["vectors"].flatten(0, 1), phrases).unflatten(0, (count, subjects))
        else:
            context, pooled = self.frozen.prompts(raw["ids"])
        return MSBatch(
            features=self.frozen.features(raw["references"].flatten(0, 1)).unflatten(0, (count, subjects)),
            phrases=self.frozen.phrases(phrases).unflatten(0, (count, subjects)),
            boxes=raw["boxes"],
            ungrounded=raw["ungrounded"],
            context=context,
            pooled=pooled,
            sizes=raw["noise"].new_tensor([size, size, 0, 0, size, size]).expand(count, -1),
            latents=latents_of(raw, self.frozen.latents, raw["noise"]),
            noise=raw["noise"],
            times=raw["time"],
            alphas=alphas,
            weights=error_weights(alphas, raw["cells"], settings.min_snr, settings.mask_weight),
            columns=columns,
        )

    def write(self, state: dict[str, Tensor], path: Path) -> None:
        """The adapter as one file in 16 bit."""
        save_adapter(self._adapter_of(state), path, torch.float16, overwrite=True)

    @torch.no_grad()
    def sample(self, state: dict[str, Tensor], samples: list[Sample]) -> np.ndarray:
        """A grid, uint8 `[H, W, 3]`: the first reference of each, the original (decoded, where a latent stands for it),
        and the model's own picture."""
        settings, device = self.settings, self.frozen.unet.device
        shown = copy.copy(self)
        shown.settings = replace(
            settings, text_drop=0.0, image_drop=0.0, both_drop=0.0, grounding_drop=0.0, box_jitter=0.0
        )
        examples = [shown.prepare(sample, np.random.default_rng((1, i))) for i, sample in enumerate(samples)]
        batch = self.batch({name: tensor.to(device) for name, tensor in self.collate(examples).items()})
        model = MSModel(self._adapter_of(state).to(device), self._unet).requires_grad_(False).eval()
        count = len(samples)
        seen = model.seen(batch, slice(count, 2 * count))
        empty = self.frozen.prompts(prompt_ids("")[None].to(device))
        latents = denoise(
            self._unet, batch.noise, (batch.context, batch.pooled), empty, seen, (settings.size, settings.size),
            settings.sample_steps, settings.sample_guidance,
        )  # fmt: skip
        drawn = to_uint8(self.frozen.pictures(latents))
        references = [np.asarray(Image.fromarray(each.references[0].picture).convert("RGB")) for each in samples]
        decoded = to_uint8(self.frozen.pictures(batch.latents))
        originals = [each.picture if each.latent is None else decoded[i] for i, each in enumerate(samples)]
        return picture_grid(references, originals, list(drawn))

    def _adapter_of(self, state: dict[str, Tensor]) -> MSAdapter:
        tensors = {name.removeprefix("adapter."): tensor.float().cpu() for name, tensor in state.items()}
        return MSAdapter.from_tensors(self._config, tensors)


def _require_widths(settings: MSSettings, given: AdapterConfig, needed: AdapterConfig) -> None:
    """Refuse an adapter file whose widths are not those of the frozen networks; its other sizes are its own.

    Raises:
        CheckpointError: names the width of the file and that of the networks.
    """
    sizes = [(name, getattr(given.resampler, name), getattr(needed.resampler, name)) for name in _NETWORK_WIDTHS]
    for name, found, wanted in [*sizes, ("unet.widths", given.unet.widths, needed.unet.widths)]:
        if found != wanted:
            raise CheckpointError(
                f"The adapter {settings.adapter} has {name} {found}, but the networks of {settings.model} need "
                f"{wanted}. Name an adapter that was trained for them, or leave it out to start anew."
            )


def _timestep(noisy_share: float, rng: np.random.Generator) -> int:
    """Of 0..999. A share of 0 draws one number alone, so that runs without it stay what they were."""
    noisy = noisy_share > 0 and rng.uniform() < noisy_share
    return int(rng.integers(TRAIN_TIMESTEPS // 2 if noisy else 0, TRAIN_TIMESTEPS))


def _dropped(settings: MSSettings, chance: float) -> tuple[bool, bool]:
    """Whether a sample goes without its prompt and without its references, of a number in 0..1."""
    text = chance < settings.text_drop
    images = not text and chance < settings.text_drop + settings.image_drop
    both = not text and not images and chance < settings.text_drop + settings.image_drop + settings.both_drop
    return text or both, images or both


def in_middle_square(boxes: list[tuple[float, float, float, float]], size: tuple[int, ...]) -> Tensor:
    """Boxes in a picture of (height, width) as shares of its middle square, `[n, 4]`.

    A box that does not reach into it has no area.
    """
    height, width = size
    side = min(height, width)
    area = (side, side, (height - side) // 2, (width - side) // 2)
    return boxes_in_area(torch.tensor(boxes, dtype=torch.float32), (height, width), area)


def jittered(boxes: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Boxes `[n, 4]` whose edges are moved by at most `share` of the picture, in half of the calls; those that would
    lose their area stay."""
    if not share or rng.uniform() < 0.5:
        return boxes
    moved = (boxes + torch.from_numpy(rng.uniform(-share, share, size=boxes.shape)).to(boxes)).clamp(0, 1)
    whole = (moved[:, 2:] > moved[:, :2]).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return torch.where(whole[:, None], moved, boxes)
