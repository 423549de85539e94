"""The language model's tokenizer: byte-level pairs, from the files beside its weights (docs/method.md 14.3)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..untrusted import DAMAGE, MOST_JSON
from ..weights.folders import exists, read_config, what_was_found

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"


class TextTokenizer:
    """Text to ids and back. What is typed is text: no word of it becomes a special token."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        newline = self.ids("\n")
        if len(newline) != 1:
            raise CheckpointError(
                f"The tokenizer writes a new line as {len(newline)} tokens, that of OPT as one. Use the tokenizer's "
                "files of the language model."
            )
        self.newline = newline[0]
        self._silent = {tokenizer.token_to_id(name) for name in SPECIAL}

    def to_json(self) -> str:
        """Pieces and pairs, as `from_tables` takes them."""
        model = json.loads(self._tokenizer.to_str())["model"]
        merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
        return json.dumps({"vocab": model["vocab"], "merges": merges}, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_folder(cls, folder: Path) -> TextTokenizer:
        """The tokenizer of a folder: `vocab.json` with `merges.txt`, or `tokenizer.json`.

        Raises:
            CheckpointError: files are missing or damaged.
        """
        try:
            return cls(_make(*_tables(folder)))
        except DAMAGE as error:
            if isinstance(error, CheckpointError):
                raise
            raise _damaged(folder) from None

    @classmethod
    def from_tables(cls, pieces: dict, merges: list) -> TextTokenizer:
        """The tokenizer of pieces with their ids, and pairs that are merged, in order: "a b" or ("a", "b") each.

        Raises:
            ValueError: they do not belong together.
        """
        return cls(_make(pieces, _pairs(merges)))

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without start or end."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def words_in_pieces(self, text: str) -> list[str]:
        """Words of a text that take several tokens: few of an OPT's, all that a small vocabulary does not know."""
        return [word.strip() for word in re.findall(r" ?[^\W\d_]+", text) if len(self.ids(word)) > 1]

    def text(self, ids: list[int]) -> str:
        """The text of ids; padding and the like, and those behind the vocabulary, as [IMG0] is, are left out."""
        return self._tokenizer.decode([each for each in ids if each < self.size and each not in self._silent])


def _make(pieces: dict, merges: list[tuple[str, str]]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    numbers = set(pieces.values())
    if not pieces or numbers != set(range(len(pieces))) or any(type(each) is not int for each in pieces.values()):
        raise ValueError("ids do not follow each other")
    # Looked at before: the library complains by an exception that is of no kind.
    if any(part not in pieces for first, second in merges for part in (first, second, first + second)):
        raise ValueError("a pair makes no piece")
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _tables(folder: Path) -> tuple[dict, list[tuple[str, str]]]:
    """Pieces with their ids, and the pairs that are merged, in order."""
    if exists(folder / VOCABULARY) and exists(folder / MERGES):
        return read_config(folder / VOCABULARY), _pairs(_lines(folder / MERGES))
    if not exists(folder / WHOLE):
        raise CheckpointError(
            f"The language model has no tokenizer. {what_was_found(folder, (VOCABULARY, MERGES, WHOLE))} Download "
            "its folder whole."
        )
    model = read_config(folder / WHOLE)["model"]
    added = {each["content"]: each["id"] for each in read_config(folder / WHOLE).get("added_tokens", [])}
    return {**model["vocab"], **added}, _pairs(model["merges"])


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > MOST_JSON:
        raise ValueError("far longer than any list of merges")
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line.strip() and not line.startswith("#version")]


def _pairs(merges: list) -> list[tuple[str, str]]:
    """Written as pairs, or as two words in one text."""
    pairs = [each.split(" ") if isinstance(each, str) else each for each in merges]
    return [(first, second) for first, second in pairs]


def _damaged(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"The tokenizer in {folder} cannot be read: {VOCABULARY} or {MERGES} (or {WHOLE}) is damaged, or they are of "
        "two models. Download them again."
    )
