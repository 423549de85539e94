"""What happens inside a run that edits: pairs of source and edit go through the UNet as neighbours in one batch.

Attention of the edit follows its source for part of the steps, and a mask from the attention to the changing words
holds everything else in place. The mask acts on what the UNet sees and on the guided result, not inside a sampler:
with a fixed mask of 0 and 1 that is the release's blend of latents after every step for any sampler, because samplers
combine the latent and those results cell by cell. A soft edge weighs both, and so keeps a little more of the source.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....blipdiff_impl.attention import apply_probabilities, probabilities
from ....blipdiff_impl.editing.blend import WordMaps, choose_level, column_map, mix
from ....blipdiff_impl.editing.control import Columns, refine
from ....blipdiff_impl.errors import SubjectError
from ..attention import CROSS, SELF, AttentionCall, attention_blocks, control_attention, step_of
from ..conditioning_tags import TagFinder
from ..digest import samples_digest
from .noise import as_pairs, shared_step_noise, solve_noise
from .prompts import EDIT_KEY
from .trajectory import Trajectory

MASK_MODES = ("replace", "intersect", "add")
# Self-attention follows the source where the latent's sides are halved at least so often: 16x16 and 8x8 at 512x512.
_COARSE = 2
_RUNS = 4  # masks that a MODEL keeps


@dataclass(frozen=True, eq=False)
class EditSettings:
    """Attributes:
    cross_replace, self_replace: share of the steps in which attention follows the source.
    blend: hold everything outside the mask in place.
    blend_threshold: share of the range of the words' attention from which a place belongs to the mask.
    blend_start: share of the steps that pass before the mask acts.
    mask: the user's, `[N or 1, H, W]` in 0..1; None leaves it to attention.
    mask_mode: the user's mask instead of the one from attention, only where both are, or where either is.
    """

    cross_replace: float = 0.8
    self_replace: float = 0.4
    blend: bool = True
    blend_threshold: float = 0.3
    blend_start: float = 0.0
    mask: Tensor | None = None
    mask_mode: str = MASK_MODES[0]

    @property
    def sees_words(self) -> bool:
        """Whether the mask needs the attention to words."""
        return self.blend and (self.mask is None or self.mask_mode != "replace")


class Editor:
    """The patch on a MODEL: controls its runs and keeps the masks of the last ones."""

    def __init__(self, settings: EditSettings, trajectory: Trajectory | None = None):
        self._settings, self._trajectory = settings, trajectory
        self._prompts = TagFinder(EDIT_KEY)
        self._running: _Run | None = None
        self._masks: OrderedDict[str, Tensor] = OrderedDict()

    def install(self, model) -> None:
        """Take part in the runs of `model`, a clone of the caller's own."""
        blocks = attention_blocks(model)
        self._levels = blocks
        self._prompts.install(model)
        control_attention(model, CROSS, self._cross)
        if self._settings.self_replace > 0:
            coarse = [block for block, halvings in blocks.items() if halvings >= _COARSE]
            control_attention(model, SELF, self._self, coarse)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, EDIT_KEY, self._run)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, EDIT_KEY, self._sample)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, EDIT_KEY, self._predict)
        model.set_attachments(EDIT_KEY, self)

    def mask_of(self, samples: Tensor) -> Tensor | None:
        """The mask that the run used which gave these samples, `[N, 1, h, w]` at the latent's size."""
        return self._masks.get(samples_digest(samples))

    def _run(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs) -> Tensor:
        if len(noise) % 2:
            raise SubjectError(
                f"The sampler got {len(noise)} latents, but an edit goes in pairs of source and edit. Connect the "
                "LATENT of Edit with Subject to the sampler."
            )
        if self._trajectory is not None:
            self._trajectory.require_matching(sigmas)
        self._running = _Run(self._settings, sigmas, tuple(noise.shape[-2:]), set(self._levels.values()))
        try:
            ends = bool(sigmas[-1] == 0)  # asked before, as samplers write into the schedule
            samples = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if ends:
                samples = self._finished(samples)
            self._keep(samples_digest(samples), self._running.final_mask(len(noise) // 2))
        finally:
            self._running = None
        return samples

    def _finished(self, samples: Tensor) -> Tensor:
        """What samplers that stop just short of the picture (uni_pc) leave to be done: the source wherever the mask is
        quite black. Soft edges have had their share in the last step."""
        source = samples[0::2] if self._trajectory is None else self._trajectory.clean.to(samples)
        edit, mask = samples[1::2], self._running.mask_at(0.0)
        if mask is not None:
            edit = torch.where(mask.to(samples.device) > 0, edit, source)
        return torch.stack([source, edit], dim=1).flatten(0, 1)

    def _sample(self, executor, model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs):
        sampler = executor.class_obj
        noise = as_pairs(noise)
        if self._trajectory is not None:
            model = model_wrap.inner_model
            start = self._trajectory.at(float(sigmas[0])).repeat_interleave(2, dim=0).to(noise)
            widest = sampler.max_denoise(model_wrap, sigmas)
            noise = solve_noise(model.model_sampling, sigmas[0], latent_image, start, widest)
        with shared_step_noise(sampler, sigmas, extra_args.get("seed"), noise):
            return executor(model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)

    def _predict(self, executor, x: Tensor, timestep: Tensor, *args, **kwargs) -> Tensor:
        run, sigma = self._running, float(timestep.flatten()[0])
        source, edit = x[0::2], x[1::2]
        if self._trajectory is not None:
            source = self._trajectory.at(sigma).to(x)
        x = run.blended(source, edit, sigma)
        denoised = executor(x, timestep, *args, **kwargs)
        source, edit = denoised[0::2], denoised[1::2]
        if self._trajectory is not None:
            # The source branch shows attention along the way; where it ends is known.
            source = executor.class_obj.inner_model.process_latent_in(self._trajectory.clean).to(denoised)
        return run.blended(source, edit, sigma)

    def _cross(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        run = self._running
        parts = [] if run is None else self._parts(call, len(q))
        follow = run is not None and run.is_early(call.sigma, self._settings.cross_replace)
        records = run is not None and run.reads(self._levels[call.block])
        weighs = any(columns.weights is not None for _, columns in parts)
        if not parts or not (follow or records or weighs):
            return attend(q, k, v)
        out = torch.empty_like(q)
        held = torch.zeros(len(q), dtype=torch.bool)
        for rows, columns in parts:
            held[rows] = True
            columns = columns.repeated(k.shape[1] // columns.count)
            out[rows] = self._edited(call, run if records else None, q[rows], k[rows], v[rows], columns, follow)
        if not held.all():
            out[~held] = attend(q[~held], k[~held], v[~held])
        return out

    def _edited(
        self, call: AttentionCall, run: _Run | None, q: Tensor, k: Tensor, v: Tensor, columns: Columns, follow: bool
    ) -> Tensor:
        """One layer's output for pairs, from probabilities; `run` takes the words' maps, if it wants them."""
        probs = probabilities(q, k, call.heads)
        source, edit = probs[0::2], refine(probs[0::2], probs[1::2], columns, follow)
        if run is not None:
            run.maps.add(
                column_map(source, columns.source_words, call.size), column_map(edit, columns.edit_words, call.size)
            )
        probs[1::2] = edit
        return apply_probabilities(probs, v)

    def _self(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        run = self._running
        if run is not None and run.is_early(call.sigma, self._settings.self_replace):
            for rows, _ in self._parts(call, len(q)):
                # The source's probabilities on the edit's values: no need to look at them.
                q, k = q.clone(), k.clone()
                q[rows], k[rows] = as_pairs(q[rows]), as_pairs(k[rows])
        return attend(q, k, v)

    def _parts(self, call: AttentionCall, batch: int) -> list[tuple[slice, Columns]]:
        """Rows of the batch that hold pairs of this edit."""
        rows = batch // max(1, len(call.entries))
        found = []
        for place, entry in enumerate(call.entries):
            tagged = self._prompts.find(entry)
            if tagged is not None:
                found.append((slice(place * rows, (place + 1) * rows), tagged.value))
        return found

    def _keep(self, digest: str, mask: Tensor) -> None:
        self._masks[digest] = mask
        while len(self._masks) > _RUNS:
            self._masks.popitem(last=False)

    def __deepcopy__(self, memo) -> Editor:
        return self


class _Run:
    """One run of a sampler: how far it is, and its mask so far."""

    def __init__(self, settings: EditSettings, sigmas: Tensor, latent: tuple[int, int], levels: set[int]):
        self.maps = WordMaps()
        self._settings, self._sigmas, self._latent = settings, sigmas.cpu().clone(), latent
        self._level = choose_level(latent, levels)
        self._own = None
        if settings.blend and settings.mask is not None:
            self._own = F.adaptive_avg_pool2d(settings.mask[:, None], latent)

    def is_early(self, sigma: float, share: float) -> bool:
        """Whether a step is among the first `share` of the run."""
        steps = len(self._sigmas) - 1
        return step_of(sigma, self._sigmas) < int(round(share * steps, 6))

    def reads(self, level: int) -> bool:
        """Whether layers of this level say where the words are."""
        return self._settings.sees_words and level == self._level

    def blended(self, source: Tensor, edit: Tensor, sigma: float) -> Tensor:
        """Pairs `[2N, C, h, w]`, the edit as its source outside the mask."""
        mask = self.mask_at(sigma)
        if mask is not None:
            edit = mix(source, edit, mask.to(edit))
        return torch.stack([source, edit], dim=1).flatten(0, 1)

    def mask_at(self, sigma: float) -> Tensor | None:
        """The mask that acts at this noise level, `[N, 1, h, w]`; None where nothing is held in place."""
        acts = self._settings.blend and not self.is_early(sigma, self._settings.blend_start)
        return self._mask() if acts else None

    def final_mask(self, pairs: int) -> Tensor:
        """`[N, 1, h, w]` float32 on the CPU; ones where nothing was held in place."""
        mask = self._mask() if self._settings.blend else None
        if mask is None:
            return torch.ones(pairs, 1, *self._latent)
        return mask.float().cpu().expand(pairs, -1, -1, -1).clone()

    def _mask(self) -> Tensor | None:
        seen = self.maps.mask(self._latent, self._settings.blend_threshold) if self._settings.sees_words else None
        if self._own is None or seen is None:
            return self._own if seen is None else seen
        own = self._own.to(seen)
        return torch.minimum(own, seen) if self._settings.mask_mode == "intersect" else torch.maximum(own, seen)
