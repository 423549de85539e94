"""What happens inside a run: every cross-attention layer adds the subjects to its positive rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.ms_diffusion.adapter_attention import Coverage, Subjects
from ....blipdiff_impl.ms_diffusion.auto_layout import AutoLayout
from ..attention import CROSS, AttentionCall, control_attention
from ..positive_entries import PositiveEntries, PositiveEntry
from ..regions import RegionBiases
from ..run_clock import RunClock, clock_of

KEY = "blipdiffusion_ms_subjects"


class SubjectsInRuns:
    """The subjects of one MODEL, in whatever runs it is sampled.

    Args:
        subjects: keys and values, on any device.
        part: of the run in which they act, from and to, 0 to 1 as the host's own nodes count it.
        columns: of each subject's phrase in the positive prompt: auto layout; None lets the boxes hold.
        threshold, first: of `AutoLayout`.
    """

    def __init__(
        self,
        subjects: Subjects,
        part: tuple[float, float] = (0.0, 1.0),
        columns: Sequence[Sequence[int]] | None = None,
        threshold: float = 0.5,
        first: int = 5,
    ):
        self._subjects, self._part = subjects, part
        self._sigmas = (math.inf, 0.0)  # of the run under way, for that part
        self._layout = None if columns is None else AutoLayout(columns, threshold, first)
        self._last_column = max((column for each in columns or () for column in each), default=0)
        self._entries, self._biases, self._clock = PositiveEntries(KEY), RegionBiases(), RunClock()
        self._here: dict[tuple, Subjects] = {}
        self._masks: dict[tuple, Tensor | None] = {}

    def install(self, model) -> None:
        """Act in the runs of `model`, a clone of the caller's own."""
        self._clock = clock_of(model)
        self._entries.install(model)
        self._biases.install(model)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self.run)
        control_attention(model, CROSS, self.control)

    def run(self, executor, *args, **kwargs):
        """A run of a sampler; what was made for it goes with it."""
        if self._layout is not None:
            self._layout.begin()
        # Asked here, as nodes behind this one may have given the MODEL other noise levels.
        sampling = executor.class_obj.model_patcher.get_model_object("model_sampling")
        first, last = (float(sampling.percent_to_sigma(share)) for share in self._part)
        self._sigmas = (first, last)
        try:
            return executor(*args, **kwargs)
        finally:
            self._here.clear()
            self._masks.clear()

    def control(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        """A layer's output; rows of other prompts, and places outside all boxes, keep every bit."""
        out = attend(q, k, v)
        parts, changed = [], False
        for entry, rows in call.parts():
            positive = self._entries.find(entry)
            found = out[rows]
            if positive is not None:
                covered = self._covered(call, entry, positive, q[rows], k[rows])
                if covered is not None:
                    found, changed = self._moved(q).add(found, q[rows], call.layer, covered, call.heads), True
            parts.append(found)
        return torch.cat(parts) if changed else out

    def _covered(
        self, call: AttentionCall, entry: tuple, positive: PositiveEntry, q: Tensor, k: Tensor
    ) -> Coverage | None:
        """What the rows of one entry see; None for nothing."""
        masks = None if self._layout is None else self._laid_out(self._layout, call, entry, positive, q, k)
        now = self._clock.now
        if now is not None and not self._sigmas[1] <= now.sigma <= self._sigmas[0]:
            return None
        subjects = self._moved(q)
        return subjects.coverage(call.size, q, positive.part) if masks is None else subjects.coverage_of(masks, q)

    def _laid_out(
        self, layout: AutoLayout, call: AttentionCall, entry: tuple, positive: PositiveEntry, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """Masks by where the phrases look; None as long as the boxes hold. An evaluation counts once, also where the
        prompt goes through the UNet again within it."""
        key = (call.layer, entry)
        now = self._clock.now
        if now is None or now.is_first((self, key)):
            if self._last_column >= positive.tokens:
                raise SubjectError(
                    f"Auto layout was given a prompt whose phrases stand at column {self._last_column}, but the prompt "
                    f"that is sampled has {positive.tokens} columns. Give Apply MS-Diffusion the same text."
                )
            bias = self._biases.of(call, entry, q, k.shape[1])
            # Where another node appended keys of its own, the prompt does not repeat.
            period = k.shape[1] if k.shape[1] % positive.tokens else positive.tokens
            self._masks[key] = layout.masks(key, q, k, call.heads, period, bias)
        return self._masks.get(key)

    def _moved(self, q: Tensor) -> Subjects:
        """Keys and values on the device and in the type of the queries, moved once a run."""
        where = (q.device, q.dtype)
        if where not in self._here:
            self._here[where] = self._subjects.to(*where)
        return self._here[where]

    def __deepcopy__(self, memo) -> SubjectsInRuns:
        return self  # older hosts copy a MODEL's options deeply
