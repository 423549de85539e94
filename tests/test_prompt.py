"""Templates and rows: the released truncation, free placement, long prompts, weights."""

import pytest
import torch

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.prompts.rows import ROW_POSITIONS, SENTINEL, arrange, compose, find_tokens
from blipdiff_impl.prompts.tokenizers import clip_ids

VECTORS = torch.arange(16.0)[:, None].repeat(1, 4)


def tokens(text, weight=1.0):
    return [(i, weight) for i in clip_ids(text)]


def rows_of(text, vectors=VECTORS):
    return arrange(tokens(text.first), tokens(text.repeat), text.repetitions, clip_ids(SENTINEL), vectors)


def ids_of(row):
    return [item for item, _ in row if isinstance(item, int)]


def places_of(row):
    return [position for position, (item, _) in enumerate(row) if isinstance(item, torch.Tensor)]


@pytest.mark.parametrize("prompt", ["swimming underwater", "on a marble table", "in the snow, at night"])
def test_released_template_is_the_released_truncation(prompt):
    """`a {category} {prompt}` twenty times, tokenised with max_length 61, vectors spliced at index 2 of the whole."""
    (row,) = rows_of(compose(prompt, "dog"))
    released = clip_ids(", ".join([f"a dog {prompt}"] * 20))[:59]
    assert ids_of(row) == released
    assert places_of(row) == list(range(1, 17))  # index 2..17 once the start token stands before them
    assert len(row) == ROW_POSITIONS


def test_twelve_repetitions_survive():
    (row,) = rows_of(compose("swimming underwater", "dog"))
    assert ids_of(row).count(clip_ids("underwater")[0]) == 12


@pytest.mark.parametrize(
    ("strength", "reps", "phrases"), [(1.0, 3, 3), (0.5, 4, 2), (0.0, 20, 1), (2.0, 2, 4), (1, 1, 1)]
)
def test_phrases_are_strength_times_repetitions_and_never_none(strength, reps, phrases):
    (row,) = rows_of(compose("asleep", "cat", prompt_strength=strength, prompt_reps=reps))
    assert ids_of(row).count(clip_ids("cat")[0]) == phrases


def test_paper_template_puts_the_subject_last():
    (row,) = rows_of(compose("on a beach", "dog", template="paper"))
    assert ids_of(row) == clip_ids("on a beach, the dog is")
    assert places_of(row) == list(range(len(row) - 16, len(row)))


def test_marker_places_the_subject_in_either_template():
    for template in ("released", "paper"):
        text = compose("a photo of my [subject] dog", "ignored", template)
        (row,) = rows_of(text)
        assert ids_of(row) == clip_ids("a photo of my dog")
        assert places_of(row) == list(range(4, 20))
        assert text.plain == "a photo of my dog"


def test_vectors_keep_order_and_take_the_weight_at_their_place():
    first = tokens("my") + tokens(SENTINEL, 1.3) + tokens("dog")
    (row,) = arrange(first, [], 0, clip_ids(SENTINEL), VECTORS)
    assert [weight for item, weight in row if isinstance(item, torch.Tensor)] == [1.3] * 16
    assert [float(item[0]) for item, _ in row if isinstance(item, torch.Tensor)] == list(range(16))


def test_long_prompt_goes_on_in_further_rows_without_repetition():
    prompt = " ".join(["big red house"] * 40)
    rows = rows_of(compose(prompt, "dog"))
    assert [len(row) for row in rows] == [75, 63]
    assert sum((ids_of(row) for row in rows), []) == clip_ids(f"a dog {prompt}")


@pytest.mark.parametrize("words_before", [58, 59, 60, 61, 70, 75, 80])
def test_a_subject_is_never_cut_in_two(words_before):
    rows = rows_of(compose("red " * words_before + "[subject] dog", "dog"))
    holders = [row for row in rows if places_of(row)]
    assert len(holders) == 1 and len(places_of(holders[0])) == 16
    assert sum((ids_of(row) for row in rows), []) == clip_ids("red " * words_before + "dog")
    assert all(len(row) <= ROW_POSITIONS for row in rows)


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_the_subject_alone(prompt):
    text = compose(prompt, "dog", prompt_reps=3)
    assert (text.first, text.repeat, text.repetitions) == (f"a {SENTINEL} dog", ", a dog", 2) and text.plain == "a dog"
    paper = compose(prompt, "dog", template="paper")
    assert (paper.first, paper.plain) == (f"the dog is {SENTINEL}", "the dog")


@pytest.mark.parametrize("marker", ["[Subject]", "[ subject ]", "[SUBJECT\n]"])
def test_a_marker_may_be_written_otherwise(marker):
    assert compose(f"my {marker} dog", "cat") == compose("my [subject] dog", "cat")
    with pytest.raises(SubjectError, match="2 times"):
        compose(f"[subject] and {marker}", "dog")


def test_two_markers_and_unknown_templates_are_refused():
    with pytest.raises(SubjectError, match="2 times"):
        compose("[subject] and [subject]", "dog")
    with pytest.raises(SubjectError, match="1000000 letters, and at most 32000"):
        compose("word " * 200_000, "dog")
    with pytest.raises(SubjectError) as refused:
        compose("on a beach", "dog", template="mine" * 5_000)
    assert len(str(refused.value)) < 300
    with pytest.raises(SubjectError, match="'mine' is unknown"):
        compose("on a beach", "dog", template="mine")


def test_lost_sentinel_is_refused():
    with pytest.raises(SubjectError, match="place was lost"):
        arrange(tokens("a dog"), [], 0, clip_ids(SENTINEL), VECTORS)


@pytest.mark.parametrize(
    ("items", "sought", "first", "places"),
    [
        ([5, 6, 5, 6, 5], [5, 6, 5], 0, [0, 2]),
        ([5, 5, 6, 5, 5, 6, 7], [5, 6], 2, [4]),
        ([5, 5, 5, 6], [5, 5, 6], 0, [1]),
        ([5, VECTORS[0], 6], [5, VECTORS[0], 6], 0, []),
        ([5, VECTORS[0], 6], [6], 0, [2]),
        ([5, 6], [7], 0, []),
        ([5, 6], [], 0, []),
    ],
)
def test_tokens_are_found_inside_tokens(items, sought, first, places):
    assert list(find_tokens(items, sought, first)) == places
