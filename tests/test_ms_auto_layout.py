"""Auto layout: when the prompt's attention takes over from the boxes, and which words it looks for."""

import pytest
import torch

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.ms_diffusion.auto_layout import AutoLayout, above
from blipdiff_impl.ms_diffusion.phrases import checked_phrase, phrase_columns
from blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START, clip_ids

HEADS = 2


def scripted(seed, batch=2, places=12, keys=9, width=8):
    torch.manual_seed(seed)
    return 3 * torch.randn(batch, places, width), 3 * torch.randn(batch, keys, width)


def map_by_hand(q, k, columns):
    """Mean probability over heads and columns, `[B, places]`."""
    total = torch.zeros(q.shape[:2])
    for head in range(HEADS):
        part = slice(head * 4, head * 4 + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2
        total += scores.softmax(-1)[..., list(columns)].mean(-1)
    return total / HEADS


def mask_by_hand(maps, threshold):
    mean = torch.stack(maps).mean(0)
    low, high = mean.min(-1, keepdim=True).values, mean.max(-1, keepdim=True).values
    return (mean - low) / (high - low + 1e-5) > threshold


@pytest.mark.parametrize("first", [1, 5])
def test_maps_take_over_in_the_named_evaluation(first):
    columns = ((2,), (4, 5))
    layout = AutoLayout(columns, 0.5, first)
    seen = []
    for evaluation in range(1, 9):
        q, k = scripted(evaluation)
        seen.append([map_by_hand(q, k, each) for each in columns])
        found = layout.masks(("output", 0, 1), q, k, HEADS, 9)
        if evaluation < first:
            assert found is None
            continue
        expected = torch.stack([mask_by_hand([maps[subject] for maps in seen], 0.5) for subject in range(2)], dim=1)
        assert found.dtype == torch.bool and torch.equal(found, expected)
        assert found.any() and not found.all()


def test_the_default_is_the_fifth_evaluation():
    layout = AutoLayout(((1,),))
    calls = [layout.masks("a layer", *scripted(i), HEADS, 9) for i in range(6)]
    assert [found is None for found in calls] == [True] * 4 + [False] * 2


def test_layers_have_means_of_their_own_and_a_run_begins_anew():
    layout = AutoLayout(((1,),), first=2)
    q, k = scripted(0)
    other = scripted(1, places=6)
    assert layout.masks("coarse", *other, HEADS, 9) is None and layout.masks("fine", q, k, HEADS, 9) is None
    assert layout.masks("fine", q, k, HEADS, 9).shape == (2, 1, 12)
    layout.begin()
    assert layout.masks("fine", q[:1], k[:1], HEADS, 9) is None
    expected = mask_by_hand([map_by_hand(q[:1], k[:1], (1,))], 0.5)
    assert torch.equal(layout.masks("fine", q[:1], k[:1], HEADS, 9)[:, 0], expected)


def test_a_prompt_that_the_host_repeats():
    """Two copies of the columns side by side: a word's map is the sum over its copies."""
    q, k = scripted(0)
    repeated = AutoLayout(((1, 2),), first=1).masks("a", q, torch.cat([k, k], 1), HEADS, 9)
    assert torch.equal(repeated, AutoLayout(((1, 2),), first=1).masks("a", q, k, HEADS, 9))


def test_the_threshold_moves_the_border():
    maps = torch.linspace(0, 1, 11)[None, None]
    assert [int(above(maps, threshold).sum()) for threshold in (0, 0.25, 0.5, 0.75, 1)] == [10, 8, 5, 3, 0]


def test_a_map_without_ups_and_downs_covers_nothing():
    assert not above(torch.full((1, 1, 8), 0.01), 0.5).any()


@pytest.mark.parametrize("settings, said", [
    ({"threshold": 1.5}, "threshold = 1.5"), ({"threshold": float("nan")}, "threshold = nan"),
    ({"first": 0}, "start_step = 0 is not possible; choose a number at least 1"),
])  # fmt: skip
def test_settings_out_of_range(settings, said):
    with pytest.raises(SubjectError, match=said):
        AutoLayout(((1,),), **settings)


# --- the words

WORDS = {
    word: 100 + number for number, word in enumerate("a the cat dog hot toy and on - . , ! ? : bear teddy".split())
}
START, END = 1, 2


def chunks(*texts):
    """Prompts of spaced words as chunks of 77: start, words, end as padding."""
    ids = []
    for text in texts:
        row = [START, *(WORDS[word] for word in text.split())]
        ids += row + [END] * (77 - len(row))
    return ids


def columns(prompt, *phrases):
    return phrase_columns(
        chunks(*prompt), [(phrase, [WORDS[word] for word in phrase.split()]) for phrase in phrases], END
    )


@pytest.mark.parametrize("prompt, phrases, expected", [
    (["a cat and a dog"], ["cat", "dog"], [(2,), (5,)]),
    (["a cat and a dog"], ["dog", "cat"], [(5,), (2,)]),
    (["a dog , a cat ."], ["cat", "dog"], [(5,), (2,)]),  # marks beside a word
    (["a hot - dog ! the cat ?"], ["dog"], [(4,)]),  # the end of a compound
    (["a teddy bear on a toy bear"], ["toy bear", "teddy bear"], [(6, 7), (2, 3)]),
    (["a dog and a dog"], ["dog", "dog"], [(2,), (5,)]),  # the second subject of a name, its second place
    (["a hot dog and a dog"], ["dog", "hot dog"], [(6,), (2, 3)]),  # longer ones choose first
    (["a dog and a hot dog"], ["hot dog", "dog"], [(5, 6), (2,)]),
    (["the cat", "a dog on the bear"], ["dog", "cat"], [(79,), (2,)]),  # a second chunk
    (["the toy " * 37 + "teddy", "bear"], ["teddy bear"], [(75, 78)]),  # from one chunk to the next
])  # fmt: skip
def test_phrases_in_a_prompt(prompt, phrases, expected):
    assert columns(prompt, *phrases) == tuple(expected)


@pytest.mark.parametrize("prompt, phrases, said", [
    ("a cat", ["dog"], "'dog' is not in the prompt. .*would vanish.*or turn auto layout off"),
    ("a dog on a dog", ["dog"] * 3, "'dog' stands in the prompt 2 times, and other subjects have that"),
    ("a toy dog", ["toy dog", "dog"], "'dog' stands in the prompt 1 time, and other subjects"),
    ("a teddy and a bear", ["teddy bear"], "'teddy bear' is not in the prompt"),
])  # fmt: skip
def test_phrases_that_would_make_a_subject_vanish(prompt, phrases, said):
    with pytest.raises(SubjectError, match=said):
        columns([prompt], *phrases)


def test_phrases_through_the_real_tokenizer():
    """Capitals, marks and words of several tokens."""
    text = "A photo of a Dalmatian, a hot-dog and a teddy bear."
    ids = [CLIP_START, *clip_ids(text), CLIP_END]
    ids += [CLIP_END] * (77 - len(ids))
    names = ["dalmatian", "dog", "teddy bear"]
    found = phrase_columns(ids, [(name, clip_ids(name)) for name in names], CLIP_END)
    assert [[ids[column] for column in each] for each in found] == [clip_ids(name) for name in names]


@pytest.mark.parametrize("phrase", ["", "  \n", None, 3, ["dog"]])
def test_an_empty_phrase(phrase):
    with pytest.raises(SubjectError, match="The phrase of a subject is empty .*Name it as the prompt does"):
        checked_phrase(phrase)


def test_a_phrase_that_is_a_description():
    with pytest.raises(SubjectError, match=r"'dog dog .*' ... \(399 letters\) is too long to name a subject"):
        checked_phrase("dog " * 100)


def test_a_phrase_on_one_line():
    assert checked_phrase("  teddy\n bear ") == "teddy bear"
