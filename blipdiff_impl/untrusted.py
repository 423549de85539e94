"""What a file states, read so that neither its depth nor its length does harm."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
import zlib

# What readers written by others raise on damaged and hostile files; libraries add classes of their own. Their sentences
# are not passed on: they name inner matters, and PyTorch's advises to load without protection. Raise `from None`.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

MOST_JSON = 8 << 20  # bytes; the configuration of a model is a few kilobytes, a header with word pieces half a megabyte


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested deeper than any record of this project.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
