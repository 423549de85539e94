"""Editing without a host: alignment of prompts, words, refinement of attention, masks, and inversion as plain maths."""

import pytest
import torch

from blipdiff_impl.editing.alignment import NO_MATCH, Alignment, align, find_words
from blipdiff_impl.editing.blend import WordMaps, choose_level, column_map, mix
from blipdiff_impl.editing.control import Columns, refine
from blipdiff_impl.editing.inversion import invert
from blipdiff_impl.editing.words import compose_edit, listed, missing_word, parse_weights
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.tokenizers import CLIP_END, CLIP_START, clip_ids

VECTORS = [-1 - i for i in range(16)]


def row(*ids):
    """A row of 77 positions: start, ids, end, padding."""
    return [CLIP_START, *ids, *[CLIP_END] * (76 - len(ids))]


def prompt(before, after):
    """A target prompt with the vectors between two texts."""
    return row(*clip_ids(before), *VECTORS, *clip_ids(after))


# What the published mapper gives for these prompts once the vectors take the place of the placeholder words.
PUBLISHED = [
    ("a cat sit on sofa", "dog sit on sofa", [0, 1, *[-1] * 17, 3, 4, 5, 6]),
    ("a dress on a model", "dress on a model", [0, 1, *[-1] * 16, 2, 3, 4, 5, 6]),
    ("a teddy bear on a sofa", "dog on a sofa", [0, 1, *[-1] * 17, 4, 5, 6, 7]),
    ("a dog on a sofa", "teddy bear on a sofa", [0, 1, *[-1] * 18, 3, 4, 5, 6]),
]


@pytest.mark.parametrize(("source", "target", "expected"), PUBLISHED, ids=lambda value: str(value)[:24])
def test_published_alignments(source, target, expected):
    found = align(row(*clip_ids(source)), prompt("a", target), CLIP_END)
    assert found.mapper.tolist() == expected + list(range(len(expected), 77))
    assert found.matched.tolist() == [float(column != NO_MATCH) for column in found.mapper.tolist()]


def test_the_released_shift_by_16_is_not_repeated():
    found = align(row(*clip_ids("a cat sit on sofa")), prompt("a", "dog sit on sofa"), CLIP_END)
    assert found.mapper[18] == NO_MATCH  # dog, where the release put a pad
    assert found.mapper[19:22].tolist() == [3, 4, 5]  # sit on sofa


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a cat, on sofa", "a dog, on sofa"),
        ("a t-shirt on a sofa", "a dress on a sofa"),
        ("a cat and a cat", "a dog and a cat"),
        ("a cat", "a very small striped dog"),
        ("", ""),
    ],
)
def test_alignments_pair_equal_tokens_in_order(source, target):
    ours, theirs = row(*clip_ids(source)), row(*clip_ids(target))
    mapper = align(ours, theirs, CLIP_END).mapper.tolist()
    length = theirs.index(CLIP_END) + 1
    pairs = [(column, place) for place, column in enumerate(mapper[:length]) if column != NO_MATCH]
    assert all(ours[column] == theirs[place] for column, place in pairs)
    assert [column for column, _ in pairs] == sorted({column for column, _ in pairs})
    assert pairs[0] == (0, 0) and theirs[pairs[-1][1]] == CLIP_END


def test_identical_prompts_align_with_themselves():
    ids = row(*clip_ids("a cat sit on sofa")) * 2
    found = align(ids, ids, CLIP_END)
    assert found.mapper.tolist() == list(range(154)) and found.matched.all()


def test_prompts_of_several_rows_align_across_them():
    words = clip_ids("a cat sit on sofa")
    source, target = row(*words) + row(), row(*VECTORS) + row(*words)
    mapper = align(source, target, CLIP_END).mapper.tolist()
    assert mapper[78:83] == [1, 2, 3, 4, 5]  # the words moved to the second row
    with pytest.raises(SubjectError, match="77 and 154"):
        align(row(), row() * 2, CLIP_END)


@pytest.mark.parametrize(
    ("text", "word", "columns"),
    [
        ("a cat sit on sofa", "cat", [2]),
        ("a t-shirt on a sofa", "t-shirt", [2, 3, 4]),
        ("a teddy bear on a sofa", "teddy bear", [2, 3]),
        ("a cat, on sofa", "cat", [2]),
        ("a CAT on a Cat", "cat", [2, 5]),
        ("a cat sit on sofa", "dog", []),
        ("a cat sit on sofa", "", []),
    ],
)
def test_words_are_found_by_their_tokens(text, word, columns):
    assert find_words(row(*clip_ids(text)), clip_ids(word), CLIP_END) == columns


def test_words_are_found_where_one_row_ends_and_the_next_begins():
    teddy, bear = clip_ids("teddy bear")
    split = [CLIP_START, *[clip_ids("big")[0]] * 74, teddy, CLIP_END] + row(bear, *clip_ids("on a sofa"))
    assert find_words(split, [teddy, bear], CLIP_END) == [75, 78]


def test_texts_of_an_edit():
    texts = compose_edit("Cat", "dog", " sitting on\na sofa ")
    assert texts.source == "a cat sitting on a sofa"
    assert texts.target.replace("\ue5b1", "<S>") == "a <S> dog sitting on a sofa"
    placed = compose_edit("cat", "dog", "a sofa with a [subject] on it", "a red sofa with [subject]", False)
    assert (placed.source, placed.target) == ("a sofa with a cat on it", "a red sofa with dog")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("", "dog", "x"), "category is empty"), (("cat", " ", "x"), "category is empty"),
     (("cat", "dog", "[subject] and [subject]"), "2 times")],
)  # fmt: skip
def test_texts_that_cannot_be_edited(arguments, said):
    with pytest.raises(SubjectError, match=said):
        compose_edit(*arguments)


def test_weights_of_words():
    assert parse_weights(" snow: 1.5, [subject]:2 ,") == {"snow": 1.5, "[subject]": 2.0}
    assert parse_weights("") == {} and listed(" a , b c,, ") == ["a", "b c"]
    for wrong in ("snow", "snow:", ":2", "snow: much", "snow: -1", "snow: nan", "snow: 1e9", "snow: 21"):
        with pytest.raises(SubjectError, match="reweight|too large"):
            parse_weights(wrong)


def test_a_missing_word_names_those_that_are_there():
    assert (
        str(missing_word("dog", "a cat, on a sofa")) == "'dog' is not in the prompt. Its words are: a, cat, on, sofa."
    )


def columns(mapper, **more):
    mapped = torch.tensor(mapper)
    return Columns(Alignment(mapped, (mapped >= 0).float()), (0,), (1,), **more)


def test_refinement_takes_aligned_columns_from_the_source():
    source, edit = torch.rand(2, 3, 4, 3), torch.rand(2, 3, 4, 3)
    mixed = refine(source, edit, columns([1, NO_MATCH, 2]), True)
    assert torch.equal(mixed[..., 0], source[..., 1])
    assert torch.equal(mixed[..., 1], edit[..., 1])
    assert torch.equal(mixed[..., 2], source[..., 2])
    assert torch.equal(refine(source, edit, columns([1, NO_MATCH, 2]), False), edit)


def test_weights_scale_columns_of_the_edit():
    source, edit = torch.rand(1, 2, 4, 3), torch.rand(1, 2, 4, 3)
    weights = torch.tensor([1.0, 3.0, 0.0])
    mixed = refine(source, edit, columns([0, 1, 2], weights=weights), True)
    assert torch.equal(mixed, source * weights)


def test_repeated_prompts_repeat_their_columns():
    twice = columns([1, NO_MATCH, 2], weights=torch.tensor([1.0, 2.0, 3.0])).repeated(2)
    assert twice.alignment.mapper.tolist() == [1, -1, 2, 4, -1, 5]
    assert twice.source_words == (0, 3) and twice.edit_words == (1, 4)
    assert twice.weights.tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("latent", "halvings", "level"),
    [((64, 64), {0, 1, 2, 3}, 3), ((64, 96), {0, 1, 2}, 2), ((12, 12), {1, 2}, 1), ((8, 8), {0, 1}, 0),
     ((4, 4), {0, 1}, 0)],
)  # fmt: skip
def test_level_of_the_maps(latent, halvings, level):
    assert choose_level(latent, halvings) == level


def test_the_mask_is_where_either_map_is_high():
    maps = WordMaps()
    assert maps.mask((16, 16), 0.5) is None
    source, edit = torch.zeros(1, 16, 16), torch.full((1, 16, 16), 5.0)
    source[0, 2, 3], edit[0, 12, 12] = 1.0, 6.0
    maps.add(source, edit)
    mask = maps.mask((16, 16), 0.5)[0, 0]
    expected = torch.zeros(16, 16)
    expected[1:4, 2:5] = expected[11:14, 11:14] = 1  # with neighbours
    assert torch.equal(mask, expected)
    maps.add(torch.zeros(1, 16, 16), torch.zeros(1, 16, 16))
    assert torch.equal(maps.mask((16, 16), 0.5)[0, 0], expected)
    assert maps.mask((32, 16), 0.5).shape == (1, 1, 32, 16)


def test_a_map_without_any_difference_selects_nothing():
    maps = WordMaps()
    maps.add(torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.3))
    assert not maps.mask((8, 8), 0.0).any()


def test_column_maps_are_sums_over_columns_and_means_over_heads():
    probs = torch.rand(2, 4, 6, 5)
    found = column_map(probs, (1, 3), (2, 3))
    assert torch.allclose(found, (probs[..., 1] + probs[..., 3]).mean(1).reshape(2, 2, 3))
    assert not column_map(probs, (), (2, 3)).any()


def test_mixing_is_exact_outside_the_mask():
    source, edit = torch.randn(1, 4, 3, 3) * 1e3, torch.randn(1, 4, 3, 3)
    mask = torch.zeros(1, 1, 3, 3)
    assert torch.equal(mix(source, edit, mask), source)
    mask[..., 0], mask[..., 1] = 1, 0.5
    mixed = mix(source, edit, mask)
    assert torch.allclose(mixed[..., 0], edit[..., 0], atol=1e-3)
    assert torch.allclose(mixed[..., 1], (source + edit)[..., 1] / 2)
    assert torch.equal(mixed[..., 2], source[..., 2])


def test_fixed_point_inversion_undoes_euler_steps():
    """On a smooth denoiser: Euler sampling from the inverted state comes back to the picture, DDIM's less closely."""
    sigmas = [0.0, 0.3, 0.9, 2.0, 4.5]
    picture = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(1))

    def denoise(x, sigma):
        return x / (1 + sigma**2) + 0.1 * torch.sin(x)

    def sample(x):
        for high, low in zip(sigmas[:0:-1], sigmas[-2::-1], strict=True):
            x = x + (low - high) * (x - denoise(x, high)) / high
        return x

    error = {}
    for repetitions in (0, 30):
        states = invert(denoise, picture, sigmas, repetitions)
        assert len(states) == 5 and torch.equal(states[0], picture)
        error[repetitions] = float((sample(states[-1]) - picture).abs().max())
    # Each step is solved to 1e-4 of the state's length.
    assert error[30] < 2e-3 < error[0]


def test_inversion_that_drifts_apart_keeps_the_best_it_found():
    """eps grows five-fold with every repetition; the guess of DDIM stays, and nothing overflows."""
    states = invert(lambda x, sigma: x - 6 * sigma * x, torch.ones(1, 4, 2, 2), [0.0, 1.0], 200)
    assert torch.isfinite(states[-1]).all()


def test_inversion_reports_and_may_be_stopped():
    seen = []

    def stop(done, x, denoised):
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert(lambda x, sigma: x * 0, torch.ones(1, 4, 2, 2), [0.0, 1.0, 2.0, 3.0], 1, stop)
    assert seen == [1, 2]
