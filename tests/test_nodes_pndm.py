"""The published sampler through the host's SamplerCustom, against diffusers' PNDMScheduler on the same UNet and noise.

Both run float32 on the CPU. The host works in the variance-exploding scale and the scheduler in the other one, so sums
are taken in another order: about 1e-6 a step. 1e-4 over ten guided steps is a tenth of what is promised for latents.
"""

import pytest
import torch
from tiny_model import CONFIG, canonical, reference_modules

TOLERANCE = 1e-4
GUIDANCE = 7.5


@pytest.fixture(scope="module")
def unet():
    return reference_modules(CONFIG, seed=7)["unet"]


@pytest.fixture(scope="module")
def model(comfy, unet):
    load_unet = comfy.module("nodes.host.unet").load_unet
    return load_unet(canonical("unet", unet), CONFIG.unet, torch.float32)


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(8)
    return torch.randn(2, 1, 77, CONFIG.unet.cross_attention_dim, generator=generator)


@pytest.fixture
def sample(comfy, model, prompts):
    """SamplerCustom with this pack's sampler and schedule; returns the latent in diffusers' scale."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    def run(steps, latent, denoise=1.0, seed=3, mask=None, sampler=None):
        positive, negative = ([[cond, {}]] for cond in prompts)
        with torch.inference_mode():
            sigmas = comfy.node("SubjectSchedulePNDM").execute(model, steps, denoise)[0]
            sampler = sampler or comfy.node("SubjectSamplerPNDM").execute()[0]
            samples = {"samples": latent} if mask is None else {"samples": latent, "noise_mask": mask}
            result = SamplerCustom.execute(model, True, seed, GUIDANCE, positive, negative, sampler, sigmas, samples)
        return result[0]["samples"] * 0.18215

    return run


def published_scheduler(steps):
    """diffusers' scheduler as the release builds it."""
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, skip_prk_steps=True
    )
    scheduler.set_timesteps(steps)
    return scheduler


def published_loop(unet, prompts, scheduler, latent, timesteps=None):
    """The release's guided loop; the UNet is asked at every one of the scheduler's timesteps."""
    context = torch.cat([prompts[1], prompts[0]]).repeat_interleave(len(latent), 0)
    with torch.inference_mode():
        for t in scheduler.timesteps if timesteps is None else timesteps:
            without, with_prompt = unet(torch.cat([latent, latent]), t, context).sample.chunk(2)
            noise = without + GUIDANCE * (with_prompt - without)
            latent = scheduler.step(noise, t, latent).prev_sample
    return latent


def noise_of(shape, seed=3):
    return torch.randn(shape, generator=torch.manual_seed(seed))


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_sampler_equals_the_published_scheduler(sample, unet, prompts, steps):
    expected = published_loop(unet, prompts, published_scheduler(steps), noise_of((1, 4, 8, 8)))
    assert relative_error(sample(steps, torch.zeros(1, 4, 8, 8)), expected) < TOLERANCE


def test_a_batch_equals_the_published_scheduler(sample, unet, prompts):
    expected = published_loop(unet, prompts, published_scheduler(10), noise_of((3, 4, 8, 8)))
    assert relative_error(sample(10, torch.zeros(3, 4, 8, 8)), expected) < TOLERANCE


def test_schedule_has_the_published_timesteps(comfy, model):
    sigmas = comfy.node("SubjectSchedulePNDM").execute(model, 50)[0]
    table = model.get_model_object("model_sampling").sigmas
    assert torch.equal(sigmas, table[list(range(980, -1, -20))])
    part = comfy.node("SubjectSchedulePNDM").execute(model, 20, 0.4)[0]
    assert torch.equal(part, sigmas[-20:])
    assert comfy.node("SubjectSchedulePNDM").execute(model, 20, 0.0)[0].numel() == 0


def test_partial_denoising_starts_from_the_noised_picture(sample, unet, prompts):
    """The scheduler's own noising of a picture at timestep 500, then its steps from there with the second one twice."""
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    scheduler = published_scheduler(10)
    timesteps = torch.tensor([500, 400, 400, 300, 200, 100, 0])
    start = scheduler.add_noise(picture, noise_of(picture.shape), timesteps[:1])
    expected = published_loop(unet, prompts, scheduler, start, timesteps)
    assert relative_error(sample(6, picture / 0.18215, denoise=0.6), expected) < TOLERANCE


def test_other_samplers_of_the_host_differ(sample, unet, prompts):
    """The nearest sampler of the host on the same schedule is no replacement: its first and last steps differ."""
    from comfy.samplers import sampler_object

    expected = published_loop(unet, prompts, published_scheduler(10), noise_of((1, 4, 8, 8)))
    found = sample(10, torch.zeros(1, 4, 8, 8), sampler=sampler_object("ipndm"))
    assert relative_error(found, expected) > 10 * TOLERANCE


def test_a_mask_keeps_the_picture_outside(sample):
    picture = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    found = sample(8, picture / 0.18215, mask=mask)
    torch.testing.assert_close(found[..., :4], picture[..., :4], rtol=0, atol=1e-5)
    assert (found[..., 4:] - picture[..., 4:]).abs().max() > 0.1
