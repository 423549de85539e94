"""Recording where a prompt's tokens look during a run, and the record of a run as pictures.

The maps of each picture go to the pack's records, where a viewer finds those of the samples that it is handed. What a
layer gives out goes through the host's own attention, unchanged.
"""

from __future__ import annotations

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...blipdiff_impl.attention.maps import (
    CHOSEN_WORDS,
    LAYER_CHOICES,
    TOKEN_CHOICES,
    MapRecord,
    Named,
    PromptColumns,
    check_range,
    choose_blocks,
    chosen_words,
    in_range,
    stretched,
)
from ...blipdiff_impl.attention.overlay import overlay
from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.pictures.contact_sheet import group_sheet
from ...blipdiff_impl.pictures.preprocess import as_rgb
from ...blipdiff_impl.settings import require_one_of
from ...blipdiff_impl.stable_diffusion.config import VAE_FACTOR
from .attention import CROSS, AttentionCall, Block, attention_blocks, control_attention
from .conditioning_tags import TagFinder, require_prompt_width
from .refusals import first_refusal, typed
from .regions import RegionBiases
from .run_clock import RunClock, clock_of
from .run_records import RECORDS, run_to_the_end
from .token_columns import COLUMNS_KEY

__all__ = ["LAYER_CHOICES", "TOKEN_CHOICES", "record_maps", "view_maps", "words_refusal"]

MAPS_KEY = "blipdiffusion_attention_maps"


def words_refusal(tokens, words) -> bool | str:
    """An unknown choice, and chosen words of which there are none; of both inputs what came in."""
    text = typed(words)
    return first_refusal(
        ("tokens", lambda: tokens is None or require_one_of("tokens", tokens, TOKEN_CHOICES)),
        ("words", lambda: tokens == CHOSEN_WORDS and text is not None and chosen_words(text)),
    )


def record_maps(
    model, conditioning, tokens: str, words: str, layers: str, block: str, start: float, end: float
) -> object:
    """A clone of the MODEL that records.

    Args:
        conditioning: the positive prompt that will be sampled; says what its columns are.
        tokens, words: see `PromptColumns.choose`.
        layers, block: see `choose_blocks`.
        start, end: the part of the run that is recorded, in shares of its steps.

    Raises:
        SubjectError: a word that is not in the prompt, no such layer, no steps, or a MODEL of another family.
    """
    columns = _columns_of(conditioning)
    chosen = columns.choose(tokens, words)
    check_range(start, end)
    require_prompt_width(model, conditioning)
    blocks = choose_blocks(attention_blocks(model), layers, block)
    model = model.clone()
    Recorder(chosen, columns, (start, end), blocks).install(model)
    return model


def view_maps(model, samples: dict, image: Tensor | None, opacity: float) -> tuple[Tensor, Tensor, Tensor]:
    """The maps of the run that gave these samples.

    Args:
        image: the pictures of the samples, `[N, H, W, 3]`, or one for all; None draws on black.
        opacity: of the heat over the picture.

    Returns:
        Heat over the picture for each map of each picture `[N * maps, H, W, 3]`, the mean of the maps as a mask
        `[N, H, W]` in 0..1, and a sheet with labels `[1, height, width, 3]`.

    Raises:
        SubjectError: the MODEL does not record, has no record of these samples, or the image does not fit.
    """
    records = _records_of(model, samples["samples"])
    count, height, width = (samples["samples"].shape[i] for i in (0, -2, -1))
    if image is None:
        image = torch.zeros(1, height * VAE_FACTOR, width * VAE_FACTOR, 3)
    image = as_rgb(image, "The image").to("cpu", torch.float32)
    if len(image) not in (1, count):
        raise SubjectError(f"There are {len(image)} images for {count} samples; connect the decoded samples.")
    pictures = image.expand(count, -1, -1, -1)
    size = (pictures.shape[1], pictures.shape[2])
    maps = torch.cat([record.maps(size) for record in records])
    heats = [overlay(picture, each, opacity) for picture, each in zip(pictures, stretched(maps), strict=True)]
    groups = [torch.cat([picture[None], heat]) for picture, heat in zip(pictures, heats, strict=True)]
    sheet = group_sheet(groups, ["picture", *(label for label, _ in records[0].chosen)])
    return torch.cat(heats), stretched(maps.mean(dim=1)), sheet


class Recorder:
    """Records the runs of one MODEL."""

    def __init__(self, chosen: Named, columns: PromptColumns, part: tuple[float, float], blocks: list[Block]):
        self._chosen, self._columns, self._part, self._blocks = chosen, columns, part, blocks
        # By what it records: a MODEL that was given up and made again finds the maps of the one before it.
        self._names = ((MAPS_KEY, chosen, columns, part, tuple(blocks)),)
        self._prompts, self._biases = TagFinder(COLUMNS_KEY), RegionBiases()
        self._clock = RunClock()  # stands still; the MODEL's own takes its place
        self._running: MapRecord | None = None

    def install(self, model) -> None:
        """Record the runs of `model`, a clone of the caller's own."""
        self._clock = clock_of(model)
        self._prompts.install(model)
        self._biases.install(model)
        control_attention(model, CROSS, self._control, self._blocks)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, MAPS_KEY, self._run)
        model.set_attachments(MAPS_KEY, self)

    def records_of(self, samples: Tensor) -> list[MapRecord | None]:
        """For each of these samples what was recorded of the run that gave it; None where none did."""
        return RECORDS.find(self._names, samples)

    def _run(self, executor, *args, **kwargs) -> Tensor:
        self._running = MapRecord(self._chosen)
        try:
            samples, others = run_to_the_end(executor, args, kwargs)
            records = self._running.apart(len(samples))
        finally:
            self._running = None
        RECORDS.keep(self._names, [(record, record.size) for record in records], [samples, *others])
        return samples

    def _control(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        now, record = self._clock.now, self._running
        if record is not None and now is not None and in_range(now.step, now.steps, *self._part):
            for entry, rows in call.parts():
                if now.is_first((self, call.layer, entry)):
                    self._record(record, call, entry, q[rows], k[rows])
        return attend(q, k, v)

    def _record(self, record: MapRecord, call: AttentionCall, entry: tuple, q: Tensor, k: Tensor) -> None:
        prompt = self._prompts.find(entry)
        # An entry on a part of the picture would need its maps put in place; one of another prompt has other columns.
        if prompt is None or prompt.area is not None or prompt.value != self._columns:
            return
        bias = self._biases.of(call, entry, q, k.shape[1])
        record.add(q, k, call.heads, call.size, prompt.tokens, bias)

    def __deepcopy__(self, memo) -> Recorder:
        return self


def _columns_of(conditioning) -> PromptColumns:
    found = [options[COLUMNS_KEY] for _, options in conditioning if COLUMNS_KEY in options]
    if not found:
        raise SubjectError(
            "This CONDITIONING does not say which words it was made from. Connect the one of Subject Prompt, or of "
            "Subjects in One Prompt with a model connected there."
        )
    return found[0]


def _records_of(model, samples: Tensor) -> list[MapRecord]:
    recorder = model.get_attachment(MAPS_KEY)
    if recorder is None:
        raise SubjectError("This MODEL does not record. Connect the MODEL of Attention Maps, here and to the sampler.")
    records = recorder.records_of(samples)
    if not records or any(record is None for record in records):
        raise SubjectError(
            "There is no record of these samples: another MODEL made them, or they were changed after sampling. "
            "Connect the sampler's own LATENT, and sample with the MODEL of Attention Maps. If that is so, the record "
            "is gone: change the sampler's seed, so that it samples again."
        )
    if any(record.is_empty for record in records):
        raise SubjectError(
            "Nothing was recorded in this run: the sampler's positive prompt is not the one that is connected to "
            "Attention Maps, or it is confined to a part of the picture."
        )
    return records
