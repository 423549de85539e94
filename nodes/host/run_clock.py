"""How far a run of a sampler is: read from the host's tensors once a run and once an evaluation, not in every layer.

A value that lives on a GPU is waited for. So the wrappers here ask, and attention layers look at plain numbers.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from comfy.patcher_extension import WrappersMP
from torch import Tensor

_CLOCK_KEY = "blipdiffusion_clock"


@dataclass(frozen=True, eq=False)
class Moment:
    """One evaluation of a run.

    Attributes:
        sigma: its noise level.
        step: index of the step that it belongs to; the nearest, as samplers also look between steps.
        steps: of the run.
    """

    sigma: float
    step: int
    steps: int
    _seen: set = field(default_factory=set)

    def is_early(self, share: float) -> bool:
        """Whether the step is among the first `share` of the run."""
        return self.step < int(round(share * self.steps, 6))

    def is_first(self, what: Hashable) -> bool:
        """Whether `what` comes up for the first time in this evaluation: guidance by perturbed attention and the like
        send the same prompts through the UNet again."""
        if what in self._seen:
            return False
        self._seen.add(what)
        return True


class RunClock:
    """Attributes:
    now: the evaluation under way; None between them.
    """

    def __init__(self) -> None:
        self.now: Moment | None = None
        self._schedule: list[float] = []

    @property
    def end(self) -> Moment:
        """The picture of the run under way, which belongs to its last step."""
        steps = len(self._schedule) - 1
        return Moment(0.0, steps - 1, steps)

    def run(self, executor, noise, latent_image, sampler, sigmas: Tensor, *args, **kwargs) -> Tensor:
        """A run of a sampler; its schedule is read before, as samplers write into it."""
        before, self._schedule = self._schedule, sigmas.tolist()
        try:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self._schedule = before

    def evaluate(self, executor, x: Tensor, timestep: Tensor, *args, **kwargs) -> Tensor:
        """An evaluation of the model within a run."""
        before, self.now = self.now, self._moment(float(timestep.flatten()[0]))
        try:
            return executor(x, timestep, *args, **kwargs)
        finally:
            self.now = before

    def _moment(self, sigma: float) -> Moment:
        steps = len(self._schedule) - 1
        step = min(range(steps), key=lambda step: abs(self._schedule[step] - sigma), default=0)
        return Moment(sigma, step, steps)

    def __deepcopy__(self, memo) -> RunClock:
        return self


def clock_of(model) -> RunClock:
    """The clock of the runs of `model`, a clone of the caller's own. Wrappers that the caller adds afterwards, and
    controls of attention, find it set."""
    clock = model.get_attachment(_CLOCK_KEY)
    if clock is None:
        clock = RunClock()
        model.set_attachments(_CLOCK_KEY, clock)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _CLOCK_KEY, clock.run)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, _CLOCK_KEY, clock.evaluate)
    return clock
