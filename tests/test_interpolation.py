"""Blends of subjects: ends, order, normalised weights, lengths, refusals."""

import pytest
import torch

from blipdiff_impl import Subject, SubjectError, interpolate, interpolate_grid, interpolate_strip


def subject(seed, category="dog", fingerprint="same"):
    vectors = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(seed))
    return Subject(vectors, category, fingerprint)


A, B, C, D = (subject(seed) for seed in range(4))


@pytest.mark.parametrize("mode", ["lerp", "slerp"])
def test_strip_runs_from_one_end_to_the_other(mode):
    strip = interpolate_strip(A, B, 5, mode)
    assert strip.embeddings.shape == (5, 16, 8)
    assert torch.allclose(strip.embeddings[0], A.embeddings[0], atol=1e-6)
    assert torch.allclose(strip.embeddings[-1], B.embeddings[0], atol=1e-6)
    to_b = [(row - B.embeddings[0]).norm() for row in strip.embeddings]
    assert to_b == sorted(to_b, reverse=True)


@pytest.mark.parametrize("mode", ["lerp", "slerp"])
def test_grid_has_the_four_subjects_in_its_corners_row_by_row(mode):
    grid = interpolate_grid(A, B, C, D, rows=3, columns=4, mode=mode).embeddings
    assert len(grid) == 12
    for place, corner in ((0, A), (3, B), (8, C), (11, D)):
        assert torch.allclose(grid[place], corner.embeddings[0], atol=1e-6)


def test_grid_is_bilinear():
    grid = interpolate_grid(A, B, C, D, 3, 3).embeddings
    assert torch.allclose(grid[4], torch.cat([s.embeddings for s in (A, B, C, D)]).mean(0), atol=1e-6)


def test_weights_are_normalised_and_may_extrapolate():
    assert torch.allclose(interpolate([A, B], [3, 1]).embeddings, 0.75 * A.embeddings + 0.25 * B.embeddings)
    assert torch.allclose(interpolate([A, B], [1.5, -0.5]).embeddings, 1.5 * A.embeddings - 0.5 * B.embeddings)
    assert torch.allclose(interpolate([A, B, C], [0, 0, 2]).embeddings, C.embeddings)


def test_slerp_keeps_lengths_and_halves_the_angle():
    middle = interpolate([A, B], [1, 1], "slerp").embeddings[0]
    ends = A.embeddings[0], B.embeddings[0]
    assert torch.allclose(middle.norm(dim=-1), (ends[0].norm(dim=-1) + ends[1].norm(dim=-1)) / 2, atol=1e-5)
    to_ends = [torch.cosine_similarity(middle, end, dim=-1) for end in ends]
    assert torch.allclose(to_ends[0], to_ends[1], atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_of_parallel_and_opposite_vectors_is_the_straight_line(factor):
    other = Subject(factor * A.embeddings, "dog", "same")
    blended = interpolate([A, other], [3, 1], "slerp").embeddings
    assert torch.allclose(blended, (3 + factor) / 4 * A.embeddings, atol=1e-5)


def test_slerp_of_three_reaches_each_alone():
    for index, alone in enumerate((A, B, C)):
        weights = [float(index == place) for place in range(3)]
        assert torch.allclose(interpolate([A, B, C], weights, "slerp").embeddings, alone.embeddings, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: interpolate([A, B], [0, 0]), "sum to 0"),
        (lambda: interpolate([A, B], [1, -1]), "sum to 0"),
        (lambda: interpolate([A, B], [float("nan"), 1]), "sum to nan"),
        (lambda: interpolate([A, B], [1]), "1 weights for 2 subjects"),
        (lambda: interpolate([A], [1]), "1 subject cannot"),
        (lambda: interpolate([A, subject(1, "cat", "other")], [1, 1]), "another encoder"),
        (lambda: interpolate([A, Subject(torch.ones(1, 16, 4), "cat", "same")], [1, 1]), r"\[16, 4\]"),
        (lambda: interpolate([A, Subject(torch.ones(2, 16, 8), "cat", "same")], [1, 1]), "batch of 2"),
        (lambda: interpolate([A, B], [1, 1], "cubic"), "'cubic' is unknown"),
        (lambda: interpolate_strip(A, B, 1), "columns = 1"),
        (lambda: interpolate_grid(A, B, C, D, 1, 4), "rows = 1"),
    ],
)
def test_what_cannot_be_blended_is_refused(call, words):
    with pytest.raises(SubjectError, match=words):
        call()
