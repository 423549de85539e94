"""Editing without a host: alignment of prompts, words, refinement of attention, masks, and inversion as plain maths."""

import random
import tracemalloc

import pytest
import torch

from blipdiff_impl.blip_diffusion.editing.blend import WordMaps, choose_layers, column_map, mix
from blipdiff_impl.blip_diffusion.editing.control import Columns, refine
from blipdiff_impl.blip_diffusion.editing.inversion import invert
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.prompts.alignment import NO_MATCH, Alignment, align, find_words
from blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from blipdiff_impl.prompts.words import compose_edit, listed, missing_word, parse_weights

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


def every_alignment(source, target):
    """All ways to pair equal symbols in order, as sets of (place in source, place in target)."""
    if not source or not target:
        return [()]
    shorter = every_alignment(source[:-1], target) + every_alignment(source, target[:-1])
    if source[-1] == target[-1]:
        pair = (len(source) - 1, len(target) - 1)
        shorter += [(*rest, pair) for rest in every_alignment(source[:-1], target[:-1])]
    return list(set(shorter))


def test_no_other_alignment_pairs_more():
    """Every text of up to five of two letters, against every way to align it with another."""
    dice = random.Random(5)
    for _ in range(60):
        texts = [[dice.choice((7, 8)) for _ in range(dice.randint(0, 5))] for _ in range(2)]
        mapper = align(row(*texts[0]), row(*texts[1]), CLIP_END).mapper.tolist()
        pairs = tuple((mapper[1 + j] - 1, j) for j in range(len(texts[1])) if mapper[1 + j] != NO_MATCH)
        possible = every_alignment(*texts)
        assert pairs in possible
        most = [each for each in possible if len(each) == max(map(len, possible))]
        assert len(pairs) == len(most[0])
        # Read from the end, symbols of the target are left alone first, then those of the source.
        assert pairs == min(most, key=lambda each: [(j, i) for i, j in reversed(each)])


def test_long_prompts_take_little_memory():
    """A table of all scores would take 128 MB and minutes."""
    words = [dice_word % 3000 for dice_word in range(1, 5 * 75 * 40, 5)]
    source = [each for at in range(0, len(words), 75) for each in row(*words[at : at + 75])]
    target = [each for at in range(0, len(words), 75) for each in row(*words[at + 1 : at + 75])]
    tracemalloc.start()
    try:
        found = align(source, target, CLIP_END)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert int((found.mapper == NO_MATCH).sum()) == 0


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
        ("a cat cat cat, cat", "cat cat", [2, 3, 4]),
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
    for marker in ("[Subject]", "[ subject ]", "[SUBJECT\n]"):
        assert compose_edit("cat", "dog", f"a sofa with a {marker} on it", with_subject=False) == compose_edit(
            "cat", "dog", "a sofa with a [subject] on it", with_subject=False
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("", "dog", "x"), "category is empty"), (("cat", " ", "x"), "category is empty"),
     (("cat", "dog", "[subject] and [ Subject ]"), "2 times"),
     (("cat", "dog", "word " * 200_000), "1000000 letters, and at most 32000")],
)  # fmt: skip
def test_texts_that_cannot_be_edited(arguments, said):
    with pytest.raises(SubjectError, match=said):
        compose_edit(*arguments)


def test_weights_of_words():
    assert parse_weights(" snow: 1.5, [subject]:2 ,") == {"snow": 1.5, "[subject]": 2.0}
    assert parse_weights("[ Subject ]: .5") == {"[subject]": 0.5}
    assert parse_weights("") == {} and listed(" a , b c,, ") == ["a", "b c"]
    for wrong in ("snow", "snow:", ":2", "snow: much", "snow: -1", "snow: nan", "snow: 1e9", "snow: 21"):
        with pytest.raises(SubjectError, match="reweight|too large"):
            parse_weights(wrong)


def test_a_missing_word_names_those_that_are_there():
    assert (
        str(missing_word("dog", "a cat, on a sofa")) == "'dog' is not in the prompt. Its words are: a, cat, on, sofa."
    )


def test_messages_quote_a_part_of_long_texts():
    long = "word" * 8000
    for text in (long, ", ".join(f"word{i}" for i in range(3000))):
        assert len(str(missing_word(text, text))) < 1500
        with pytest.raises(SubjectError) as refused:
            parse_weights(text)
        assert len(str(refused.value)) < 300


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


# Stable Diffusion 1.5: where its attention is, and how often the latent's sides are halved there.
RELEASED_BLOCKS = {
    ("input", 1): 0, ("input", 2): 0, ("input", 4): 1, ("input", 5): 1, ("input", 7): 2, ("input", 8): 2,
    ("middle", 0): 3,
    ("output", 3): 2, ("output", 4): 2, ("output", 5): 2, ("output", 6): 1, ("output", 7): 1, ("output", 8): 1,
    ("output", 9): 0, ("output", 10): 0, ("output", 11): 0,
}  # fmt: skip
READ_BY_THE_RELEASE = {("input", 7), ("input", 8), ("output", 3), ("output", 4), ("output", 5)}


@pytest.mark.parametrize("width", range(256, 1025, 64))
@pytest.mark.parametrize("height", [256, 264, 512, 520, 768, 1024])
def test_the_mask_comes_from_the_layers_that_the_release_reads(height, width):
    assert choose_layers((height // 8, width // 8), RELEASED_BLOCKS) == READ_BY_THE_RELEASE


@pytest.mark.parametrize(
    ("latent", "blocks", "layers"),
    [((16, 16), RELEASED_BLOCKS, {("input", 4), ("input", 5), ("output", 6), ("output", 7), ("output", 8)}),
     ((12, 12), {("input", 4): 1, ("input", 6): 2, ("middle", 0): 2, ("output", 1): 2, ("output", 3): 1},
      {("input", 4), ("output", 3)}),
     ((4, 4), {("input", 1): 0, ("input", 3): 1}, {("input", 1)}),
     ((64, 64), {("middle", 0): 3}, {("middle", 0)})],
    ids=["128 pixels", "the embedded model", "tiny", "nothing but the middle"],
)  # fmt: skip
def test_small_pictures_take_finer_layers(latent, blocks, layers):
    assert choose_layers(latent, blocks) == layers


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


def test_columns_that_are_appended_later_belong_to_both_and_to_no_word():
    columns = Columns(
        Alignment(torch.tensor([0, 2, -1]), torch.tensor([1.0, 1.0, 0.0])), (1,), (2,), torch.full((3,), 2.0)
    )
    longer = columns.extended(5)
    assert longer.alignment.mapper.tolist() == [0, 2, -1, 3, 4] and longer.alignment.matched.tolist() == [1, 1, 0, 1, 1]
    assert (longer.source_words, longer.edit_words) == ((1,), (2,)) and longer.weights.tolist() == [2, 2, 2, 1, 1]
    twice = longer.repeated(2)
    assert twice.alignment.mapper.tolist() == [0, 2, -1, 3, 4, 5, 7, -1, 8, 9] and twice.edit_words == (2, 7)


def test_maps_of_several_sizes_and_areas_come_together_on_the_latent():
    """A bright column at three quarters of the width, seen by layers of two sizes, or by a prompt on the right half."""

    def bright(height, width, column):
        seen = torch.zeros(1, height, width)
        seen[..., column] = 1
        return seen

    latent, dark = (16, 32), torch.zeros(1, 4, 8)
    sizes, right = WordMaps(), WordMaps()
    for height, width, column in ((8, 16, 12), (5, 11, 8)):
        sizes.add(bright(height, width, column), torch.zeros(1, height, width))
    right.add(bright(8, 8, 4), bright(8, 8, 4), (16, 16, 0, 16))
    for maps in (sizes, right):
        mask = maps.mask(latent, 0.5)
        assert mask.shape == (1, 1, *latent) and mask[..., 24:26].all() and not mask[..., :16].any()
    # A prompt that is bright all over its area says nothing of what is outside, however near.
    everywhere = WordMaps()
    everywhere.add(torch.ones(1, 8, 8), torch.ones(1, 8, 8), (16, 16, 0, 16))
    everywhere.add(dark, dark)
    assert everywhere.mask(latent, 0.0)[..., 16:].any()
    alone = WordMaps()
    alone.add(bright(8, 8, 0), bright(8, 8, 0), (16, 16, 0, 16))
    assert alone.mask(latent, 0.0)[..., 16:18].all() and not alone.mask(latent, 0.0)[..., :16].any()
