"""What happens inside a run that edits: pairs of source and edit go through the UNet as neighbours in one batch.

Attention of the edit follows its source for part of the steps, and a mask from the attention to the changing words
holds everything else in place. The mask acts on what the UNet sees and on the guided result, not inside a sampler:
with a fixed mask of 0 and 1 that is the release's blend of latents after every step for any sampler, because samplers
combine the latent and those results cell by cell. A soft edge weighs both, and so keeps a little more of the source.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .....blipdiff_impl.attention.probabilities import apply_probabilities, probabilities
from .....blipdiff_impl.blip_diffusion.editing.blend import Area, WordMaps, choose_layers, column_map, mix
from .....blipdiff_impl.blip_diffusion.editing.control import Columns, refine
from .....blipdiff_impl.errors import SubjectError
from ...attention import CROSS, SELF, AttentionCall, Block, attention_blocks, control_attention
from ...conditioning_tags import TagFinder, Tagged
from ...run_clock import Moment, RunClock, clock_of
from ...run_records import RECORDS, run_to_the_end
from .noise import as_pairs, shared_step_noise, solve_noise
from .options import EditSettings
from .prompts import EDIT_KEY
from .trajectory import Trajectory

# Self-attention follows the source where the latent's sides are halved at least so often: 16x16 and 8x8 at 512x512.
_COARSE = 2


class Editor:
    """The patch on a MODEL: controls its runs, and leaves their masks in the pack's records."""

    def __init__(self, settings: EditSettings, trajectory: Trajectory | None = None):
        self._settings, self._trajectory = settings, trajectory
        self._prompts = TagFinder(EDIT_KEY)
        self._clock = RunClock()  # stands still; the MODEL's own takes its place
        self._running: _Run | None = None
        # A MODEL that was given up and made again finds the masks of the one before it under the second name.
        self._names = (object(), EDIT_KEY)

    def install(self, model) -> None:
        """Take part in the runs of `model`, a clone of the caller's own."""
        blocks = attention_blocks(model)
        self._blocks = blocks
        self._clock = clock_of(model)
        self._prompts.install(model)
        control_attention(model, CROSS, self._cross)
        if self._settings.self_replace > 0:
            coarse = [block for block, downsamples in blocks.items() if downsamples >= _COARSE]
            control_attention(model, SELF, self._self, coarse)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, EDIT_KEY, self._run)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, EDIT_KEY, self._sample)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, EDIT_KEY, self._predict)
        model.set_attachments(EDIT_KEY, self)

    def masks_of(self, samples: Tensor) -> list[Tensor | None]:
        """For each pair of these samples the mask that its run used, `[1, h, w]` at the latent's size; None for pairs
        of no edit. Empty where the samples are no pairs."""
        return RECORDS.find(self._names, samples, 2)

    def _run(self, executor, noise, latent_image, sampler, sigmas, *args, **kwargs) -> Tensor:
        if not self._is_meant(executor.class_obj):
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        if len(noise) % 2:
            raise SubjectError(
                f"The sampler got {len(noise)} latents, but an edit goes in pairs of source and edit. Connect the "
                "LATENT of Edit with Subject to the sampler."
            )
        trajectory, mask = self._trajectory, self._settings.mask
        if trajectory is not None:
            trajectory.require_matching(sigmas)
            trajectory = trajectory.of(latent_image[0::2])
        if mask is not None and len(mask) not in (1, len(noise) // 2):
            raise SubjectError(
                f"The edit has {len(mask)} masks, but the sampler got {len(noise) // 2} of its pictures. Connect one "
                "mask, or the whole LATENT of Edit with Subject to the sampler."
            )
        run = self._running = _Run(self._settings, tuple(noise.shape[-2:]), self._blocks, trajectory)
        try:
            ends = bool(sigmas[-1] == 0)  # asked before, as samplers write into the schedule
            samples, others = run_to_the_end(executor, (noise, latent_image, sampler, sigmas, *args), kwargs)
            if ends:
                samples = self._finished(samples, run)
            masks = run.final_mask(len(noise) // 2)
        finally:
            self._running = None
        RECORDS.keep(self._names, [(mask.clone(), mask.nbytes) for mask in masks], [samples, *others])
        return samples

    def _is_meant(self, guider) -> bool:
        """Whether a run is one of this edit. One that was put on the same MODEL later takes its place, and a run
        without prompts of an edit is sampled as it would be without either."""
        model, conds = getattr(guider, "model_patcher", None), getattr(guider, "conds", None)
        if model is not None and model.get_attachment(EDIT_KEY) is not self:
            return False
        return conds is None or any(EDIT_KEY in entry for entries in conds.values() for entry in entries)

    def _finished(self, samples: Tensor, run: _Run) -> Tensor:
        """What samplers that stop just short of the picture (uni_pc) leave to be done: the source wherever the mask is
        quite black. Soft edges have had their share in the last step."""
        source = samples[0::2] if run.trajectory is None else run.trajectory.clean.to(samples)
        edit, mask = samples[1::2], run.mask_at(self._clock.end)
        if mask is not None:
            edit = torch.where(mask.to(samples.device) > 0, edit, source)
        return torch.stack([source, edit], dim=1).flatten(0, 1)

    def _sample(self, executor, model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs):
        run = self._running
        if run is None:
            return executor(model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)
        sampler = executor.class_obj
        noise = as_pairs(noise)
        if run.trajectory is not None:
            model = model_wrap.inner_model
            start = run.trajectory.at(float(sigmas[0])).repeat_interleave(2, dim=0).to(noise)
            widest = sampler.max_denoise(model_wrap, sigmas)
            noise = solve_noise(model.model_sampling, sigmas[0], latent_image, start, widest)
        with shared_step_noise(sampler, sigmas, extra_args.get("seed"), noise):
            return executor(model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kwargs)

    def _predict(self, executor, x: Tensor, timestep: Tensor, *args, **kwargs) -> Tensor:
        run, now = self._running, self._clock.now
        if run is None or now is None:
            return executor(x, timestep, *args, **kwargs)
        source, edit = x[0::2], x[1::2]
        if run.trajectory is not None:
            source = run.trajectory.at(now.sigma).to(x)
        x = run.blended(source, edit, now)
        denoised = executor(x, timestep, *args, **kwargs)
        source, edit = denoised[0::2], denoised[1::2]
        if run.trajectory is not None:
            # The source branch shows attention along the way; where it ends is known.
            source = executor.class_obj.inner_model.process_latent_in(run.trajectory.clean).to(denoised)
        return run.blended(source, edit, now)

    def _cross(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        run, now = self._running, self._clock.now
        if run is None or now is None:
            return attend(q, k, v)
        follow, reads = now.is_early(self._settings.cross_replace), run.reads(call.block)
        changes = []
        for entry, rows, prompt in self._parts(call):
            records = reads and now.is_first((self, call.layer, entry))
            if follow or records or prompt.value.weights is not None:
                columns = prompt.value.extended(prompt.tokens).repeated(k.shape[1] // prompt.tokens)
                edited = partial(self._edited, call, run.maps if records else None, columns, prompt.area, follow)
                changes.append((rows, edited))
        return attend(q, k, v, changes)

    def _edited(
        self, call: AttentionCall, maps: WordMaps | None, columns: Columns, area: Area | None, follow: bool,
        q: Tensor, k: Tensor, v: Tensor,
    ) -> Tensor:  # fmt: skip
        """One layer's output for pairs, from probabilities; `maps` takes those of the words."""
        probs = probabilities(q, k, call.heads)
        source, edit = probs[0::2], refine(probs[0::2], probs[1::2], columns, follow)
        if maps is not None:
            source_map = column_map(source, columns.source_words, call.size)
            maps.add(source_map, column_map(edit, columns.edit_words, call.size), area)
        probs[1::2] = edit
        return apply_probabilities(probs, v)

    def _self(self, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, attend) -> Tensor:
        now = self._clock.now
        if self._running is not None and now is not None and now.is_early(self._settings.self_replace):
            for _, rows, _ in self._parts(call):
                # The source's probabilities on the edit's values: no need to look at them.
                q, k = (_followed(each, call.pictures, rows) for each in (q, k))
        return attend(q, k, v)

    def _parts(self, call: AttentionCall) -> list[tuple[tuple, slice, Tagged]]:
        """Entry, rows and prompt of what in the batch holds pairs of this edit."""
        found = ((entry, rows, self._prompts.find(entry)) for entry, rows in call.parts())
        return [(entry, rows, prompt) for entry, rows, prompt in found if prompt is not None]

    def __deepcopy__(self, memo) -> Editor:
        return self


def _followed(x: Tensor, pictures: int, rows: slice) -> Tensor:
    """Queries or keys `[pictures or tiles of them, tokens, W]` with those of the sources at the edits in `rows`."""
    x = x.unflatten(0, (pictures, -1)).clone()
    x[rows] = as_pairs(x[rows])
    return x.flatten(0, 1)


class _Run:
    """One run of a sampler: its mask so far."""

    def __init__(
        self,
        settings: EditSettings,
        latent: tuple[int, int],
        blocks: dict[Block, int],
        trajectory: Trajectory | None,
    ):
        self.maps, self.trajectory = WordMaps(), trajectory
        self._settings, self._latent = settings, latent
        self._layers = choose_layers(latent, blocks)
        self._own = None
        if settings.blend and settings.mask is not None:
            self._own = F.adaptive_avg_pool2d(settings.mask[:, None], latent)

    def reads(self, block: Block) -> bool:
        """Whether the layer at this place says where the words are."""
        return self._settings.sees_words and block in self._layers

    def blended(self, source: Tensor, edit: Tensor, now: Moment) -> Tensor:
        """Pairs `[2N, C, h, w]`, the edit as its source outside the mask."""
        mask = self.mask_at(now)
        if mask is not None:
            edit = mix(source, edit, mask.to(edit))
        return torch.stack([source, edit], dim=1).flatten(0, 1)

    def mask_at(self, now: Moment) -> Tensor | None:
        """The mask that acts in this evaluation, `[N, 1, h, w]`; None where nothing is held in place."""
        acts = self._settings.blend and not now.is_early(self._settings.blend_start)
        return self._mask() if acts else None

    def final_mask(self, pairs: int) -> Tensor:
        """`[N, 1, h, w]` float32 on the CPU; ones where nothing was held in place."""
        mask = self._mask() if self._settings.blend else None
        if mask is None:
            return torch.ones(pairs, 1, *self._latent)
        return mask.float().cpu().expand(pairs, -1, -1, -1)

    def _mask(self) -> Tensor | None:
        seen = self.maps.mask(self._latent, self._settings.blend_threshold) if self._settings.sees_words else None
        if self._own is None or seen is None:
            return self._own if seen is None else seen
        own = self._own.to(seen)
        return torch.minimum(own, seen) if self._settings.mask_mode == "intersect" else torch.maximum(own, seen)
