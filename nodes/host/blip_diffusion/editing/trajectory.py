"""The path of a picture through the noise levels, as inversion found it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .....blipdiff_impl.errors import SubjectError

INVERSION_KEY = "blipdiffusion_inversion"  # in a LATENT


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The way from a picture to its noise, as an inversion found it.

    Attributes:
        sigmas: float32 `[steps + 1]`, descending to 0, as the sampler has to use them.
        states: float32 `[steps + 1, N, 4, h, w]`, what the UNet's host form sees at each of them (variance-exploding
            scale, the model's latents).
        clean: the pictures' latents in the VAE's scale, `[N, 4, h, w]`.
        shortened: the noise levels of the same settings for samplers of which the host drops the last but one (uni_pc,
            dpm_2); states between levels serve them.
        prompt: what the picture was said to show.
        scheduler: the host's name of the schedule.
    """

    sigmas: Tensor
    states: Tensor
    clean: Tensor
    shortened: Tensor
    prompt: str
    scheduler: str

    def at(self, sigma: float) -> Tensor:
        """The state at a noise level, `[N, 4, h, w]`; between two levels on the line from one to the other."""
        rising = self.sigmas.flip(0)
        above = int(torch.searchsorted(rising, torch.tensor(sigma, dtype=rising.dtype)).clamp(1, len(rising) - 1))
        low, high = float(rising[above - 1]), float(rising[above])
        share = min(max((sigma - low) / (high - low), 0.0), 1.0)
        last = len(self.sigmas) - 1
        return torch.lerp(self.states[last - above + 1], self.states[last - above], share)

    def of(self, pictures: Tensor) -> Trajectory:
        """The paths of these pictures only, where a sampler gets a part of the batch.

        Args:
            pictures: latents in the VAE's scale, `[M, 4, h, w]`.

        Raises:
            SubjectError: some were not inverted.
        """
        places = [self._place(picture) for picture in pictures.cpu().float()]
        if None not in places:
            return replace(self, states=self.states[:, places], clean=self.clean[places])
        if len(places) == len(self.clean):  # all of them, changed on the way
            return self
        raise SubjectError(
            f"The sampler got {len(places)} pictures of an edit, but {len(self.clean)} were inverted, and these are "
            "not some of them. Connect the LATENT of Edit with Subject to the sampler."
        )

    def _place(self, picture: Tensor) -> int | None:
        return next((place for place, own in enumerate(self.clean) if torch.equal(own, picture)), None)

    def require_matching(self, schedule: Tensor) -> None:
        """Refuse a run whose noise levels are not those of the inversion.

        Raises:
            SubjectError: says what to set on the sampler.
        """
        steps = len(self.sigmas) - 1
        schedule = schedule.cpu().float()
        if any(len(each) == len(schedule) and torch.allclose(schedule, each, rtol=1e-3) for each in self._accepted):
            return
        raise SubjectError(
            f"The sampler takes {len(schedule) - 1} steps from noise level {float(schedule[0]):.2f}, but the picture "
            f"was inverted with {steps} from {float(self.sigmas[0]):.2f}. Set steps {steps}, scheduler "
            f"{self.scheduler!r} and denoise 1 on the sampler, or invert with the sampler's settings."
        )

    @property
    def _accepted(self) -> tuple[Tensor, Tensor]:
        return self.sigmas, self.shortened
