"""Attention maps recorded in the real host: the right columns at the right steps, and samples that never change."""

from dataclasses import replace

import pytest
import torch
from spied_attention import expected_maps, spied
from tiny_model import CONFIG, WIDTH, host_clip, host_unet, reference_modules

SIZE = (8, 12)  # of the latent
PIXELS = (64, 96)
STEPS = 4


@pytest.fixture(scope="module")
def parts():
    return reference_modules(CONFIG, seed=5)


@pytest.fixture(scope="module")
def clip(comfy, parts):
    return host_clip(comfy, parts["text_encoder"])


@pytest.fixture(scope="module")
def model(comfy, parts):
    return host_unet(comfy, parts["unet"])


@pytest.fixture(scope="module")
def make_subject(comfy):
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject

    def make(category="dog", count=1, seed=0):
        vectors = torch.randn(count, 16, WIDTH, generator=torch.Generator().manual_seed(seed))
        return Subject(vectors, category, "f", "a test")

    return make


@pytest.fixture
def prompt(comfy, clip):
    def run(subject, text="on the beach", **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectPromptInfix").execute(clip, subject, text, **inputs)[0]

    return run


@pytest.fixture
def record(comfy):
    def run(model, conditioning, tokens="subject", words="", layers="all", start=0.0, end=1.0, block=""):
        with torch.inference_mode():
            node = comfy.node("SubjectAttentionMaps")
            return node.execute(model, conditioning, tokens, words, layers, start, end, block)[0]

    return run


@pytest.fixture
def view(comfy):
    def run(model, samples, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectAttentionView").execute(model, samples, **inputs).result

    return run


@pytest.fixture
def sample(comfy, clip):
    def run(model, positive, cfg=3.0, count=1, sampler="euler", seed=4, negative=""):
        latent = {"samples": torch.zeros(count, 4, *SIZE)}
        with torch.inference_mode():
            negative = comfy.node("CLIPTextEncode")().encode(clip, negative)[0]
            return comfy.nodes.common_ksampler(model, seed, STEPS, cfg, sampler, "normal", positive, negative, latent)[
                0
            ]

    return run


def maps_of(comfy, model, samples, size=SIZE):
    recorder = model.get_attachment("blipdiffusion_attention_maps")
    return torch.cat([record.maps(size) for record in recorder.records_of(samples["samples"])])


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "ddim"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_recording_changes_no_bit_of_the_samples(model, prompt, make_subject, record, sample, sampler, cfg):
    positive = prompt(make_subject(count=2))
    expected = sample(model, positive, cfg, 2, sampler)["samples"]
    recording = record(model, positive, "each vector")
    assert torch.equal(sample(recording, positive, cfg, 2, sampler)["samples"], expected)
    assert "patches_replace" not in model.model_options["transformer_options"] and not model.wrappers


def test_maps_are_the_probabilities_of_the_chosen_columns(comfy, model, prompt, make_subject, record, sample):
    positive = prompt(make_subject(count=2))
    spy, seen = spied(comfy, model)
    recording = record(spy, positive)
    samples = sample(recording, positive, count=2)
    found = maps_of(comfy, recording, samples)
    # the released template has the vectors at position 2, behind the start token and "a"
    torch.testing.assert_close(found, expected_maps(seen, range(2, 18), SIZE), rtol=1e-4, atol=1e-7)


def test_words_are_their_columns(comfy, model, prompt, make_subject, record, sample):
    positive = prompt(make_subject(), prompt_reps=2)  # a [16] dog on the beach, a dog on the beach
    spy, seen = spied(comfy, model)
    recording = record(spy, positive, "chosen words", "dog, beach")
    samples = sample(recording, positive)
    found = maps_of(comfy, recording, samples)
    torch.testing.assert_close(found[:, :1], expected_maps(seen, (18, 24), SIZE), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found[:, 1:], expected_maps(seen, (21, 27), SIZE), rtol=1e-4, atol=1e-7)


def test_only_the_chosen_layers_and_steps(comfy, model, prompt, make_subject, record, sample):
    positive = prompt(make_subject())
    spy, seen = spied(comfy, model)
    late = record(spy, positive, start=0.5)
    fine = record(late, positive, layers="level 1")
    block = record(fine, positive, layers="one block", block="middle 0")
    samples = sample(block, positive)
    half = seen[len(seen) // 2 :]  # every evaluation goes through every layer
    for model, keep in (
        (late, lambda call: any(call is each for each, *_ in half)),
        (fine, lambda call: call.size == SIZE),
        (block, lambda call: call.block == ("middle", 0)),
    ):
        expected = expected_maps(seen, range(2, 18), SIZE, keep)
        torch.testing.assert_close(maps_of(comfy, model, samples), expected, rtol=1e-4, atol=1e-7)


def test_one_chunk_at_a_time_and_repeated_prompts(comfy, model, prompt, make_subject, record, sample, monkeypatch):
    positive = prompt(make_subject())
    recording = record(model, positive)
    for negative in ("", "blurry " * 100):  # of one row and of two
        together = maps_of(comfy, recording, sample(recording, positive, negative=negative))
        with monkeypatch.context() as patched:
            patched.setattr(model.model, "memory_required", lambda *a, **k: 1e20)
            alone = maps_of(comfy, recording, sample(recording, positive, negative=negative))
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-7)


def test_two_samplers_on_one_model_keep_their_own_records(comfy, model, prompt, make_subject, record, sample, view):
    positive = prompt(make_subject())
    recording = record(model, positive)
    first, second = sample(recording, positive, seed=1), sample(recording, positive, seed=2)
    a, b = view(recording, first)[1], view(recording, second)[1]
    assert not torch.equal(a, b) and torch.equal(view(recording, first)[1], a)
    later = [sample(recording, positive, seed=seed) for seed in (3, 4, 5)]
    assert torch.equal(view(recording, second)[1], b) and len(later) == 3


def test_the_view_has_overlays_mask_and_sheet(model, prompt, make_subject, record, sample, view):
    positive = prompt(make_subject(count=2))
    recording = record(model, positive, "chosen words", "subject, dog, beach")
    samples = sample(recording, positive, count=2)
    picture = torch.rand(2, *PIXELS, 3)
    overlays, mask, sheet = view(recording, samples, image=picture)
    assert overlays.shape == (6, *PIXELS, 3) and mask.shape == (2, *PIXELS) and sheet.shape[-1] == 3
    assert mask.amin(dim=(1, 2)).tolist() == [0, 0] and mask.amax(dim=(1, 2)).tolist() == [1, 1]
    clear = view(recording, samples, image=picture, opacity=0.0)[0]
    assert torch.equal(clear, picture.repeat_interleave(3, dim=0))
    assert view(recording, samples)[0].shape == (6, *PIXELS, 3)
    assert view(recording, samples, image=torch.rand(1, 32, 48, 4))[0].shape == (6, 32, 48, 3)
    grey = torch.rand(1, 32, 48, 1)
    clear = view(recording, samples, image=grey, opacity=0.0)[0]
    assert torch.equal(clear, grey.expand(6, -1, -1, 3))


def test_a_scene_shows_each_subject_in_its_region(comfy, clip, model, make_subject, record, sample):
    left = torch.zeros(1, *PIXELS)
    left[..., : PIXELS[1] // 2] = 1
    inputs = {"mask_a": left, "mask_b": 1 - left, "model": model, "soft_edge": 0}
    subjects = make_subject("dog", seed=1), make_subject("ball", seed=2)
    with torch.inference_mode():
        positive, patched = comfy.node("SubjectScene").execute(clip, "a {dog} and a {ball}", *subjects, **inputs).result
    recording = record(patched, positive, layers="level 1")
    found = maps_of(comfy, recording, sample(recording, positive))
    assert found.shape[1] == 2
    half = SIZE[1] // 2
    assert not found[:, 0, :, half:].any() and not found[:, 1, :, :half].any()
    assert (found[:, 0, :, :half] > 0).all() and (found[:, 1, :, half:] > 0).all()


def test_bad_input(comfy, clip, model, prompt, make_subject, record, sample, view, subject_error):
    positive = prompt(make_subject())
    with torch.inference_mode():
        plain = comfy.node("CLIPTextEncode")().encode(clip, "a dog")[0]
    for sentence, conditioning, inputs in (
        ("does not say which words", plain, {}),
        ("no 'cat'. Its words are: subject, a, dog, on, the, beach", positive,
         {"tokens": "chosen words", "words": "cat"}),
        ("no steps to record", positive, {"start": 0.7, "end": 0.2}),
        ("3 levels only", positive, {"layers": "level 4"}),
        ("no attention in block ''", positive, {"layers": "one block"}),
        ("no subject in it", prompt(make_subject(), subject_strength=0.0), {}),
    ):  # fmt: skip
        with pytest.raises(subject_error, match=sentence):
            record(model, conditioning, **inputs)
    samples = sample(model, positive, seed=77)  # recorded by no other test
    with pytest.raises(subject_error, match="does not record"):
        view(model, samples)
    recording = record(model, positive)
    with pytest.raises(subject_error, match="no record of these samples"):
        view(recording, samples)
    for other in (plain, prompt(make_subject(), "in the snow")):
        with pytest.raises(subject_error, match="Nothing was recorded"):
            view(recording, sample(recording, other))
    with pytest.raises(subject_error, match="3 images for 1 samples"):
        view(recording, sample(recording, positive), image=torch.rand(3, 64, 96, 3))
    with pytest.raises(subject_error, match="The image has the shape .*, 2.*RGB"):
        view(recording, sample(recording, positive), image=torch.rand(1, 64, 96, 2))
    with pytest.raises(subject_error, match="no words in it"):
        record(model, prompt(make_subject(), " [ Subject ] "), "each word")


def test_a_model_of_another_family_is_refused(comfy, prompt, make_subject, record, subject_error):
    config = replace(CONFIG, unet=replace(CONFIG.unet, cross_attention_dim=48))
    unet = reference_modules(config, seed=1)["unet"]
    other = host_unet(comfy, unet, config)
    with pytest.raises(subject_error, match="width 48.*width 64"):
        record(other, prompt(make_subject()))
