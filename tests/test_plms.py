"""PLMS in sigma space against diffusers' PNDMScheduler.

Tolerance 1e-6 in float64, where only the published float32 table of alphas differs from ours.
"""

import pytest
import torch

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.stable_diffusion.plms import leading_timesteps, sample_plms


def pndm(steps):
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, skip_prk_steps=True
    )
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [25, 50, 100])
def test_timesteps_are_the_published_ones(steps):
    ours = leading_timesteps(steps)
    assert [ours[0], ours[1], *ours[1:]] == pndm(steps).timesteps.tolist()
    assert leading_timesteps(50)[:3] == [980, 960, 940]


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 20])
def test_equals_diffusers(steps):
    scheduler = pndm(steps)
    alphas = scheduler.alphas_cumprod.double()
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = alphas, alphas[0]
    mixing = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3

    def predicted(x, timestep):  # any smooth function of the sample and the time will do
        return torch.tanh(x @ mixing) * (1 + timestep / 1000)

    start = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reference = start
    for timestep in scheduler.timesteps:
        reference = scheduler.step(predicted(reference, timestep), int(timestep), reference).prev_sample

    timesteps = leading_timesteps(steps)
    sigmas = ((1 - alphas[timesteps]) / alphas[timesteps]).sqrt()

    def eps(x, sigma):
        return predicted(x / (1 + sigma**2).sqrt(), timesteps[int((sigmas - sigma).abs().argmin())])

    ours = sample_plms(eps, start * (1 + sigmas[0] ** 2).sqrt(), sigmas) / (1 + sigmas[-1] ** 2).sqrt()
    assert float((ours - reference).norm() / reference.norm()) < 1e-6


def test_straight_line_is_followed_exactly():
    """A constant prediction is integrated without error by every order."""
    sigmas = torch.tensor([10.0, 5.0, 3.0, 1.0, 0.5, 0.0])
    result = sample_plms(lambda x, sigma: torch.full_like(x, 2.0), torch.zeros(3), sigmas)
    assert torch.allclose(result, torch.full((3,), -20.0))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(SubjectError, match=f"steps = {steps}"):
        leading_timesteps(steps)
