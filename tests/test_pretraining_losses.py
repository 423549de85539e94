"""The first stage's three tasks: losses against loops written out by hand, attention patterns by perturbation."""

import math

import numpy as np
import pytest
import torch
from pretraining_fixtures import MODEL, VOCABULARY

from blipdiff_impl.blip_diffusion.pretraining.attention_patterns import (
    bidirectional,
    multimodal_causal,
    side_by_side,
    unimodal,
)
from blipdiff_impl.blip_diffusion.pretraining.losses import (
    IGNORED,
    caption_input,
    captioning_loss,
    contrastive_loss,
    hard_negatives,
    make_triples,
    matching_loss,
    next_words,
    similarities,
)
from blipdiff_impl.blip_diffusion.pretraining.settings import Stage1Settings
from blipdiff_impl.blip_diffusion.pretraining.stage1_model import Stage1Batch, Stage1Model
from blipdiff_impl.blip_diffusion.subject_module import SubjectEncoderModule

QUERIES = MODEL.qformer.num_query_tokens
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
LENGTH = MASK.shape[1]


def log_softmax(row):
    row = np.asarray(row, dtype=np.float64)
    return row - row.max() - math.log(np.exp(row - row.max()).sum())


def smoothed(row, own, smoothing):
    """Cross-entropy with label smoothing, by its definition."""
    logs = log_softmax(row)
    return -(1 - smoothing) * logs[own] - smoothing * logs.mean()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    encoder = SubjectEncoderModule(MODEL)
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    settings = Stage1Settings(batch_size=4, embedding_size=8)
    return Stage1Model(encoder, settings, VOCABULARY.index("[DEC]")).eval()


@pytest.fixture(scope="module")
def batch():
    rng = torch.Generator().manual_seed(4)
    ids = torch.randint(4, len(VOCABULARY) - 1, (2, LENGTH), generator=rng)
    ids[:, 0] = VOCABULARY.index("[CLS]")
    features = torch.randn(2, MODEL.image_tower.num_tokens, MODEL.image_tower.hidden_size, generator=rng)
    return Stage1Batch(features, ids * MASK, MASK, torch.rand(2, 2, generator=rng))


def test_contrast_by_hand():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 4))
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    scores = np.array([[max(images[i, q] @ texts[t] for q in range(2)) / 0.07 for t in range(3)] for i in range(3)])
    expected = sum(smoothed(scores[i], i, 0.1) + smoothed(scores[:, i], i, 0.1) for i in range(3)) / 6
    found = similarities(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(0.07, dtype=torch.float64))
    assert float(contrastive_loss(found, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_captioning_by_hand():
    rng = np.random.default_rng(1)
    ids = torch.tensor([[2, 5, 6, 3, 0], [2, 7, 3, 0, 0]])
    mask = (ids != 0).long()
    assert caption_input(ids, 9).tolist() == [[9, 5, 6, 3, 0], [9, 7, 3, 0, 0]]
    targets = next_words(ids, mask)
    assert targets.tolist() == [[5, 6, 3, IGNORED, IGNORED], [7, 3, IGNORED, IGNORED, IGNORED]]
    scores = rng.normal(size=(2, 5, 10))
    told = [(0, 0, 5), (0, 1, 6), (0, 2, 3), (1, 0, 7), (1, 1, 3)]
    expected = np.mean([smoothed(scores[b, t], word, 0.1) for b, t, word in told])
    assert float(captioning_loss(torch.from_numpy(scores), targets, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_matching_by_hand():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(6, 3, 2)), [1, 1, 0, 0, 0, 0]
    expected = np.mean([-log_softmax(logits[i].mean(0))[labels[i]] for i in range(6)])
    assert float(matching_loss(torch.from_numpy(logits), torch.tensor(labels))) == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_come_as_often_as_their_similarity_says():
    scores = torch.tensor([[3.0, 1.0, 0.0, -2.0]])
    draws = 20_000
    chances = (torch.arange(draws) + 0.5) / draws
    drawn = hard_negatives(scores.expand(draws, -1), torch.zeros(draws, dtype=torch.long), chances)
    weights = np.exp([1.0, 0.0, -2.0])
    shares = np.bincount(drawn, minlength=4) / draws
    np.testing.assert_allclose(shares, [0, *weights / weights.sum()], atol=1.5 / draws)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_a_negative_is_never_the_own_partner_even_at_the_edges(chance):
    scores = torch.tensor([[200.0, -200.0, -200.0], [-200.0, 200.0, 0.0], [0.0, 0.0, 0.0]])
    own = torch.arange(3)
    assert (hard_negatives(scores, own, torch.full((3,), chance)) != own).all()


def test_triples_are_true_pairs_then_a_wrong_picture_then_a_wrong_text():
    features, ids = torch.arange(3.0)[:, None, None].expand(3, 2, 2), torch.arange(3)[:, None].expand(3, 4)
    rows = torch.nn.functional.normalize(torch.randn(3, 2, 5), dim=-1)
    found = similarities(rows, rows[:, 0], torch.tensor(0.1))
    triples = make_triples(features, ids, ids + 10, found, torch.rand(3, 2))
    pictures, texts = triples.features[:, 0, 0].long(), triples.ids[:, 0]
    assert triples.labels.tolist() == [1] * 3 + [0] * 6
    assert ((pictures == texts) == triples.labels.bool()).all()
    assert pictures[6:].tolist() == texts[3:6].tolist() == [0, 1, 2]
    assert (triples.mask[:, 0] == texts + 10).all()


def told_by_hand(kind, mask):
    """Which row may look at which, written out row by row."""
    size = QUERIES + LENGTH
    seen = np.zeros((len(mask), size, size), dtype=bool)
    for b in range(len(mask)):
        for i in range(size):
            for j in range(size):
                from_text, to_text = i >= QUERIES, j >= QUERIES
                if to_text and not mask[b][j - QUERIES]:
                    continue
                if not from_text and not to_text:
                    seen[b, i, j] = True
                elif kind == "unimodal":
                    seen[b, i, j] = from_text and to_text
                elif kind == "causal":
                    seen[b, i, j] = from_text and (not to_text or j <= i)
                else:
                    seen[b, i, j] = True
    return seen


def seen_in_truth(model, batch, pattern):
    """Which row's output moves with which row's input, by gradients through the whole Q-Former."""
    inputs = []
    hook = model.qformer.embeddings.register_forward_hook(lambda module, arguments, rows: inputs.append(rows) or rows)
    rows = model.qformer.all_rows(batch.features, [batch.ids], pattern)
    hook.remove()
    direction = torch.randn(rows.shape[-1], generator=torch.Generator().manual_seed(9))
    moved = []
    for i in range(rows.shape[1]):
        (gradient,) = torch.autograd.grad((rows[:, i] @ direction).sum(), inputs[0], retain_graph=True)
        moved.append(gradient.abs().amax(-1) > 0)
    return torch.stack(moved, dim=1).numpy()


@pytest.mark.parametrize(
    "kind, make", [("unimodal", unimodal), ("causal", multimodal_causal), ("bidirectional", bidirectional)]
)
def test_rows_feel_exactly_those_they_may_see(model, batch, kind, make):
    expected = told_by_hand(kind, MASK.tolist())
    assert (make(MASK, QUERIES).numpy() == expected).all()
    # A row always feels its own input, through the residual; padding that sees nothing of itself does too.
    expected |= np.eye(QUERIES + LENGTH, dtype=bool)
    found = seen_in_truth(model, batch, make(MASK, QUERIES))
    assert (found == expected).all()


@pytest.fixture
def changed(batch):
    """The batch with another picture, with another second word, with another word in the padding."""
    words, padded = batch.ids.clone(), batch.ids.clone()
    words[:, 2] = (words[:, 2] - 4 + 1) % 6 + 4
    padded[0, 4] = 7
    return batch.features + 1, words, padded


def rows_of(model, pattern, features, ids):
    with torch.no_grad():
        rows = model.qformer.all_rows(features, [ids], pattern(MASK, QUERIES))
    return rows[:, :QUERIES], rows[:, QUERIES:]


def same(a, b):
    return torch.equal(a, b)


@torch.no_grad()
def test_contrast_keeps_pictures_and_text_apart(model, batch, changed):
    queries, text = rows_of(model, unimodal, batch.features, batch.ids)
    other_queries, same_text = rows_of(model, unimodal, changed[0], batch.ids)
    same_queries, other_text = rows_of(model, unimodal, batch.features, changed[1])
    assert same(text, same_text) and same(queries, same_queries)
    assert not same(queries, other_queries) and not same(text, other_text)


def test_captions_see_the_picture_and_what_was_said_before(model, batch, changed):
    queries, text = rows_of(model, multimodal_causal, batch.features, batch.ids)
    same_queries, later = rows_of(model, multimodal_causal, batch.features, changed[1])
    assert same(queries, same_queries)
    assert same(text[:, :2], later[:, :2])
    assert all(not same(text[:, i], later[:, i]) for i in range(2, 4))
    _, other_picture = rows_of(model, multimodal_causal, changed[0], batch.ids)
    assert all(not same(text[:, i], other_picture[:, i]) for i in range(LENGTH))


def test_matching_lets_all_see_all_but_padding(model, batch, changed):
    queries, text = rows_of(model, bidirectional, batch.features, batch.ids)
    by_word, _ = rows_of(model, bidirectional, batch.features, changed[1])
    _, by_picture = rows_of(model, bidirectional, changed[0], batch.ids)
    assert all(not same(queries[:, i], by_word[:, i]) for i in range(QUERIES))
    assert all(not same(text[:, i], by_picture[:, i]) for i in range(4))
    by_padding, text_by_padding = rows_of(model, bidirectional, batch.features, changed[2])
    assert same(queries, by_padding) and same(text[:, :4], text_by_padding[:, :4])


def test_one_pass_gives_what_two_do(model, batch):
    """1e-5: sums over rows of width 64 in float32, added in another order."""
    patterns = unimodal(MASK, QUERIES), multimodal_causal(MASK, QUERIES)
    captions = caption_input(batch.ids, model._start)
    with torch.no_grad():
        both = model.qformer.all_rows(batch.features, [batch.ids, captions], side_by_side(*patterns, QUERIES))
        apart = [
            model.qformer.all_rows(batch.features, [ids], pattern)
            for ids, pattern in zip((batch.ids, captions), patterns, strict=True)
        ]
    expected = torch.cat([apart[0], apart[1][:, QUERIES:]], dim=1)
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-5)


def test_the_stage_adds_up_its_three_tasks(model, batch):
    """The whole forward against separate passes through the Q-Former's other entry and heads taken by hand."""
    with torch.no_grad():
        found = model(batch)
        seen = model.image_norm(batch.features)
        queries = model.qformer(seen, batch.ids, torch.zeros_like(MASK))  # no text is seen
        text = model.qformer.all_rows(seen, [batch.ids], unimodal(MASK, QUERIES))[:, QUERIES]
        images = torch.nn.functional.normalize(model.image_projection(queries), dim=-1).numpy()
        texts = torch.nn.functional.normalize(model.text_projection(text), dim=-1).numpy()
        scores = (images @ texts.T).max(1) / 0.07  # pictures, texts
        contrast = sum(smoothed(scores[i], i, 0.1) + smoothed(scores[:, i], i, 0.1) for i in range(2)) / 4
        # With two pairs the hard negative is the other one.
        pairs = [(0, 0), (1, 1), (1, 0), (0, 1), (0, 1), (1, 0)]
        matching = 0.0
        for place, (picture, words) in enumerate(pairs):
            rows = model.qformer(seen[picture][None], batch.ids[words][None], MASK[words][None])
            matching -= log_softmax(model.match_head(rows)[0].mean(0).numpy())[int(place < 2)] / 6
        captions = caption_input(batch.ids, VOCABULARY.index("[DEC]"))
        rows = model.qformer.all_rows(seen, [captions], multimodal_causal(MASK, QUERIES))[:, QUERIES:]
        words = model.caption_head(rows, model.qformer.embeddings.word_embeddings.weight).numpy()
        told = [(b, t) for b in range(2) for t in range(LENGTH - 1) if MASK[b, t + 1]]
        captioning = np.mean([smoothed(words[b, t], int(batch.ids[b, t + 1]), 0.1) for b, t in told])
    assert found.keys() == {"contrast", "matching", "captioning"}
    assert float(found["contrast"]) == pytest.approx(contrast, abs=1e-4)
    assert float(found["matching"]) == pytest.approx(matching, abs=1e-5)
    assert float(found["captioning"]) == pytest.approx(captioning, rel=1e-5)


def test_captions_are_told_without_looking_ahead(model, batch):
    """The loss of a word does not change with the words after it: cut the caption there."""
    with torch.no_grad():
        pattern = multimodal_causal(MASK, QUERIES)
        captions = caption_input(batch.ids, model._start)
        long = model.qformer.all_rows(batch.features, [captions], pattern)[:, QUERIES : QUERIES + 3]
        short = model.qformer.all_rows(batch.features, [captions[:, :3]], multimodal_causal(MASK[:, :3], QUERIES))[
            :, QUERIES:
        ]
    torch.testing.assert_close(long, short, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wild, kept", [(9.0, 0.5), (-1.0, 0.001), (0.2, 0.2)])
def test_the_temperature_stays_in_its_range(model, wild, kept):
    before = model.temperature.detach().clone()
    model.temperature.data.fill_(wild)
    model.after_step()
    assert model.temperature.item() == pytest.approx(kept)
    model.temperature.data.copy_(before)


def test_every_trained_weight_learns(model, batch):
    model.zero_grad()
    sum(model(batch).values()).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # Biases of keys cancel in the softmax; of what the query rows alone have, all is used.
    assert [name for name in without if not name.endswith("key.bias")] == []
    model.zero_grad()
