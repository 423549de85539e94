"""Regions in cross-attention: a patch on the MODEL that lets columns of a prompt be seen only where its masks say.

The prompt carries its `Regions`; the patch knows no prompt, so one serves every scene that is sampled with the MODEL.
It carries the patch too, as a hook of the host's: a sampler whose MODEL lacks the patch gets it for the run.
"""

from __future__ import annotations

from functools import partial

import torch
from comfy.hooks import HookGroup, TransformerOptionsHook
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from .attention import CROSS, AttentionCall, control_attention
from .conditioning_tags import TagFinder, Tagged

REGIONS_KEY = "blipdiffusion_regions"


def with_regions(model):
    """A clone of the MODEL that follows the regions of prompts; the MODEL itself if it does already."""
    if model.get_attachment(REGIONS_KEY):
        return model
    model = model.clone()
    model.set_attachments(REGIONS_KEY, True)
    _patch(model)
    return model


def regions_hook() -> HookGroup:
    """For the option `hooks` of a CONDITIONING with regions, so that they act whichever MODEL is sampled with it."""
    group = HookGroup()
    group.add(_RegionsHook())
    return group


def _patch(model) -> None:
    biases = RegionBiases()
    biases.install(model)
    control_attention(model, CROSS, RegionControl(biases))


class _RegionsHook(TransformerOptionsHook):
    """Patches the options of one run of a sampler, unless its MODEL or another prompt of the run has done so.

    It never counts as registered: the host then takes it off the prompts again, and computes them in one batch with
    those that have no hooks.
    """

    def add_hook_patches(self, model, model_options: dict, target_dict: dict, registered: HookGroup) -> bool:
        options = model_options["transformer_options"]
        if not model.get_attachment(REGIONS_KEY) and not options.get(REGIONS_KEY):
            options[REGIONS_KEY] = True
            _patch(_RunOptions(model, model_options))
        return False


class _RunOptions:
    """The options of a run in the form of a MODEL that can be patched."""

    def __init__(self, model, model_options: dict):
        self.model, self.model_options = model.model, model_options

    def add_wrapper_with_key(self, kind: str, key: str, wrapper) -> None:
        add_wrapper_with_key(kind, key, wrapper, self.model_options, is_model_options=True)


class RegionBiases:
    """The bias of each entry with regions, made once a run for each size of layer."""

    def __init__(self) -> None:
        self._finder = TagFinder(REGIONS_KEY)
        self._made: dict[tuple, Tensor] = {}

    def install(self, model) -> None:
        """Look for regions in the runs of `model`, a clone of the caller's own."""
        self._finder.install(model)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, REGIONS_KEY, self.run)

    def of(self, call: AttentionCall, entry, q: Tensor, columns: int) -> Tensor | None:
        """What is added to the scores of an entry's queries `q` `[pictures, h * w, ...]` on its columns, in the
        precision of `q`; None where the entry has no regions."""
        tagged = self._finder.find(entry)
        if tagged is None:
            return None
        key = (entry, call.size, columns, len(q))
        if key not in self._made:
            self._made[key] = entry_bias(tagged, call.size, columns, len(q)).to(q)
        return self._made[key]

    def run(self, executor, *args, **kwargs):
        """A run of a sampler; what was made for it goes with it."""
        try:
            return executor(*args, **kwargs)
        finally:
            self._made.clear()

    def __deepcopy__(self, memo) -> RegionBiases:
        return self


class RegionControl:
    """Adds the bias of each chunk's regions to the scores of a cross-attention layer."""

    def __init__(self, biases: RegionBiases):
        self._biases = biases

    def __call__(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        changes = []
        for entry, rows in call.parts():
            bias = self._biases.of(call, entry, q[rows], k.shape[1])
            if bias is not None:
                changes.append((rows, partial(call.attention, mask=bias)))
        return attend(q, k, v, changes)


def entry_bias(tagged: Tagged, grid: tuple[int, int], columns: int, pictures: int) -> Tensor:
    """The bias of an entry as it goes through the UNet, `[pictures, queries, columns]`.

    Columns that later nodes appended are seen everywhere. The host repeats a prompt that shares a batch with a longer
    one, and hands out prompts, so masks too, to the pictures in turn.
    """
    bias = tagged.value.bias(grid, tagged.latent, tagged.area)
    appended = bias.new_zeros(*bias.shape[:2], tagged.tokens - bias.shape[2])
    repeats = -(-pictures // len(bias))
    return torch.cat([bias, appended], dim=2).repeat(repeats, 1, columns // tagged.tokens)[:pictures]
