"""Token ids against transformers' own tokenizers and the published check values (docs/method.md 12)."""

import pytest

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.prompts.tokenizers import (
    DATA,
    WordPieceTokenizer,
    _clip_bpe,
    bert_word_pieces,
    clip_ids,
    normalise_category,
)

TEXTS = [
    "a cat sit on sofa",
    "A Dog's  t-shirt, 42 times! (wow)",
    "naïve café 漢字 🐶",
    "   ",
    "x" * 300,
    "don't we'll I'D",
    "a\n b\t c",
    ", ".join(["a dog swimming underwater"] * 20),
]


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    _clip_bpe().model.save(str(folder))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12])
def test_clip_ids_equal_transformers(clip_tokenizer, text):
    assert clip_ids(text) == clip_tokenizer(text, add_special_tokens=False)["input_ids"]


def test_published_ids():
    assert clip_ids("a cat sit on sofa") == [320, 2368, 4037, 525, 15723]
    assert clip_ids("dog sks") == [1929, 48136]
    # 101 and 141 ids with start and end
    assert len(clip_ids(", ".join(["a dog swimming underwater"] * 20))) == 99
    assert len(clip_ids(", ".join(["a teapot on a marble table"] * 20))) == 139


@pytest.mark.parametrize("text", ["dog", "grey sloth plushie", "t-shirt", "Café", "🐶 dog"])
def test_word_pieces_equal_transformers(text):
    from transformers import BertTokenizer

    reference = BertTokenizer(str(DATA / "bert_uncased_vocab.txt"))
    assert WordPieceTokenizer(bert_word_pieces()).ids([text]) == [reference(text)["input_ids"]]


def test_word_piece_batch_is_padded_to_the_longest():
    ids, mask = WordPieceTokenizer(bert_word_pieces()).batch(["dog", "teddy bear"])
    assert ids.tolist() == [[101, 3899, 102, 0], [101, 11389, 4562, 102]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_category_is_normalised_like_the_release():
    assert normalise_category("  My *Dog*: (big)! ") == "my dog big"
    assert normalise_category("t-shirt, red") == "t-shirt, red"


@pytest.mark.parametrize("category", ["", "  ", "...", None, 3])
def test_empty_category_is_refused(category):
    with pytest.raises(SubjectError, match="category"):
        normalise_category(category)


def test_a_category_longer_than_the_model_reads_is_refused():
    with pytest.raises(SubjectError, match="12 word pieces, the model reads at most 8"):
        WordPieceTokenizer(bert_word_pieces(), max_length=8).ids(["dog " * 10])


def test_a_vocabulary_without_special_pieces_is_refused():
    with pytest.raises(SubjectError, match=r"\[CLS\]"):
        WordPieceTokenizer(["dog", "[UNK]", "[SEP]"])
