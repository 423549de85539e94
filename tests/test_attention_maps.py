"""Sums of attention maps, the choice of tokens, layers and steps, and the sheet; without the host."""

import pytest
import torch
import torch.nn.functional as F

from blipdiff_impl.attention.maps import (
    MapRecord,
    PromptColumns,
    check_range,
    choose_blocks,
    in_range,
    label_columns,
    stretched,
)
from blipdiff_impl.attention.overlay import heat, overlay
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.pictures.contact_sheet import group_sheet

HEADS, DIM, COLUMNS = 2, 4, 7
PROMPT = PromptColumns(
    77, (("a", (1,)), ("mug", (18, 25)), (",", (20,)), ("beach", (21, 28))), (("mug", tuple(range(2, 18))),)
)
BLOCKS = {("input", 1): 0, ("input", 4): 1, ("middle", 0): 3, ("output", 5): 1, ("output", 9): 0}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def explicit(q, k):
    """Mean probability over heads, `[B, queries, keys]`, with the library's own attention on one-hot values."""
    q, k = (x.unflatten(-1, (HEADS, DIM)).transpose(1, 2) for x in (q, k))
    values = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
    return F.scaled_dot_product_attention(q, k, values).mean(dim=1)


def layer(size, keys=COLUMNS, pictures=2, seed=0):
    q, k = draw(pictures, size[0] * size[1], HEADS * DIM, seed=seed), draw(pictures, keys, HEADS * DIM, seed=seed + 1)
    return q, k


def test_a_record_is_the_mean_over_heads_layers_and_steps():
    chosen = (("one", (2,)), ("three", (0, 4, 5)))
    record, expected = MapRecord(chosen), 0
    for step in range(3):
        for size in ((4, 6), (2, 3)):
            q, k = layer(size, seed=10 * step + size[0])
            record.add(q, k, HEADS, size, COLUMNS)
            probs = explicit(q, k).unflatten(1, size)
            maps = torch.stack([probs[..., 2], probs[..., [0, 4, 5]].mean(-1)], dim=1)
            expected = expected + F.interpolate(maps, size=(8, 12), mode="bilinear") / 6
    torch.testing.assert_close(record.maps((8, 12)), expected, rtol=1e-5, atol=1e-6)


def test_a_repeated_prompt_counts_once():
    (q, k), once, twice = layer((2, 2)), MapRecord((("x", (3,)),)), MapRecord((("x", (3,)),))
    once.add(q, k, HEADS, (2, 2), COLUMNS)
    twice.add(q, k.repeat(1, 2, 1), HEADS, (2, 2), COLUMNS)
    torch.testing.assert_close(once.maps((2, 2)), twice.maps((2, 2)))


def test_a_bias_hides_a_column():
    (q, k), record = layer((2, 2)), MapRecord((("x", (3,)), ("y", (4,))))
    bias = torch.zeros(2, 4, COLUMNS)
    bias[..., 3] = -1e4
    record.add(q, k, HEADS, (2, 2), COLUMNS, bias)
    maps, without = record.maps((2, 2)), explicit(q, torch.cat([k[:, :3], k[:, 4:]], dim=1))
    assert not maps[:, 0].any()
    torch.testing.assert_close(maps[:, 1].flatten(1), without[..., 3])


def test_memory_is_that_of_the_chosen_maps():
    record = MapRecord((("x", (3,)),))
    for seed in range(5):
        record.add(*layer((4, 4), keys=231, seed=seed), HEADS, (4, 4), 231)
        record.add(*layer((2, 2), keys=231, seed=seed), HEADS, (2, 2), 231)
    assert sum(total.numel() for total in record._sums.values()) == 2 * (16 + 4)


def test_choices():
    assert PROMPT.choose("subject") == (("subject", tuple(range(2, 18))),)
    vectors = PROMPT.choose("each vector")
    assert len(vectors) == 16 and vectors[0] == ("subject 1", (2,)) and vectors[15] == ("subject 16", (17,))
    assert PROMPT.choose("each word") == (("a", (1,)), ("mug", (18, 25)), ("beach", (21, 28)))
    assert PROMPT.choose("chosen words", "Beach, subject") == (("beach", (21, 28)), ("subject", tuple(range(2, 18))))


def test_several_subjects_have_their_names():
    two = PromptColumns(77, (), (("dog", (1, 2)), ("dog", (5, 6))))
    assert two.choose("subject") == (("subject 1 (dog)", (1, 2)), ("subject 2 (dog)", (5, 6)))


@pytest.mark.parametrize(
    "tokens, words, sentence",
    [
        ("chosen words", "cat, mug", "no 'cat'. Its words are: subject, a, mug, ,, beach"),
        ("chosen words", " , ", "No words are chosen"),
    ],
)
def test_words_that_are_not_there(tokens, words, sentence):
    with pytest.raises(SubjectError, match=sentence):
        PROMPT.choose(tokens, words)


@pytest.mark.parametrize("words", [(), ((",", (20,)), ("!", (21,)))])
def test_a_prompt_without_words(words):
    with pytest.raises(SubjectError, match="no words in it, only subject"):
        PromptColumns(77, words, (("dog", tuple(range(1, 17))),)).choose("each word")


@pytest.mark.parametrize("marker", ["[subject]", "[Subject]", "[ subject ]", "Subject"])
def test_the_marker_stands_for_the_vectors(marker):
    assert PROMPT.choose("chosen words", f"beach, {marker}") == (("beach", (21, 28)), ("subject", tuple(range(2, 18))))


@pytest.mark.parametrize("tokens", ["subject", "each vector"])
def test_a_prompt_without_a_subject(tokens):
    with pytest.raises(SubjectError, match="no subject in it"):
        PromptColumns(77, (("dog", (1,)),), ()).choose(tokens)


def test_pieces_become_words():
    pieces = [None, "a</w>", "mush", "room</w>", None, "a</w>", "half", None, "way</w>"]
    assert label_columns(pieces) == (("a", (1, 5)), ("mushroom", (2, 3)), ("way", (8,)))


def test_layers():
    assert choose_blocks(BLOCKS, "all", "") == list(BLOCKS)
    assert choose_blocks(BLOCKS, "level 1", "") == [("input", 1), ("output", 9)]
    assert choose_blocks(BLOCKS, "level 3", "") == [("middle", 0)]
    assert choose_blocks(BLOCKS, "one block", " Output  5 ") == [("output", 5)]
    with pytest.raises(SubjectError, match="3 levels only"):
        choose_blocks(BLOCKS, "level 4", "")
    with pytest.raises(SubjectError, match="no attention in block 'output 1'; it has input 1, input 4"):
        choose_blocks(BLOCKS, "one block", "output 1")


@pytest.mark.parametrize(
    "start, end, steps", [(0, 1, [0, 1, 2, 3]), (0, 0.5, [0, 1]), (0.5, 1, [2, 3]), (0.3, 0.4, [1])]
)
def test_steps(start, end, steps):
    check_range(start, end)
    assert [step for step in range(4) if in_range(step, 4, start, end)] == steps


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.6, 0.4), (-0.1, 1), (0, 1.1), (float("nan"), 1)])
def test_an_empty_range_of_steps(start, end):
    with pytest.raises(SubjectError, match="no steps to record"):
        check_range(start, end)


def test_maps_are_stretched_one_by_one():
    maps = torch.stack([torch.rand(4, 4), torch.full((4, 4), 0.3)])
    found = stretched(maps)
    assert found[0].min() == 0 and found[0].max() == 1 and not found[1].any()


def test_heat_grows_lighter():
    colours = heat(torch.linspace(0, 1, 50))
    assert colours.shape == (50, 3) and (colours.sum(-1).diff() > 0).all()
    assert colours.min() >= 0 and colours.max() <= 1


def test_overlay_keeps_the_picture_or_the_heat():
    picture, maps = torch.rand(6, 8, 3), torch.rand(3, 6, 8)
    assert torch.equal(overlay(picture, maps, 0.0), picture.expand(3, -1, -1, -1))
    torch.testing.assert_close(overlay(picture, maps, 1.0), heat(maps))


def test_the_sheet_has_a_cell_and_a_label_for_each_map():
    white, black = torch.ones(11, 20, 40, 3), torch.zeros(11, 20, 40, 3)
    sheet = group_sheet([white, black], [f"word {i}" for i in range(10)] + ["an endless label " * 9])
    height, width, label = 96 + 22 + 4, 192 + 4, 22
    assert sheet.shape == (1, 4 * height - 4, 6 * width - 4, 3)
    for row in (0, 2):  # the first row of each group
        for column in range(6):
            cell = sheet[0, row * height : (row + 1) * height, column * width : (column + 1) * width - 4]
            assert (cell[:label] < 0.5).any()
            assert (cell[label : label + 96] == 1 - row / 2).all()
    rest = sheet[0, 3 * height :, 5 * width :]  # eleven maps leave the twelfth place of a group empty
    assert (rest == 1).all()
