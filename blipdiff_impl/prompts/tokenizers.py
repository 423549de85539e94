"""The two tokenizers of the method: word pieces for the subject's category, byte-pair encoding for the prompt.

The CLIP vocabulary is derived from the merge list that travels with the pack; word pieces come with the checkpoint,
or from the BERT list that travels with the pack where a released layout carries none.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from ..errors import SubjectError, excerpt

DATA = Path(__file__).parents[1] / "data"

CLIP_START = 49406
CLIP_END = 49407  # also the padding id of Stable Diffusion 1.5
WORD_PIECE_PAD = 0

# Punctuation that the released caption processor turns into spaces (docs/method.md 3.1).
_CAPTION_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
# CLIP's own word pattern: contractions, letters, single digits, runs of anything else.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def bert_word_pieces() -> list[str]:
    """The 30,522 pieces of the uncased BERT vocabulary, in id order."""
    return (DATA / "bert_uncased_vocab.txt").read_text(encoding="utf-8").splitlines()


def normalise_category(category: str) -> str:
    """A category as the released caption processor leaves it: lower case, sentence punctuation and extra space gone.

    Raises:
        SubjectError: nothing is left.
    """
    if not isinstance(category, str):
        raise SubjectError(
            f"The category should be a word such as 'dog', but it is of the type {type(category).__name__}."
        )
    cleaned = " ".join(_CAPTION_PUNCTUATION.sub(" ", category.lower()).split())
    if not cleaned:
        raise SubjectError(
            f"The category is empty (given: {excerpt(category)}). Name the subject in a word or two, such as 'dog' or "
            "'mug'."
        )
    return cleaned


class WordPieceTokenizer:
    """Category text to word-piece ids `[CLS] pieces [SEP]`, one row per text, padded with 0 to the longest.

    Args:
        pieces: the vocabulary in id order; must hold `[UNK]`, `[CLS]` and `[SEP]`.
        max_length: rows that the Q-Former has positions for.
    """

    def __init__(self, pieces: list[str], max_length: int = 512):
        from tokenizers import BertWordPieceTokenizer

        if missing := {"[UNK]", "[CLS]", "[SEP]"} - set(pieces):
            raise SubjectError(
                f"The model's word-piece vocabulary ({len(pieces)} entries) lacks {', '.join(sorted(missing))}. "
                "Convert the checkpoint again."
            )
        self._tokenizer = BertWordPieceTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, lowercase=True)
        self._max_length = max_length

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Word-piece ids of each text, unpadded.

        Raises:
            SubjectError: a text has more pieces than the model has positions.
        """
        rows = [self._tokenizer.encode(text).ids for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self._max_length:
                raise SubjectError(
                    f"The category {text[:60]!r}... has {len(row)} word pieces, the model reads at most "
                    f"{self._max_length}. Name the subject in a word or two."
                )
        return rows

    def batch(self, texts: list[str]):
        """Padded ids and attention mask, both int64 `[B, T]`; the mask is 1 on real pieces."""
        import torch

        rows = self.ids(texts)
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), WORD_PIECE_PAD, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return ids, mask


@lru_cache(maxsize=1)
def _clip_bpe():
    """CLIP's byte-pair tokenizer over the merge list; adds no start or end token."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    lines = (DATA / "clip_merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = [(first, second) for first, second in (line.split() for line in lines if line)]
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    bpe = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token="<|endoftext|>",
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_letters() -> list[str]:
    """The 256 printable letters that stand for bytes, in CLIP's vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def clip_ids(text: str) -> list[int]:
    """CLIP token ids of a text, without start, end or padding."""
    return _clip_bpe().encode(text, add_special_tokens=False).ids
