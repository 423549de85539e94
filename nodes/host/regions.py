"""Regions in cross-attention: a patch on the MODEL that lets columns of a prompt be seen only where its masks say.

The prompt carries its `Regions`; the patch knows no prompt, so one serves every scene that is sampled with the MODEL.
"""

from __future__ import annotations

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .attention import CROSS, AttentionCall, control_attention
from .conditioning_tags import TagFinder, Tagged

REGIONS_KEY = "blipdiffusion_regions"


def with_regions(model):
    """A clone of the MODEL that heeds the regions of prompts; the MODEL itself if it does already."""
    if model.get_attachment(REGIONS_KEY):
        return model
    model = model.clone()
    model.set_attachments(REGIONS_KEY, True)
    finder = TagFinder(REGIONS_KEY)
    finder.install(model)
    control = RegionControl(finder)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, REGIONS_KEY, control.run)
    control_attention(model, CROSS, control)
    return model


class RegionControl:
    """Adds the bias of each chunk's regions to the scores of a cross-attention layer."""

    def __init__(self, finder: TagFinder):
        self._finder = finder
        self._biases: dict[tuple, Tensor] = {}  # made once a run for each size of layer

    def run(self, executor, *args, **kwargs):
        """A run of a sampler; what was made for it goes with it."""
        try:
            return executor(*args, **kwargs)
        finally:
            self._biases.clear()

    def __call__(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        if not any(self._finder.find(entry) for entry in call.entries):
            return attend(q, k, v)
        key = (call.entries, call.size, k.shape[1], len(q))
        if key not in self._biases:
            self._biases[key] = self._bias(call, q, k.shape[1])
        return attend(q, k, v, self._biases[key])

    def _bias(self, call: AttentionCall, q: Tensor, columns: int) -> Tensor:
        """`[batch, queries, columns]` in the precision of `q`; 0 for chunks without regions."""
        bias = q.new_zeros(len(q), q.shape[1], columns)
        rows = len(q) // len(call.entries)
        for place, entry in enumerate(call.entries):
            if (tagged := self._finder.find(entry)) is not None:
                bias[place * rows : (place + 1) * rows] = entry_bias(tagged, call.size, columns, rows).to(bias)
        return bias

    def __deepcopy__(self, memo) -> RegionControl:
        return self


def entry_bias(tagged: Tagged, grid: tuple[int, int], columns: int, pictures: int) -> Tensor:
    """The bias of an entry as it goes through the UNet, `[pictures, queries, columns]`.

    Columns that later nodes appended are seen everywhere. The host repeats a prompt that shares a batch with a longer
    one, and hands out prompts, so masks too, to the pictures in turn.
    """
    bias = tagged.value.bias(grid, tagged.latent, tagged.area)
    appended = bias.new_zeros(*bias.shape[:2], tagged.tokens - bias.shape[2])
    repeats = -(-pictures // len(bias))
    return torch.cat([bias, appended], dim=2).repeat(repeats, 1, columns // tagged.tokens)[:pictures]
