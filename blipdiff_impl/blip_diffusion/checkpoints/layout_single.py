"""This pack's own layout: one safetensors file with every part, the sizes and the word pieces (see `write`)."""

from __future__ import annotations

from ...errors import CheckpointError, first_few
from ...untrusted import parse_json
from ...weights.safetensors_file import SafetensorsFile, require_version
from ..config import ModelConfig
from .checkpoint import Checkpoint, PartTensors, StoredTensor
from .expected_shapes import PARTS

FORMAT = "blipdiffusion"
FORMAT_VERSION = "1"
VECTORS = "subject_vectors"

_MOST_WARNINGS, _LONGEST_WARNING = 20, 500


def is_single_file(file: SafetensorsFile) -> bool:
    """Whether the metadata says that this pack wrote the file."""
    return file.metadata.get("format") == FORMAT


def open_single_file(file: SafetensorsFile) -> Checkpoint:
    """Open a file of this pack.

    Raises:
        CheckpointError: it was written by a newer version, or holds tensors of no known part.
    """
    metadata = file.metadata
    require_version(file, FORMAT_VERSION, "convert the checkpoint again")
    parts = {name: PartTensors() for name in PARTS}
    unknown = []
    for name in file.infos:
        part, _, canonical = name.partition(".")
        if part in parts:
            parts[part].add_named(file, {name: canonical})
        elif name != VECTORS:
            unknown.append(name)
    if unknown:
        raise CheckpointError(f"{file.path} holds tensors of no known part: {first_few(unknown)}. Convert it again.")
    return Checkpoint(
        layout="single file",
        path=file.path,
        config=ModelConfig.from_json(metadata.get("config", "")),
        parts=parts,
        metadata=metadata,
        vectors=StoredTensor(file, VECTORS) if VECTORS in file.infos else None,
        word_pieces=metadata["vocabulary"].split("\n") if metadata.get("vocabulary") else None,
        warnings=_sentences(metadata.get("warnings", "[]")),
    )


def _sentences(text: str) -> list[str]:
    """Warnings found when the file was written; a file edited by hand may state none."""
    try:
        sentences = parse_json(text)
    except ValueError:
        return []
    sentences = sentences if isinstance(sentences, list) else []
    return [s[:_LONGEST_WARNING] for s in sentences[:_MOST_WARNINGS] if isinstance(s, str)]
