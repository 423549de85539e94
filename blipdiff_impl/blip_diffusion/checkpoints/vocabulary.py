"""Word pieces for checkpoints that carry none: the released models were trained with BERT's uncased list."""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckpointError
from ...prompts.tokenizers import bert_word_pieces

# The one piece that the released Q-Former adds; it starts captions in pre-training and is never in a category.
ADDED_PIECE = "[DEC]"


def default_vocabulary(rows: int, path: Path) -> list[str]:
    """BERT's list with the added piece.

    Raises:
        CheckpointError: the Q-Former's table has another number of rows.
    """
    pieces = [*bert_word_pieces(), ADDED_PIECE]
    if rows not in (len(pieces), len(pieces) - 1):
        raise CheckpointError(
            f"The Q-Former in {path} has {rows} word pieces, but the released list has {len(pieces)}. "
            "Put the model's own list, one piece a line, beside its weights as vocab.txt."
        )
    return pieces[:rows]
