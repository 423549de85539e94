"""Recording where a prompt's tokens look during a run, and the record of a run as pictures.

The recording MODEL keeps the maps of its last runs under a digest of the samples that each gave, so that a viewer finds
those of the samples it is handed. What a layer gives out goes through the host's own attention, unchanged.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...blipdiff_impl.attention_maps import (
    LAYER_CHOICES,
    TOKEN_CHOICES,
    MapRecord,
    Named,
    PromptColumns,
    check_range,
    choose_blocks,
    in_range,
    stretched,
)
from ...blipdiff_impl.attention_sheet import contact_sheet, overlay
from ...blipdiff_impl.errors import SubjectError
from .attention import CROSS, AttentionCall, attention_blocks, control_attention, step_of
from .conditioning_tags import TagFinder, require_prompt_width
from .digest import samples_digest
from .regions import REGIONS_KEY, entry_bias
from .token_columns import COLUMNS_KEY

__all__ = ["LAYER_CHOICES", "TOKEN_CHOICES", "record_maps", "view_maps"]

MAPS_KEY = "blipdiffusion_attention_maps"
_RUNS = 4  # records that a MODEL keeps
_FACTOR = 8  # pixels of a latent's cell


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
    recorder = Recorder(chosen, columns, (start, end))
    recorder.install(model, blocks)
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
    record = _record_of(model, samples["samples"])
    count, height, width = (samples["samples"].shape[i] for i in (0, -2, -1))
    if image is None:
        image = torch.zeros(1, height * _FACTOR, width * _FACTOR, 3)
    if image.ndim != 4 or len(image) not in (1, count) or image.shape[-1] not in (1, 3, 4):
        raise SubjectError(
            f"There are {len(image)} images for {count} samples, of shape {list(image.shape)}; connect the decoded "
            "samples."
        )
    pictures = image[..., :3].to("cpu", torch.float32).expand(count, -1, -1, -1)
    maps = record.maps(tuple(pictures.shape[1:3]))
    heats = [overlay(picture, each, opacity) for picture, each in zip(pictures, stretched(maps), strict=True)]
    groups = [torch.cat([picture[None], heat]) for picture, heat in zip(pictures, heats, strict=True)]
    sheet = contact_sheet(groups, ["picture", *(label for label, _ in record.chosen)])
    return torch.cat(heats), stretched(maps.mean(dim=1)), sheet


class Recorder:
    """Records the runs of one MODEL."""

    def __init__(self, chosen: Named, columns: PromptColumns, part: tuple[float, float]):
        self._chosen, self._columns, self._part = chosen, columns, part
        self._prompts, self._regions = TagFinder(COLUMNS_KEY), TagFinder(REGIONS_KEY)
        self._running: MapRecord | None = None
        self._biases: dict[tuple, Tensor] = {}  # made once a run for each size of layer
        self._records: OrderedDict[str, MapRecord] = OrderedDict()

    def install(self, model, blocks: list[tuple[str, int]]) -> None:
        """Record the runs of `model`, a clone of the caller's own, at these places."""
        self._prompts.install(model)
        self._regions.install(model)
        control_attention(model, CROSS, self._control, blocks)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, MAPS_KEY, self._run)
        model.set_attachments(MAPS_KEY, self)

    def of(self, samples: Tensor) -> MapRecord | None:
        """The record of the run that gave these samples."""
        return self._records.get(samples_digest(samples))

    def _run(self, executor, *args, **kwargs) -> Tensor:
        self._running = MapRecord(self._chosen)
        try:
            samples = executor(*args, **kwargs)
            self._keep(samples_digest(samples), self._running.moved_to_cpu())
        finally:
            self._running = None
            self._biases.clear()
        return samples

    def _keep(self, digest: str, record: MapRecord) -> None:
        self._records.pop(digest, None)
        self._records[digest] = record
        while len(self._records) > _RUNS:
            self._records.popitem(last=False)

    def _control(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        if self._running is not None and self._is_chosen(call):
            rows = len(q) // max(1, len(call.entries))
            for place, entry in enumerate(call.entries):
                part = slice(place * rows, (place + 1) * rows)
                self._record(call, entry, q[part], k[part])
        return attend(q, k, v)

    def _is_chosen(self, call: AttentionCall) -> bool:
        if call.schedule is None:  # a sampler that does not say how far it is
            return True
        return in_range(step_of(call.sigma, call.schedule), len(call.schedule) - 1, *self._part)

    def _record(self, call: AttentionCall, entry, q: Tensor, k: Tensor) -> None:
        prompt = self._prompts.find(entry)
        # An entry on a part of the picture would need its maps put in place; one of another prompt has other columns.
        if prompt is None or prompt.area is not None or prompt.value != self._columns:
            return
        self._running.add(q, k, call.heads, call.size, prompt.tokens, self._bias(call, entry, q, k.shape[1]))

    def _bias(self, call: AttentionCall, entry, q: Tensor, columns: int) -> Tensor | None:
        """What the regions of the entry add to the scores; None where it has none."""
        regions, key = self._regions.find(entry), (entry, call.size, columns, len(q))
        if regions is not None and key not in self._biases:
            self._biases[key] = entry_bias(regions, call.size, columns, len(q)).to(q)
        return self._biases.get(key)

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


def _record_of(model, samples: Tensor) -> MapRecord:
    recorder = model.get_attachment(MAPS_KEY)
    if recorder is None:
        raise SubjectError("This MODEL does not record. Connect the MODEL of Attention Maps, here and to the sampler.")
    record = recorder.of(samples)
    if record is None:
        raise SubjectError(
            f"There is no record of these samples: another MODEL made them, they were changed after sampling, or more "
            f"than {_RUNS} runs ago. Connect the sampler's own LATENT, sample with the MODEL of Attention Maps, and "
            "run again."
        )
    if record.is_empty:
        raise SubjectError(
            "Nothing was recorded in this run: the sampler's positive prompt is not the one that is connected to "
            "Attention Maps, or it is confined to a part of the picture."
        )
    return record
