"""Blend Subjects and its contact sheet in the real host: what batch comes out, that it samples with shared noise, and
what is refused.

One batch and single runs are the same sums in another order: 1e-4 of the largest value after 3 steps.
"""

import pytest
import torch
from tiny_model import CONFIG, WIDTH, host_clip, host_unet, reference_modules

BATCHED = 1e-4


@pytest.fixture(scope="module")
def make_subject(comfy):
    Subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject

    def make(seed, category="dog", fingerprint="f", count=1, width=WIDTH):
        vectors = torch.randn(count, 16, width, generator=torch.Generator().manual_seed(seed))
        return Subject(vectors, category, fingerprint, "a test")

    return make


@pytest.fixture(scope="module")
def subjects(make_subject):
    return [make_subject(seed) for seed in range(4)]


@pytest.fixture
def blend(comfy):
    """SubjectInterpolate: SUBJECT, count, labels."""

    def run(a, b, c=None, d=None, **inputs):
        connected = {name: value for name, value in (("subject_c", c), ("subject_d", d)) if value is not None}
        with torch.inference_mode():
            return comfy.node("SubjectInterpolate").execute(a, b, **connected, **inputs).result

    return run


@pytest.fixture
def sheet(comfy):
    def run(images, **inputs):
        with torch.inference_mode():
            return comfy.node("SubjectContactSheet").execute(images, **inputs)[0]

    return run


@pytest.fixture(scope="module")
def modules():
    return reference_modules(CONFIG, seed=5)


@pytest.fixture(scope="module")
def clip(comfy, modules):
    return host_clip(comfy, modules["text_encoder"])


@pytest.fixture(scope="module")
def model(comfy, modules):
    return host_unet(comfy, modules["unet"])


@pytest.mark.parametrize("mode", ["lerp", "slerp"])
def test_a_strip_with_its_size_and_labels(blend, subjects, mode):
    strip, count, labels = blend(*subjects[:2], mode=mode, columns=5, rows=7)
    assert len(strip) == count == 5
    assert torch.allclose(strip.embeddings[[0, -1]], torch.cat([s.embeddings for s in subjects[:2]]), atol=1e-5)
    assert labels.splitlines() == ["A", "A 75 B 25", "A 50 B 50", "A 25 B 75", "B"]


def test_a_grid_is_what_its_labels_say(blend, subjects):
    grid, count, labels = blend(*subjects, columns=3, rows=2)
    assert len(grid) == count == 6
    corners = dict(zip("ABCD", (s.embeddings[0] for s in subjects), strict=True))
    for vectors, label in zip(grid.embeddings, labels.splitlines(), strict=True):
        words = label.split() if " " in label else [label, "100"]
        said = sum(int(percent) / 100 * corners[name] for name, percent in zip(words[::2], words[1::2], strict=True))
        assert torch.allclose(vectors, said, atol=1e-5)
    assert labels.splitlines()[0] == "A" and labels.splitlines()[-1] == "D"


def test_a_strip_may_go_beyond_its_ends(blend, subjects):
    a, b = (s.embeddings[0] for s in subjects[:2])
    strip, _, labels = blend(*subjects[:2], columns=3, first=-0.5, last=1.5)
    assert torch.allclose(strip.embeddings, torch.stack([1.5 * a - 0.5 * b, (a + b) / 2, 1.5 * b - 0.5 * a]), atol=1e-5)
    assert labels.splitlines() == ["A 150 B -50", "A 50 B 50", "A -50 B 150"]


def test_a_grid_may_go_beyond_its_corners(blend, subjects):
    a, b, c, d = (s.embeddings[0] for s in subjects)
    grid, _, _ = blend(*subjects, columns=2, rows=2, first=0, last=2)
    assert torch.allclose(grid.embeddings[3], a - 2 * b - 2 * c + 4 * d, atol=1e-4)


@pytest.mark.parametrize("weights", ["0.7, 0.3", "7 3", "7;3", " 1.4,0.6 "])
def test_weights_are_divided_by_their_sum(blend, subjects, weights):
    one, count, labels = blend(*subjects[:2], weights=weights, columns=9)
    assert count == 1 and labels == "A 70 B 30"
    assert torch.allclose(one.embeddings[0], 0.7 * subjects[0].embeddings[0] + 0.3 * subjects[1].embeddings[0])


def test_three_and_four_subjects_by_weights(blend, subjects):
    three = blend(*subjects[:3], weights="1, 1, 2")[0]
    assert torch.allclose(
        three.embeddings, (subjects[0].embeddings + subjects[1].embeddings) / 4 + subjects[2].embeddings / 2
    )
    assert blend(*subjects, weights="0 0 0 5")[2] == "D"


def test_an_input_left_out_counts_as_not_there(blend, subjects):
    a, b, c = subjects[:3]
    assert torch.equal(
        blend(a, b, d=c, weights="1, 1, 2")[0].embeddings, blend(a, b, c, weights="1, 1, 2")[0].embeddings
    )


@pytest.mark.parametrize("vary", [True, False], ids=["shared noise", "each its own"])
def test_a_grid_samples_in_one_batch_as_its_places_do_alone(comfy, blend, subjects, clip, model, vary):
    """With the host's own nodes: LatentBatchSeedBehavior 'fixed' gives every item the first one's noise."""
    import comfy_extras.nodes_post_processing  # noqa: F401 -- the two import each other; only this order works
    from comfy_extras.nodes_latent import LatentBatchSeedBehavior

    def encode(subject):
        return comfy.node("SubjectPromptInfix").execute(clip, subject, "in the snow")[0]

    def sample(positive, latent):
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        settings = (3, 3, 3.0, "euler", "normal", positive, negative, latent)
        return comfy.nodes.common_ksampler(model, *settings)[0]["samples"]

    with torch.inference_mode():
        grid, count, _ = blend(*subjects, columns=2, rows=2)
        latent = comfy.node("EmptyLatentImage")().generate(64, 64, count)[0]
        latent = LatentBatchSeedBehavior.execute(latent, "fixed" if vary else "random")[0]
        together = sample(encode(grid), latent)
        for index, vectors in enumerate(grid.embeddings):
            alone = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [0 if vary else index]}
            expected = sample(encode(type(grid)(vectors[None], "dog", "f")), alone)
            assert (together[index] - expected[0]).abs().max() < BATCHED * expected.abs().max()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"weights": "0, 0"}, "sum to 0"),
        ({"weights": "1, -1"}, "sum to 0"),
        ({"weights": "1"}, "1 weights for 2 subjects"),
        ({"weights": "1, 2, 3"}, "3 weights for 2 subjects"),
        ({"weights": "a lot, a little"}, "'a lot, a little' are not numbers"),
        ({"weights": "1, nan"}, "not numbers"),
        ({"weights": "inf, 1"}, "not numbers"),
        ({"weights": ", ,"}, "not numbers"),
        ({"columns": 1}, "columns = 1"),
        ({"columns": 100_000}, "columns = 100000 .* to 256"),
        ({"first": 1.0, "last": 1.0}, "from 1 to 1"),
        ({"first": float("nan")}, "first = nan"),
        ({"mode": "cubic"}, "'cubic' is unknown"),
    ],
)
def test_what_cannot_be_blended_is_refused(blend, subjects, subject_error, inputs, words):
    with pytest.raises(subject_error, match=words):
        blend(*subjects[:2], **inputs)


def test_a_grid_that_is_too_large_is_refused(blend, subjects, subject_error):
    with pytest.raises(subject_error, match="17 x 16 = 272"):
        blend(*subjects, rows=17, columns=16)
    assert blend(*subjects, rows=16, columns=16)[1] == 256


def test_three_subjects_need_weights(blend, subjects, subject_error):
    with pytest.raises(subject_error, match="three weights"):
        blend(*subjects[:3])


@pytest.mark.parametrize(
    ("odd", "words"),
    [({"fingerprint": "another"}, "another encoder"), ({"count": 2}, "batch of 2"), ({"width": 8}, r"\[16, 8\]")],
)
@pytest.mark.parametrize("weights", ["", "1, 1"])
def test_subjects_that_do_not_match_are_refused(blend, make_subject, subjects, subject_error, odd, words, weights):
    with pytest.raises(subject_error, match=words):
        blend(subjects[0], make_subject(9, **odd), weights=weights)


def test_a_sheet_holds_every_picture_in_its_place(sheet):
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]])
    made = sheet(colours[:, None, None].expand(-1, 200, 300, -1), columns=3)
    assert made.shape == (1, 2 * 200 + 4, 3 * 300 + 8, 3)
    centres = [made[0, 204 * (place // 3) + 100, 304 * (place % 3) + 150] for place in range(6)]
    assert torch.equal(torch.stack(centres), torch.cat([colours, torch.ones(1, 3)]))


def test_labels_are_written_above_the_pictures_and_small_pictures_enlarged(sheet):
    pictures = torch.ones(2, 48, 96, 3)
    plain, labelled = sheet(pictures, columns=2), sheet(pictures, columns=2, labels="A\nB 50 C 50\n")
    assert plain.shape == (1, 96, 2 * 192 + 4, 3) and plain.min() == 1
    assert labelled.shape == (1, 96 + 22, 2 * 192 + 4, 3)
    dark = labelled[0].min(dim=-1).values < 0.5
    assert dark[:22, :192].any() and dark[:22, 196:].sum() > dark[:22, :192].sum() and not dark[22:].any()


def test_a_long_label_stays_over_its_picture(sheet):
    labelled = sheet(torch.ones(2, 64, 64, 3), columns=2, labels="word " * 60 + "\n.")
    assert labelled[0, :, 196:].min() < 1 and (labelled[0, :, 196 + 9 :] == 1).all()


def test_a_wrong_number_of_labels_is_refused(sheet, subject_error):
    with pytest.raises(subject_error, match="3 labels for 2 pictures"):
        sheet(torch.ones(2, 64, 64, 3), labels="a\nb\nc")
