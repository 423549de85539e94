"""The plain text encoder: where vectors act, and what is refused. Properties for any weights."""

import pytest
import torch
from tiny_model import CONFIG, WIDTH, random_parts

from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.text import encode_subject
from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.prompts.rows import compose
from blipdiff_impl.stable_diffusion.text_encoder import TextEncoder


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.from_canonical(CONFIG.text_encoder, random_parts()["text_encoder"])


def subject(seed=0, count=1):
    return Subject(torch.randn(count, 16, WIDTH, generator=torch.Generator().manual_seed(seed)), "dog", "tiny")


@torch.no_grad()
def test_rows_before_the_subject_cannot_see_it(encoder):
    text = compose("on a beach", "dog")
    one, other = (encode_subject(encoder, text, subject(seed)) for seed in (0, 1))
    changed = (one - other).abs().amax(-1)[0]
    assert torch.all(changed[:2] == 0) and torch.all(changed[2:] > 0)


@torch.no_grad()
def test_a_later_token_does_not_change_earlier_rows(encoder):
    prompts = [compose(f"on a {word}", "dog", prompt_reps=1) for word in ("red", "blue")]
    one, other = (encode_subject(encoder, prompt, subject()) for prompt in prompts)
    changed = (one - other).abs().amax(-1)[0] > 0
    assert not changed[:21].any() and changed[21]  # start, a, 16 vectors, dog, on, a | red


@torch.no_grad()
def test_vectors_that_are_word_embeddings_equal_those_words(encoder):
    """Sixteen vectors copied from the table act exactly as the sixteen words they were copied from."""
    words = "red blue green small big old new round flat wet dry cold hot soft hard bright"
    from blipdiff_impl.prompts.tokenizers import clip_ids

    vectors = encoder.token_embedding().weight[clip_ids(words)][None]
    assert vectors.shape[1] == 16
    spliced = encode_subject(encoder, compose("my [subject] dog", "dog"), Subject(vectors, "dog", "table"))
    assert torch.allclose(spliced, encoder.encode_plain(f"my {words} dog"), atol=1e-6)


@torch.no_grad()
def test_a_batch_of_subjects_gives_a_batch_of_contexts(encoder):
    both = subject(count=2)
    text = compose("on a beach", "dog")
    contexts = encode_subject(encoder, text, both)
    singles = [encode_subject(encoder, text, Subject(row[None], "dog", "tiny")) for row in both.embeddings]
    assert torch.equal(contexts, torch.cat(singles)) and contexts.shape == (2, 77, WIDTH)


def test_no_hook_is_left_behind(encoder):
    encode_subject(encoder, compose("on a beach", "dog"), subject())
    assert not encoder.token_embedding()._forward_hooks


def test_another_width_is_refused_with_both_numbers(encoder):
    with pytest.raises(SubjectError, match=f"768 wide, the text encoder takes {WIDTH}"):
        encode_subject(encoder, compose("on a beach", "dog"), Subject(torch.zeros(1, 16, 768), "dog", "x"))


def test_missing_weights_are_named():
    weights = random_parts()["text_encoder"]
    weights.pop("text_model.final_layer_norm.bias")
    with pytest.raises(CheckpointError, match="final_layer_norm.bias"):
        TextEncoder.from_canonical(CONFIG.text_encoder, weights)
