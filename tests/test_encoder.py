"""Photos to a subject: the mean, the cache, padding, masks, refusals. Small random weights: properties hold for any."""

import pytest
import torch
from tiny_model import CONFIG, PIECES, WIDTH, random_parts

from blipdiff_impl.blip_diffusion.encoder import SubjectEncoder
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.subject_module import SubjectEncoderModule
from blipdiff_impl.errors import CheckpointError, SubjectError


@pytest.fixture(scope="module")
def weights():
    return random_parts()["subject_encoder"]


@pytest.fixture
def encoder(weights):
    return SubjectEncoder(SubjectEncoderModule.from_canonical(CONFIG, weights), PIECES, "tiny")


def photos(count, seed=0, height=48, width=40):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_several_photos_give_their_mean(encoder):
    images = photos(3)
    singles = torch.cat([encoder.encode(image[None], "dog").embeddings for image in images])
    subject = encoder.encode(images, "dog")
    assert subject.embeddings.shape == (1, 16, WIDTH)
    assert torch.equal(subject.embeddings, singles.mean(0, keepdim=True))
    assert (subject.category, subject.encoder_fingerprint, subject.source) == ("dog", "tiny", "3 photos, crop")


def test_category_and_photo_both_count(encoder):
    one = encoder.encode(photos(1), "dog").embeddings
    assert not torch.allclose(one, encoder.encode(photos(1), "mug").embeddings, atol=1e-3)
    assert not torch.allclose(one, encoder.encode(photos(1, seed=1), "dog").embeddings, atol=1e-3)


def test_an_unchanged_photo_is_not_encoded_again(encoder):
    calls = []
    encoder.module.register_forward_hook(lambda *_: calls.append(1))
    first = encoder.encode(photos(2), "dog")
    again = encoder.encode(photos(2), "dog")
    assert len(calls) == 2 and torch.equal(first.embeddings, again.embeddings)
    encoder.encode(photos(3), "dog")
    assert len(calls) == 3, "two of the three photos were known"
    encoder.encode(photos(2), "mug")
    encoder.encode(photos(2), "dog", fit="pad")
    encoder.encode(photos(2), "dog", torch.ones(1, 48, 40) * 0.5)
    assert len(calls) == 9, "another category, fit or mask is another subject"


def test_other_weights_give_another_subject(encoder):
    other = random_parts(seed=1)["subject_encoder"]
    second = SubjectEncoder(SubjectEncoderModule.from_canonical(CONFIG, other), PIECES, "other")
    assert not torch.allclose(encoder.encode(photos(1), "dog").embeddings, second.encode(photos(1), "dog").embeddings)


def test_padded_category_equals_the_unpadded_one(encoder):
    """Word pieces that are only padding change nothing (float32 rounding, 1e-5)."""
    pixels = torch.randn(1, 3, 32, 32)
    ids, padded = torch.tensor([[2, 4, 3]]), torch.tensor([[2, 4, 3, 0, 0]])
    with torch.no_grad():
        bare = encoder.module(pixels, ids, torch.ones_like(ids))
        with_pads = encoder.module(pixels, padded, (padded > 0).long())
    assert torch.allclose(bare, with_pads, atol=1e-5)


def test_text_rows_do_not_see_the_image(weights):
    """Cross-attention acts on query rows only: with one layer, text rows are the same for any picture."""
    module = SubjectEncoderModule.from_canonical(CONFIG, weights)
    layer = module.qformer.encoder.layer[0]
    rows = torch.randn(1, 16 + 3, WIDTH)
    outputs = [
        layer(rows, encoder_hidden_states=torch.randn(1, 17, CONFIG.image_tower.hidden_size), query_length=16)
        for _ in range(2)
    ]
    first, second = (output[0] if isinstance(output, tuple) else output for output in outputs)
    assert torch.equal(first[:, 16:], second[:, 16:])
    assert not torch.allclose(first[:, :16], second[:, :16])


def test_projection_without_second_layer_is_the_identity(encoder):
    projection = encoder.module.proj_layer
    projection.dense2.weight.data.zero_(), projection.dense2.bias.data.zero_()
    rows = torch.randn(2, 16, WIDTH)
    assert torch.equal(projection(rows), rows)


def test_see_shows_mask_and_fit(encoder):
    mask = torch.zeros(1, 48, 40)
    mask[:, :24] = 1
    seen = encoder.see(photos(2), mask, "squash")
    assert seen.shape == (2, 32, 32, 3)
    assert seen[:, 24:].std() < 0.05 < seen[:, :8].std(), "below the mask is the neutral background"


def test_released_names_survive_a_round_trip(weights):
    module = SubjectEncoderModule.from_canonical(CONFIG, weights)
    written = module.canonical_state_dict()
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], weights[name]) for name in weights)


def test_progress_is_told_and_may_stop(encoder):
    told = []
    encoder.encode(photos(2), "dog", on_photo=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoder.encode(photos(2, seed=5), "dog", on_photo=stop)
    assert len(encoder.encode(photos(2, seed=5), "dog")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((photos(1), " "), "category is empty"),
        ((photos(1), "dog", None, "stretch"), "'stretch' is unknown"),
        ((photos(1), "dog " * 40), "42 word pieces"),
    ],
)
def test_unusable_input_is_refused(encoder, arguments, words):
    with pytest.raises(SubjectError, match=words):
        encoder.encode(*arguments)


def test_misshapen_weights_are_refused(weights):
    wrong = dict(weights, query_tokens=torch.zeros(1, 8, WIDTH))
    with pytest.raises(CheckpointError, match="query_tokens"):
        SubjectEncoderModule.from_canonical(CONFIG, wrong)


@pytest.mark.parametrize(
    "embeddings", [torch.zeros(16, 8), torch.zeros(0, 16, 8), torch.full((1, 16, 8), float("nan"))]
)
def test_a_subject_of_another_shape_is_refused(embeddings):
    with pytest.raises(SubjectError):
        Subject(embeddings, "dog", "tiny")
