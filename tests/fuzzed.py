"""Damaged files for the tests of all readers, and what no sentence to a user may hold."""

import random
import re

from blipdiff_impl.errors import SubjectError

# Classes and phrases of PyTorch, its unpickler, zipfile, safetensors and Python, and advice that nobody should follow.
UNSAID = re.compile(
    r"weights_only|weights only|unsafe|arbitrary code|torch\.load|torch\.serialization|safe_globals|[Uu]npickl"
    r"|BadZipFile|LargeZipFile|zlib|span multiple|central directory|magic number|PytorchStream|miniz"
    r"|SafetensorError|safetensors_rust|deserializ|HeaderToo|InvalidHeader|MetadataIncomplete|TensorInvalid|InvalidOffset"
    r"|Traceback|Exception|(?<!Subject)(?<!Checkpoint)Error\b|state_dict|size mismatch|object has no|not subscriptable"
)
_FOREIGN = ("torch", "zipfile", "zlib", "safetensors", "pickle", "_pickle", "struct", "transformers", "huggingface_hub")


def flipped(content, count, seed, most=None):
    """`count` copies with one to three random bits turned in the first `most` bytes (default: anywhere)."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            changed[draw.randrange(most or len(content))] ^= 1 << draw.randrange(8)
        yield bytes(changed)


def cut(content, count, seed):
    """`count` beginnings, and as many copies with a piece missing inside."""
    draw = random.Random(seed)
    for _ in range(count):
        yield content[: draw.randrange(len(content))]
        start = draw.randrange(len(content))
        yield content[:start] + content[start + draw.randrange(1, 64) :]


def require_plain(error, where=""):
    """An error is one of the project's sentences, and nothing that is logged with it is anybody else's."""
    assert isinstance(error, ValueError) and type(error).__name__ in ("SubjectError", "CheckpointError"), (where, error)
    assert not UNSAID.search(str(error)), (where, str(error))
    assert len(str(error)) < 4000, (where, str(error)[:500])
    while error := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        assert type(error).__module__.partition(".")[0] not in _FOREIGN, (where, repr(error))
        assert not UNSAID.search(str(error)), (where, repr(error))


def refusals(read, path, contents):
    """How many of the contents `read(path)` refused; all others it took, and nothing else happened."""
    count = 0
    for number, content in enumerate(contents):
        path.write_bytes(content)
        try:
            read(path)
        except SubjectError as error:
            require_plain(error, f"content {number}")
            count += 1
    return count
