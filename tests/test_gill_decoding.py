"""The rules by which words and pictures are chosen (method.md 14.6), on scripted logits, against results by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.gill.decoding import choose, decode
from blipdiff_impl.gill.decoding_settings import DecodingSettings

IMAGE = tuple(range(20, 28))
WORDS, END, LINE = 28, 2, 10


class Scripted:
    """A language model whose logits come from a list, one row a word, and that notes what it reads.

    A state is the number of positions read so far: so states can be told apart, and the row is found from them.
    """

    def __init__(self, script):
        self.script, self.read_at = [row(each) for each in script], []
        self.sizes = SimpleNamespace(end=END)
        self.tokenizer = SimpleNamespace(newline=LINE)
        self.position, self.asked = 0, 0

    def embed(self, ids):
        return torch.tensor(ids, dtype=torch.float32)[None, :, None].expand(1, -1, 4).clone()

    def read(self, embeddings, cache):
        self.read_at.append(embeddings[0, :, 0].int().tolist())
        places = torch.arange(self.position, self.position + embeddings.shape[1], dtype=torch.float32)
        self.position += embeddings.shape[1]
        return places[None, :, None].expand(1, -1, 4).clone()

    def logits(self, states):
        self.asked += 1
        return self.script[min(self.asked - 1, len(self.script) - 1)][None]


def row(likely):
    """Logits with the given ones; a number alone is the token that wins."""
    logits = torch.full((WORDS,), -5.0)
    for token, value in likely.items() if isinstance(likely, dict) else [(likely, 3.0)]:
        logits[token] = value
    return logits


def run(script, prompt=(1, 1, 1), **settings):
    model, told = Scripted(script), []
    found = decode(
        model, model.embed(prompt), DecodingSettings(**settings), IMAGE, lambda done, total: told.append((done, total))
    )
    return list(found.ids), found.states, model, told


def test_a_picture_takes_eight_tokens_and_its_states_are_read_at_once():
    ids, states, model, told = run([7, IMAGE[0]])
    assert ids == [7, *IMAGE] and model.read_at == [[1, 1, 1], [7], list(IMAGE)]
    assert states.shape == (1, 8, 4) and states[0, :, 0].tolist() == list(range(4, 12))
    assert told == [(1, 32), (2, 32)]


def test_in_the_very_last_step():
    ids, states, *_ = run([7, 8, IMAGE[0]], max_new_tokens=3)
    assert ids == [7, 8, *IMAGE] and states[0, 0, 0] == 5


def test_the_seven_others_are_never_chosen():
    ids, states, *_ = run([{IMAGE[1]: 9.0, IMAGE[7]: 8.0, 6: 1.0}], max_new_tokens=2)
    assert ids == [6, 6] and states.shape == (0, 8, 4)


def test_no_picture_before_the_words_that_are_asked_for():
    ids, *_ = run([{IMAGE[0]: 9.0, 6: 1.0}], min_words=2)
    assert ids == [6, 6, *IMAGE]


@pytest.mark.parametrize("bias, logit, chosen", [
    (1.0, -4.0, 6), (1.0, 2.0, 6), (2.0, 2.0, IMAGE[0]), (1.5, 2.0, 6), (2.0, -2.0, IMAGE[0]), (0.5, 4.0, IMAGE[0]),
    (0.0, 2.0, 6),
])  # fmt: skip
def test_bias(bias, logit, chosen):
    """Against a word of weight 3: the absolute value times the bias, and nothing for 1 or less."""
    ids, *_ = run([{IMAGE[0]: logit, 6: 3.0}], picture_bias=bias, max_new_tokens=1)
    assert ids[0] == chosen


def test_no_bias_before_the_words_that_are_asked_for():
    assert run([{IMAGE[0]: 2.0, 6: 3.0}], picture_bias=100.0, min_words=1)[0] == [6, *IMAGE]


def test_text_only():
    assert run([{IMAGE[0]: 9.0, 6: 1.0}, END], mode="text only", picture_bias=100.0)[0] == [6]


def test_a_forced_picture_comes_at_once_after_words_or_at_the_end():
    ids, states, model, _ = run([6], mode="force picture")
    assert ids == list(IMAGE) and model.read_at == [[1, 1, 1, *IMAGE]] and states[0, 0, 0] == 3
    assert run([6], mode="force picture", min_words=2)[0] == [6, 6, *IMAGE]
    assert run([6, END], mode="force picture", min_words=9)[0] == [6, *IMAGE]
    assert run([6, LINE], mode="force picture", min_words=9)[0] == [6, *IMAGE]
    ids, states, model, told = run([6], mode="force picture", min_words=9, max_new_tokens=3)
    assert ids == [6, 6, 6, *IMAGE] and states[0, 0, 0] == 6 and model.read_at[-1] == [6, *IMAGE]
    assert told[-1] == (3, 3)


def test_several_pictures():
    ids, states, *_ = run([6, IMAGE[0], 7, IMAGE[0], 8], max_pictures=2)
    assert ids == [6, *IMAGE, 7, *IMAGE] and states[:, 0, 0].tolist() == [4, 13]
    ids, states, *_ = run([6, IMAGE[0], 7, END], max_pictures=2)
    assert ids == [6, *IMAGE, 7] and len(states) == 1
    assert run([IMAGE[0], IMAGE[0]], max_pictures=2, max_new_tokens=2)[0] == [*IMAGE, *IMAGE]
    assert run([7, END], mode="force picture", max_pictures=2)[0] == [*IMAGE, 7]


def test_where_a_reply_ends():
    assert run([6, END])[0] == [6]
    assert run([6, LINE, 7])[0] == [6]
    assert run([LINE, 6, LINE, 7, END])[0] == [LINE, 6, LINE, 7]  # one that begins with a new line has no such end
    assert run([6], max_new_tokens=3)[0] == [6, 6, 6]


def test_chance():
    logits = torch.full((WORDS,), -math.inf)
    logits[[4, 5, 6]] = torch.tensor([2.0, 1.0, 0.0])

    def draws(count=1500, **settings):
        settings, chance = DecodingSettings(**settings), torch.Generator().manual_seed(0)
        found = [choose(logits, 0, settings, IMAGE, chance) for _ in range(count)]
        return [found.count(token) / count for token in (4, 5, 6)]

    weights = [math.exp(value / 2) for value in (2, 1, 0)]
    expected = [each / sum(weights) for each in weights]
    assert draws(temperature=2.0) == pytest.approx(expected, abs=0.05)
    half = [each / sum(expected[:2]) for each in expected[:2]]
    assert expected[0] < 0.6 < sum(expected[:2]) and draws(temperature=2.0, top_p=0.6) == pytest.approx(
        [*half, 0], abs=0.05
    )
    assert draws(50, temperature=2.0, top_p=0.05) == [1, 0, 0]
    assert draws(50, temperature=0.0) == [1, 0, 0]


def test_a_huge_bias_with_chance():
    logits = row({IMAGE[0]: 90.0, 6: 3.0})
    settings = DecodingSettings(temperature=0.01, picture_bias=1000.0)
    assert choose(logits, 0, settings, IMAGE, torch.Generator()) == IMAGE[0]


def test_one_seed_one_reply():
    flat = torch.zeros(WORDS)
    flat[END] = flat[LINE] = -math.inf

    def reply(seed):
        model = Scripted([6])
        model.script = [flat]
        return decode(
            model, model.embed([1]), DecodingSettings(temperature=1.0, seed=seed, mode="text only"), IMAGE
        ).ids

    assert reply(3) == reply(3) != reply(4)


@pytest.mark.parametrize("settings, said", [
    ({"mode": "draw"}, "mode = 'draw' is unknown; choose one of force picture, let it decide, text only"),
    ({"top_p": 0.0, "temperature": 1.0}, "top_p = 0.0 is not possible"),
    ({"top_p": 1.5, "temperature": 1.0}, "top_p = 1.5 is not possible"),
    ({"top_p": math.nan}, "top_p = nan"),
    ({"top_p": 0.9}, "top_p = 0.9 has nothing to choose from at temperature 0"),
    ({"temperature": -1.0}, "temperature = -1.0"), ({"temperature": math.inf}, "temperature = inf"),
    ({"max_new_tokens": 0}, "max_new_tokens = 0"), ({"min_words": -1}, "min_words = -1"),
    ({"picture_bias": -1.0}, "picture_bias = -1.0"), ({"max_pictures": 0}, "max_pictures = 0"),
    ({"seed": -1}, "seed = -1"),
])  # fmt: skip
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(SubjectError) as error:
        DecodingSettings(**settings)
    assert said in str(error.value)


def test_numbers_that_are_none():
    with pytest.raises(SubjectError, match="became NaN.*bf16 or fp32"):
        run([{6: math.nan}])
    with pytest.raises(SubjectError, match="The prompt is empty"):
        run([6], prompt=())
