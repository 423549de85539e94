"""Markers, rows and regions of several subjects, without the host."""

import pytest
import torch

from blipdiff_impl.attention.regions import HIDDEN, Regions
from blipdiff_impl.blip_diffusion.scene import checked_mask, lay_out, parse, soften
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.prompts.rows import SENTINEL

MARK = [900, 901]  # what a tokenizer might make of the sentinel


def test_a_marker_is_a_category_or_a_letter():
    scene = parse("{Dog} chasing {b} on the beach", {"a": "dog", "b": "ball"})
    assert scene.sockets == ("a", "b")
    assert scene.text() == f"{SENTINEL} dog chasing {SENTINEL} ball on the beach"


def test_the_order_is_that_of_the_prompt():
    assert parse("a {ball} and a {dog}", {"a": "dog", "b": "ball"}).sockets == ("b", "a")


def test_two_of_one_category_have_letters():
    scene = parse("{a} and {b}", {"a": "dog", "b": "dog"})
    assert scene.text() == f"{SENTINEL} dog and {SENTINEL} dog"
    with pytest.raises(SubjectError, match=r"\{a\} and \{b\}"):
        parse("{dog} and {dog}", {"a": "dog", "b": "dog"})


def test_punctuation_stays_at_its_word():
    assert parse("({dog}:1.2), {b}.", {"a": "dog", "b": "cat"}).text() == f"( {SENTINEL} dog:1.2), {SENTINEL} cat."


def test_what_is_left_out_leaves_its_surroundings():
    scene = parse("a {dog} and a {ball} in the snow", {"a": "dog", "b": "ball"})
    assert scene.only(["a"]).text() == f"a {SENTINEL} dog and a in the snow"
    assert scene.only(["b"]).text() == f"a and a {SENTINEL} ball in the snow"
    assert scene.only([]).text() == "a and a in the snow"


@pytest.mark.parametrize(
    "prompt, sentence",
    [
        ("", "prompt is empty"),
        ("  \n", "prompt is empty"),
        ("a {dog} on the beach", r"subject_b \(ball\) stands in the prompt 0 times"),
        ("{dog} {dog} {ball}", r"subject_a \(dog\) stands in the prompt 2 times"),
        ("{a} {dog} {ball}", "2 times"),
        ("{dog} {ball} {cat}", r"marker \{cat\}, but no such subject.*\{a\} or \{dog\}, \{b\} or \{ball\}"),
        ("{dog} {ball} {c}", r"marker \{c\}"),
        ("{dog} {ball} {}", r"marker \{\}"),
        ("{dog} {ball", "0 times"),
    ],
)
def test_bad_prompts(prompt, sentence):
    with pytest.raises(SubjectError, match=sentence):
        parse(prompt, {"a": "dog", "b": "ball"})


def tokens(*ids):
    return [(i, 1.0) for i in ids]


def vectors(seed):
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))


def test_vectors_stand_before_their_word_with_the_weight_of_the_marker():
    text = [(1, 1.0), (900, 1.3), (901, 1.3), (7, 1.3), (2, 1.0)]
    layout = lay_out(text, MARK, [vectors(0)], [[7]])
    (row,) = layout.rows
    assert len(row) == 19 and layout.spans == [(2, 19)]
    assert all(torch.equal(item, v) and w == 1.3 for (item, w), v in zip(row[1:17], vectors(0), strict=True))
    assert row[17] == (7, 1.3) and row[18] == (2, 1.0)


def test_without_vectors_only_the_word_is_left():
    layout = lay_out(tokens(1, *MARK, 7, 2), MARK, [None], [[7]])
    assert layout.rows == [tokens(1, 7, 2)] and layout.spans == [(2, 3)]


def test_a_plain_word_is_not_taken_for_the_marker():
    layout = lay_out(tokens(7, 1, *MARK, 7), MARK, [None], [[7]])
    assert layout.spans == [(3, 4)]


@pytest.mark.parametrize("before", range(50, 80))
def test_no_subject_is_cut_in_two(before):
    text = tokens(*range(1, before + 1), *MARK, 7, 3, *MARK, 8, 9, 5)
    layout = lay_out(text, MARK, [vectors(0), vectors(1)], [[7], [8, 9]])
    assert all(len(row) <= 75 for row in layout.rows)
    padded = []
    for row in layout.rows:
        padded += [None, *(item for item, _ in row)] + [None] * (76 - len(row))
    for (start, stop), own, word in zip(layout.spans, (vectors(0), vectors(1)), ([7], [8, 9]), strict=True):
        assert start // 77 == (stop - 1) // 77
        assert torch.equal(torch.stack(padded[start : start + 16]), own)
        assert padded[start + 16 : stop] == word
    words = [item for item in padded if isinstance(item, int)]
    assert words == [*range(1, before + 1), 7, 3, 8, 9, 5]


def test_a_category_too_long_for_a_row_is_refused():
    with pytest.raises(SubjectError, match="76 positions"):
        lay_out(tokens(*MARK, *range(60)), MARK, [vectors(0)], [list(range(60))])


def test_a_lost_place_is_an_error():
    with pytest.raises(SubjectError, match="place was lost"):
        lay_out(tokens(1, 900, 7), MARK, [vectors(0)], [[7]])


def half(width=8):
    mask = torch.zeros(1, 8, width)
    mask[..., : width // 2] = 1
    return mask


def test_bias_hides_and_shows_whole_columns():
    bias = Regions(6, ((1, 3, 0), (4, 5, 1)), (half(), 1 - half())).bias((2, 2), (4, 4))
    assert bias.shape == (1, 4, 6)
    left, right = [0, 0, 0, 0, HIDDEN, 0], [0, HIDDEN, HIDDEN, 0, 0, 0]
    assert torch.equal(bias[0], torch.tensor([left, right, left, right]))


def test_bias_of_a_half_seen_cell_is_the_log_of_its_share():
    bias = Regions(1, ((0, 1, 0),), (half(),)).bias((1, 1), (8, 8))
    assert bias.item() == pytest.approx(torch.tensor(0.5).log().item())


def test_bias_on_a_part_of_the_latent_is_that_part():
    regions = Regions(2, ((0, 1, 0),), (torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(1)),))
    whole, part = regions.bias((8, 8), (8, 8)), regions.bias((4, 3), (8, 8), (4, 3, 2, 5))
    assert torch.equal(part, whole.view(2, 8, 8, 2)[:, 2:6, 5:8].reshape(2, 12, 2))


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (7, 12)])
def test_odd_sizes_fit(grid):
    bias = Regions(3, ((0, 2, 0),), (half(50),)).bias(grid, (13, 24))
    assert bias.shape == (1, grid[0] * grid[1], 3) and torch.isfinite(bias).all() and (bias <= 0).all()


@pytest.mark.parametrize(
    "mask, sentence",
    [
        (torch.zeros(1, 8, 8), "mask_a is empty"),
        (torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]), "mask_a is empty"),
        (torch.full((1, 8, 8), float("nan")), "NaN"),
        (torch.ones(1, 1, 8, 8), r"shape \[1, 1, 8, 8\]"),
        (torch.ones(0, 8, 8), "shape"),
    ],
)
def test_bad_masks(mask, sentence):
    with pytest.raises(SubjectError, match=sentence):
        checked_mask(mask, "mask_a")


def test_a_mask_that_leaves_nothing_out_is_none():
    assert checked_mask(torch.ones(2, 8, 8), "mask_a") is None
    assert checked_mask(torch.ones(8, 8, dtype=torch.float16) * 2, "mask_a") is None
    kept = checked_mask(half()[0].to(torch.float16), "mask_a")
    assert kept.shape == (1, 8, 8) and kept.dtype == torch.float32


def test_soft_edges_fade_and_borders_do_not():
    mask = half(64)
    soft = soften(mask, 8)
    assert torch.equal(soften(mask, 0), mask)
    assert soft[0, 4, 0] == pytest.approx(1, abs=1e-6) and soft[0, 4, -1] == pytest.approx(0, abs=1e-6)
    assert soft[0, :, 31:33].mean() == pytest.approx(0.5, abs=1e-5)
    assert (soft[0, 4].diff() <= 1e-6).all()
    assert soft.sum() == pytest.approx(mask.sum().item(), rel=1e-5)
