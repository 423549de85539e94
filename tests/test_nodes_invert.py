"""Invert Picture in the real host: what comes back from the noise, and what an edit does with the way back.

Random weights predict noise that hardly depends on the latent, so they invert well by any method; the built-in model is
where the methods differ. It also says how well a picture may come back at all: as well as its VAE gives it.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blipdiff_impl.toy_world.render import render_picture
from blipdiff_impl.toy_world.world import HELD_OUT_SEED, subject_from_seed

STEPS = 12
PROMPT = "in the snow"


@pytest.fixture(scope="module")
def loaded(comfy):
    with torch.inference_mode():
        parts = comfy.node("SubjectModelLoader").execute("toybox (built in, toy world only)", "fp32").result
    return SimpleNamespace(model=parts[0], clip=parts[1], vae=parts[2])


@pytest.fixture(scope="module")
def picture():
    drawn = render_picture(subject_from_seed(HELD_OUT_SEED + 21, "cat"), "snow", np.random.default_rng(21)).picture
    return torch.from_numpy(drawn.copy())[None].float() / 255


@pytest.fixture(scope="module")
def clean(loaded, picture):
    with torch.inference_mode():
        return loaded.vae.encode(picture)


@pytest.fixture(scope="module")
def invert(comfy, loaded):
    """Invert Picture as a function; returns the LATENT."""

    def run(samples, category="cat", prompt=PROMPT, steps=STEPS, model=None, **more):
        latent = samples if isinstance(samples, dict) else {"samples": samples}
        node = comfy.node("SubjectInvert")
        with torch.inference_mode():
            return node.execute(model or loaded.model, loaded.clip, latent, category, prompt, steps, **more)[0]

    return run


@pytest.fixture(scope="module")
def inverted(invert, clean):
    return invert(clean)


@pytest.fixture(scope="module")
def regenerate(comfy, loaded):
    """The latent that comes back from a noise, without guidance."""

    def run(latent):
        with torch.inference_mode():
            positive = loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize(f"a cat {PROMPT}"))
            return comfy.nodes.common_ksampler(
                loaded.model, 0, STEPS, 1.0, "euler", "normal", positive, positive, {"samples": latent["samples"]},
                disable_noise=True,
            )[0]["samples"]  # fmt: skip

    return run


@pytest.fixture(scope="module")
def edit(comfy, loaded):
    """Edit with Subject and KSampler on an inverted picture; returns MODEL and samples."""

    def run(latent, sampler="euler", steps=STEPS, scheduler="normal", denoise=1.0, **settings):
        with torch.inference_mode():
            model, positive, negative, pairs = comfy.node("SubjectP2PEdit").execute(
                loaded.model, loaded.clip, latent, "cat", "mug", PROMPT, "", 0.8, 0.4, 0.4, **settings
            ).result  # fmt: skip
            samples = comfy.nodes.common_ksampler(
                model, 5, steps, 4.0, sampler, scheduler, positive, negative, pairs, denoise=denoise
            )[0]["samples"]
        return model, samples

    return run


def distance(a, b):
    return float((a - b).square().mean().sqrt())


def test_the_picture_comes_back_and_better_by_fixed_point(invert, regenerate, clean, inverted):
    by_ddim = distance(regenerate(invert(clean, method="DDIM")), clean)
    by_fixed_point = distance(regenerate(inverted), clean)
    assert by_fixed_point < by_ddim / 3
    assert by_fixed_point < 0.05 * float(clean.std())


def test_more_iterations_come_closer(invert, regenerate, clean):
    once, often = (distance(regenerate(invert(clean, iterations=count)), clean) for count in (1, 8))
    assert often < once


def test_the_noise_is_noise_and_always_the_same(invert, clean, inverted):
    again = invert(clean)
    assert torch.equal(again["samples"], inverted["samples"])
    start = inverted["blipdiffusion_inversion"].states[0]
    assert 0.7 < float(start.std()) / float(inverted["blipdiffusion_inversion"].sigmas[0]) < 1.3


def test_the_way_back_ends_at_the_picture(inverted, clean):
    way = inverted["blipdiffusion_inversion"]
    assert way.states.shape == (STEPS + 1, 1, 4, 12, 12) and way.sigmas[-1] == 0
    assert torch.equal(way.clean, clean) and way.prompt == f"a cat {PROMPT}"
    assert torch.equal(way.at(0.0), way.states[-1])
    for index in (0, 3, STEPS):
        assert torch.allclose(way.at(float(way.sigmas[index])), way.states[index])
    middle = float(way.sigmas[3] + way.sigmas[4]) / 2
    assert torch.allclose(way.at(middle), (way.states[3] + way.states[4]) / 2, atol=1e-4)
    assert torch.equal(way.at(1e9), way.states[0])


@pytest.mark.parametrize("sampler", ["euler", "ddim", "heun", "dpmpp_2m", "dpmpp_sde", "euler_ancestral", "uni_pc"])
def test_the_source_branch_ends_exactly_at_the_picture(edit, inverted, clean, sampler):
    _, samples = edit(inverted, sampler)
    # In units of a latent whose spread is 1 / 0.18215; what is left is the rounding of the last step.
    assert (samples[0] - clean[0]).abs().max() < 1e-3
    assert not torch.allclose(samples[1], clean[0], atol=0.5)


def test_the_ground_of_the_edit_is_the_pictures_own(comfy, edit, inverted, clean, loaded, picture):
    model, samples = edit(inverted)
    with torch.inference_mode():
        result = comfy.node("SubjectEditResult").execute(model, {"samples": samples}, loaded.vae, picture).result
    outside = result[2] <= 0
    assert 0.05 < outside.float().mean() < 0.8
    assert torch.equal(result[3][outside], picture[outside])
    cells = outside[:, ::8, ::8][:, None].expand_as(clean)
    assert (result[1]["samples"] - clean)[cells].abs().max() < 1e-3


def test_noise_of_the_sampler_plays_no_part(edit, inverted):
    first, second = (edit(inverted)[1] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "changed", [{"steps": STEPS + 1}, {"scheduler": "karras"}, {"denoise": 0.5}], ids=lambda value: next(iter(value))
)
def test_other_noise_levels_are_refused(edit, inverted, subject_error, changed):
    with pytest.raises(subject_error, match=f"Set steps {STEPS}, scheduler 'normal' and denoise 1"):
        edit(inverted, **changed)


def test_another_scheduler_and_what_else_a_latent_holds(invert, edit, clean):
    latent = invert({"samples": clean, "kept": 3}, scheduler="karras")
    assert latent["kept"] == 3
    assert torch.isfinite(edit(latent, scheduler="karras")[1]).all()


def test_a_batch_is_inverted_item_by_item(invert, clean, inverted):
    both = invert(torch.cat([clean, clean.flip(-1)]))["samples"]
    # Items of a batch differ from single ones by rounding, which inversion amplifies.
    assert distance(both[:1], inverted["samples"]) < 1e-2 * float(both.std())


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (torch.zeros(1, 4, 12, 12), "latent is empty"),
        (torch.zeros(0, 4, 12, 12), "shape"),
        (torch.zeros(4, 12, 12), "shape"),
        (torch.ones(1, 16, 12, 12), "shape"),
        (torch.full((1, 4, 12, 12), float("inf")), "NaN or infinite"),
    ],
    ids=["empty", "none", "three sides", "channels", "infinite"],
)
def test_what_cannot_be_inverted_is_said(invert, subject_error, samples, said):
    with pytest.raises(subject_error, match=said):
        invert(samples)


def test_an_empty_category_and_another_model_are_refused(invert, subject_error, clean):
    with pytest.raises(subject_error, match="category is empty"):
        invert(clean, category="")

    class Other:
        model = type("Flux", (), {"diffusion_model": torch.nn.Linear(1, 1)})()
        get_model_object = None  # by which a MODEL is known

    with pytest.raises(subject_error, match="no UNet with cross-attention"):
        invert(clean, model=Other())


def test_a_cancel_leaves_the_host_usable(invert, clean, loaded, inverted):
    model = loaded.model.clone()
    evaluations = []

    def cancel(apply_model, arguments):
        evaluations.append(1)
        if len(evaluations) == 5:
            raise KeyboardInterrupt
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(cancel)
    with pytest.raises(KeyboardInterrupt):
        invert(clean, model=model)
    assert len(evaluations) == 5
    assert torch.equal(invert(clean)["samples"], inverted["samples"])


def test_a_marker_that_passes_as_words_is_pointed_out(invert, clean, on_node):
    invert(clean, prompt="{subject} in the snow", steps=1)
    assert len(on_node) == 1 and on_node[0].startswith("{subject} in the prompt is read as words.")
