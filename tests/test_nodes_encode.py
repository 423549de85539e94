"""SubjectEncoder on the real host: what it gives, how the host may treat its network, and what it must refuse."""

import pytest
import torch
from tiny_model import CONFIG, WIDTH

SIDE = CONFIG.image_tower.image_size


@pytest.fixture(scope="module")
def encoder(load_tiny):
    return load_tiny(seed=21).encoder


@pytest.fixture
def encode(comfy, encoder):
    """The node as a function: returns the NodeOutput."""
    node = comfy.node("SubjectEncoder")

    def run(images, category="dog", **inputs):
        with torch.inference_mode():
            # The host runs nodes as a clone of the class that carries what is hidden from the artist.
            return node.PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(encoder, images, category, **inputs)

    return run


def photos(count=1, height=40, width=64, channels=3, seed=0):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


def test_a_photo_becomes_a_subject_and_is_shown(encode):
    result = encode(photos())
    subject, seen = result.result
    assert subject.embeddings.shape == (1, 16, WIDTH) and subject.embeddings.dtype == torch.float32
    assert subject.category == "dog"
    assert seen.shape == (1, SIDE, SIDE, 3) and seen.min() >= 0 and seen.max() <= 1
    (shown,) = result.ui.as_dict()["images"]
    assert shown["type"] == "temp"


def test_several_photos_give_their_mean(encode):
    batch = photos(3)
    singles = [encode(batch[i : i + 1])[0].embeddings for i in range(3)]
    subject, seen = encode(batch).result
    torch.testing.assert_close(subject.embeddings, torch.stack(singles).mean(0), rtol=0, atol=1e-6)
    assert seen.shape == (3, SIDE, SIDE, 3)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_fit_changes_what_is_seen(encode, fit):
    left_red = torch.zeros(1, 32, 96, 3)
    left_red[:, :, :24, 0] = 1
    seen = encode(left_red, fit=fit)[1][0, SIDE // 2]
    red = seen[:, 0] > 0.9
    assert {"crop": red.sum() == 0, "pad": SIDE // 5 < red.sum() < SIDE // 3, "squash": red.sum() >= SIDE // 5}[fit]


def test_a_mask_hides_what_is_outside(encode):
    mask = torch.zeros(1, 40, 64)
    mask[:, 10:30, 20:40] = 1
    one, other = photos(seed=1), photos(seed=2)
    other[:, 10:30, 20:40] = one[:, 10:30, 20:40]
    assert torch.equal(encode(one, masks=mask)[0].embeddings, encode(other, masks=mask)[0].embeddings)
    assert not torch.equal(encode(one)[0].embeddings, encode(other)[0].embeddings)


def test_transparency_counts_as_a_mask(encode):
    photo, mask = photos(), torch.zeros(1, 40, 64)
    mask[:, :, 16:48] = 1
    rgba = torch.cat([photo, mask[..., None]], -1)
    assert torch.equal(encode(rgba)[0].embeddings, encode(photo, masks=mask)[0].embeddings)


def test_greyscale_is_read_as_colour(encode):
    grey = photos(channels=1)
    assert torch.equal(encode(grey)[0].embeddings, encode(grey.expand(-1, -1, -1, 3))[0].embeddings)


def test_half_precision_pictures_work(encode):
    """The host passes 16-bit pictures when it is started with --fp16-intermediates."""
    assert torch.isfinite(encode(photos().half())[0].embeddings).all()


@pytest.mark.parametrize(
    "images, inputs, sentence",
    [
        (photos(), {"category": ""}, "category is empty"),
        (photos(), {"category": " \n"}, "category is empty"),
        (photos(0), {}, "0 photos|no photo"),
        (photos(200, 8, 8), {}, "200"),
        (photos().masked_fill(photos() > 0.99, float("nan")), {}, "NaN"),
        (photos(), {"masks": torch.ones(1, 20, 64)}, r"20.*40|64 ?x ?20.*64 ?x ?40"),
        (photos(3), {"masks": torch.ones(2, 40, 64)}, "2 masks.*3 photos|3 photos.*2 masks"),
        (photos(), {"fit": "stretch"}, "stretch"),
        (photos(channels=2), {}, "2 channels"),
        (photos(height=1, width=1), {}, "1x1 pixels, too small"),
        (photos(height=10_000, width=16), {}, "16x10000 pixels, more than"),
    ],
    ids=[
        "no category",
        "spaces",
        "0 photos",
        "200 photos",
        "NaN",
        "mask size",
        "mask count",
        "fit",
        "2 channels",
        "1 pixel",
        "10,000 pixels",
    ],
)
def test_bad_input_is_refused_with_a_sentence(encode, subject_error, images, inputs, sentence):
    with pytest.raises(subject_error, match=sentence):
        encode(images, **inputs)
    assert torch.isfinite(encode(photos())[0].embeddings).all()  # the next one runs


def test_the_host_may_unload_the_network(comfy, encode, encoder):
    before = encode(photos(seed=3))[0].embeddings
    comfy.model_management.unload_all_models()
    assert not any(m.model is encoder.patcher for m in comfy.model_management.current_loaded_models)
    encoder.encoder._vectors._entries.clear()
    assert torch.equal(encode(photos(seed=3))[0].embeddings, before)
    assert any(m.model is encoder.patcher for m in comfy.model_management.current_loaded_models)
    weights = encoder.encoder.module.parameters()
    assert encoder.patcher.model_size() == sum(p.numel() * p.element_size() for p in weights)


def test_the_bar_advances_photo_by_photo(comfy, encode, monkeypatch):
    seen = []

    def hook(done, total, preview, **more):
        seen.append((done, total))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    encode(photos(3, seed=4))
    assert seen[0] == (0, 3) and seen[-1] == (3, 3)


def test_a_stopped_prompt_stops_between_photos(comfy, encode, encoder, monkeypatch):
    run = []
    forward = encoder.encoder._forward

    def forward_then_stop(*inputs):
        run.append(1)
        comfy.model_management.interrupt_current_processing(True)
        return forward(*inputs)

    monkeypatch.setattr(encoder.encoder, "_forward", forward_then_stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encode(photos(4, seed=6))
    assert len(run) == 1
    monkeypatch.undo()
    assert encode(photos(4, seed=6))[0].embeddings.shape == (1, 16, WIDTH)
