"""A subject in a part of the run, in the real host: which entry it takes at which sigma, and what samplers make of it.

Where the host is compared with itself the result must be the same to the bit.
"""

import pytest
import torch
from tiny_model import CONFIG, WIDTH, host_clip, host_unet, reference_modules

STEPS = 8


@pytest.fixture(scope="module")
def scheduled(comfy):
    return comfy.module("nodes.host.blip_diffusion.schedule")


@pytest.fixture(scope="module")
def modules():
    return reference_modules(CONFIG, seed=5)


@pytest.fixture(scope="module")
def clip(comfy, modules):
    return host_clip(comfy, modules["text_encoder"])


@pytest.fixture(scope="module")
def model(comfy, modules):
    return host_unet(comfy, modules["unet"])


@pytest.fixture(scope="module")
def subject(comfy):
    vectors = torch.randn(2, 16, WIDTH, generator=torch.Generator().manual_seed(1))
    return comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(vectors, "dog", "f", "a test")


@pytest.fixture
def prompt(comfy, clip, subject):
    """SubjectPromptSchedule."""

    def run(text="in the snow", **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectPromptSchedule").execute(clip, subject, text, **inputs)[0]

    return run


@pytest.fixture
def infix(comfy, clip, subject):
    def run(text="in the snow", **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectPromptInfix").execute(clip, subject, text, **inputs)[0]

    return run


@pytest.fixture
def sample(comfy, clip, model):
    def run(positive, scheduler="normal", sampler="euler"):
        latent = {"samples": torch.zeros(2, 4, 8, 8)}
        with torch.inference_mode():
            negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
            arguments = (4, STEPS, 3.0, sampler, scheduler, positive, negative, latent)
            return comfy.nodes.common_ksampler(model, *arguments)[0]["samples"]

    return run


def active(model, entries, sigmas):
    """For each sigma the numbers of the entries that the host takes there, by its own conversion and test."""
    from comfy.samplers import calculate_start_end_timesteps, get_area_and_mult

    conds = [{"model_conds": {}, "uuid": number, **options} for number, (_, options) in enumerate(entries)]
    calculate_start_end_timesteps(model.model, conds)
    x = torch.zeros(1, 4, 8, 8)
    return [
        [number for number, cond in enumerate(conds) if get_area_and_mult(cond, x, sigma) is not None]
        for sigma in sigmas.reshape(-1, 1)
    ]


RANGES = [(0, 1, 2), (0.2, 0.8, 8), (1 / 3, 2 / 3, 3), (0.25, 1, 5), (0, 0.5, 100), (0.5, 0.501, 8), (0.999, 1, 2)]


@pytest.mark.parametrize(("start", "end", "levels"), RANGES)
def test_at_every_sigma_there_is_exactly_one_entry(model, prompt, start, end, levels):
    entries = prompt(start=start, end=end, strength_start=0.25, strength_end=1.5, levels=levels)
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.cat([sampling.sigmas, sampling.sigma(torch.linspace(0, 999, 4001)), sampling.sigmas[-1:] * 1.5])
    found = active(model, entries, sigmas.sort(descending=True).values)
    assert {len(numbers) for numbers in found} == {1}
    order = [numbers[0] for numbers in found]
    assert order == sorted(order)


def test_the_strength_rises_evenly_inside_the_range_and_is_none_outside(scheduled):
    parts = scheduled.plan(0.2, 0.8, 0.5, 1.5, 3)
    assert [part.strength for part in parts] == [0, 0.5, 1.0, 1.5, 0]
    assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert parts[0].start == 0 and parts[-1].end == 1
    expected = [0.2, 0.4, 0.6, 0.8]
    assert all(abs(part.end - share) < 1e-3 for part, share in zip(parts, expected, strict=False))


def test_neighbours_of_one_strength_are_one_part(scheduled):
    assert [part.strength for part in scheduled.plan(0.2, 0.8, 1, 1, 8)] == [0, 1, 0]
    assert [part.strength for part in scheduled.plan(0.2, 0.8, 0, 1, 2)] == [0, 1, 0]
    assert scheduled.plan(0, 1, 0, 0, 8) == [scheduled.Part(0.0, 1.0, 0.0)]


def test_all_of_the_run_at_full_strength_is_the_subject_prompt(prompt, infix, sample):
    ours, expected = prompt(), infix()
    assert torch.equal(ours[0][0], expected[0][0]) and len(ours) == 1
    assert not {"start_percent", "end_percent"} & ours[0][1].keys()
    assert torch.equal(sample(ours), sample(expected))


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_a_constant_strength_is_that_of_the_subject_prompt(prompt, infix, strength):
    ours = prompt(strength_start=strength, strength_end=strength)
    assert torch.equal(ours[0][0], infix(subject_strength=strength)[0][0])


def test_no_strength_is_the_plain_prompt(comfy, clip, prompt, sample):
    plain = comfy.node("CLIPTextEncode")().encode(clip, "a dog in the snow")[0]
    ours = prompt(strength_start=0, strength_end=0, prompt_reps=1)
    assert torch.equal(ours[0][0], plain[0][0])
    assert torch.equal(sample(ours), sample(plain))


@pytest.mark.parametrize("scheduler", ["normal", "karras", "ddim_uniform"])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_parts_of_equal_prompts_are_the_whole_run(prompt, infix, sample, scheduler, sampler):
    """The full-strength prompt cut into parts by hand: any gap would show, since nothing acts in it."""
    entries = prompt(strength_start=0.3, strength_end=1.0, levels=6)
    full = infix()
    cut = [[full[0][0], options] for _, options in entries]
    assert len(cut) == 6
    assert torch.equal(sample(cut, scheduler, sampler), sample(full, scheduler, sampler))


def test_a_late_subject_leaves_the_first_steps_alone(comfy, clip, model, prompt, infix):
    """The latents of a run with the subject in its second half are those of the plain prompt up to there."""
    from comfy.sample import sample_custom
    from comfy.samplers import calculate_sigmas, sampler_object

    def latents(positive):
        seen = []
        with torch.inference_mode():
            noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
            sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
            sample_custom(
                model, noise, 2.0, sampler_object("euler"), sigmas, positive,
                comfy.node("CLIPTextEncode")().encode(clip, "")[0], torch.zeros_like(noise), seed=0,
                callback=lambda step, x0, x, total: seen.append(x0.clone()),
            )  # fmt: skip
        return seen

    late, plain, full = latents(prompt(start=0.5)), latents(infix(subject_strength=0)), latents(infix())
    same = [torch.equal(a, b) for a, b in zip(late, plain, strict=True)]
    assert same == [True] * (STEPS // 2) + [False] * (STEPS // 2)
    assert not torch.equal(late[-1], full[-1])


def test_a_prompt_longer_than_one_row(prompt, infix):
    """The subject adds a row of 77 to the long text; between them both have the longer one's length."""
    text = "in the snow with many words " * 12
    entries = prompt(text, strength_start=0.0, strength_end=1.0, levels=3, template="paper")
    for (vectors, _), strength in zip(entries, (0.0, 0.5, 1.0), strict=True):
        assert torch.equal(vectors, infix(text, subject_strength=strength, template="paper")[0][0])


def test_scheduled_hooks_on_the_clip_keep_their_ranges(comfy, clip, subject, scheduled, prompt):
    from comfy.hooks import HookGroup, HookKeyframe, HookKeyframeGroup, WeightHook

    hooked, hook = clip.clone(), HookGroup()
    hook.add(WeightHook(strength_model=1.0, strength_clip=1.0))
    keyframes = HookKeyframeGroup()
    keyframes.add(HookKeyframe(strength=0.5, start_percent=0.0))
    keyframes.add(HookKeyframe(strength=1.0, start_percent=0.6))
    hook.set_keyframes_on_hooks(hook_kf=keyframes)
    hooked.apply_hooks_to_conds = hook
    hooked.patcher.forced_hooks = hook
    hooked.use_clip_schedule = True
    with torch.inference_mode():
        entries = comfy.node("SubjectPromptSchedule").execute(hooked, subject, "in the snow", start=0.5)[0]
    assert [(o["clip_start_percent"], o["start_percent"] > 0) for _, o in entries] == [
        (0.0, False), (0.6, False), (0.0, True), (0.6, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"start": 0.6, "end": 0.4}, "from 0.6 to 0.4"),
        ({"start": 0.5, "end": 0.5}, "from 0.5 to 0.5"),
        ({"start": -0.1}, "start = -0.1"),
        ({"end": 1.1}, "end = 1.1"),
        ({"end": float("nan")}, "end = nan"),
        ({"strength_end": float("nan")}, "strength_end = nan"),
        ({"levels": 1}, "levels = 1 "),
        ({"levels": 100_000}, "levels = 100000"),
    ],
)
def test_a_range_that_is_none_is_refused(prompt, subject_error, inputs, words):
    with pytest.raises(subject_error, match=words):
        prompt(**inputs)


def test_without_words_the_subject_stands_alone(prompt, infix):
    [(scheduled, _)], [(whole, _)] = prompt(text=" "), infix(text=" ")
    assert torch.equal(scheduled, whole) and not torch.equal(whole, infix(text="in the snow")[0][0])


def test_the_form_is_that_of_the_subject_prompt(comfy):
    ours = [item.id for item in comfy.node("SubjectPromptSchedule").define_schema().inputs]
    theirs = [item.id for item in comfy.node("SubjectPromptInfix").define_schema().inputs]
    assert ours[: len(theirs) - 1] == [name for name in theirs if name != "subject_strength"]
