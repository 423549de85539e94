"""Pictures that fit what was said: an index of them, scores, and the order of drawn ones (docs/method.md 14.7)."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, SubjectError
from ..untrusted import parse_json
from ..weights.folders import exists, what_was_found
from ..weights.safetensors_file import SafetensorsFile
from ..weights.tensor_file import refuse_wrong_content
from ..weights.writing import write_tensors

FORMAT, FORMAT_VERSION = "gill_index", "1"
MOST_PICTURES = 200_000
SEEN = -1000.0  # the score of a picture that was returned before
_ROWS = "embeddings"


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """What a reply says of the pictures in it.

    Attributes:
        vectors: one for each picture, `[n, R]` of unit length, float32 on the CPU.
        scale: what scores are multiplied by: e to the power of the learned temperature.
        model: fingerprint of the learned parts that made it.
    """

    vectors: Tensor
    scale: float
    model: str

    def of(self, number: int) -> Tensor:
        """That of one picture, counted from 1.

        Raises:
            SubjectError: the reply has fewer.
        """
        if not 1 <= number <= len(self.vectors):
            raise SubjectError(
                f"which = {number}, but the reply has {len(self.vectors)} "
                f"picture{'s' if len(self.vectors) != 1 else ''}. Choose a number from 1 to {len(self.vectors)}."
            )
        return self.vectors[number - 1]


@dataclass(frozen=True, eq=False)
class PictureIndex:
    """Embeddings of pictures in a folder.

    Attributes:
        names: of the files, relative to the folder, with forward slashes.
        states: size and time of change of each file when it was read.
        vectors: `[pictures, R]` of unit length, float32.
        model: fingerprint of the learned parts and picture encoder that made it.
    """

    names: tuple[str, ...]
    states: tuple[tuple[int, int], ...]
    vectors: Tensor
    model: str

    def save(self, path: Path) -> None:
        """Write one `.safetensors`, over an older one of the name.

        Raises:
            SubjectError: it cannot be written.
        """
        metadata = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "names": json.dumps(self.names),
            "states": json.dumps(self.states),
        }
        write_tensors(path, {_ROWS: self.vectors}, metadata, overwrite=True)

    @classmethod
    def load(cls, path: Path) -> PictureIndex:
        """Read what `save` wrote.

        Raises:
            CheckpointError: there is none, or it is damaged or something else.
        """
        if not exists(path):
            raise CheckpointError(f"There is no index {path.name}. {what_was_found(path.parent, (path.name,))}")
        refuse_wrong_content(path)
        file = SafetensorsFile(path)
        if file.metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no index of pictures. Make one with the node GILL Index Pictures.")
        info = file.infos.get(_ROWS)
        try:
            names = parse_json(file.metadata.get("names", ""))
            states = parse_json(file.metadata.get("states", ""))
        except ValueError:
            names = states = None
        if (
            file.metadata.get("format_version") != FORMAT_VERSION
            or not isinstance(names, list)
            or not isinstance(states, list)
            or not all(isinstance(name, str) for name in names)
            or not all(isinstance(each, list) and [type(n) for n in each] == [int, int] for each in states)
            or info is None
            or info.dtype != torch.float32
            or len(info.shape) != 2
            or not len(names) == len(states) == info.shape[0]
        ):
            raise CheckpointError(f"{path} is damaged, or of another version of the pack. Delete it; it is made again.")
        pairs = tuple((size, changed) for size, changed in states)
        return cls(tuple(names), pairs, file.load([_ROWS])[_ROWS], file.metadata.get("model", ""))


def best_pictures(
    text: TextEmbedding, index: PictureIndex, which: int = 1, most: int = 3, seen: Collection[str] = ()
) -> list[tuple[str, float]]:
    """Names and scores of the pictures that fit best, the best first; those that were seen come last.

    Args:
        which: picture of the reply, counted from 1.
        most: how many, fewer where the index has fewer.
        seen: names of pictures that should not come again.

    Raises:
        SubjectError: the index is empty or of another model, or the reply has fewer pictures.
    """
    if text.model != index.model:
        raise SubjectError(
            "The index was made by another GILL model (or another CLIP vision model) than the reply, so their numbers "
            "cannot be compared. Index the pictures again with this model."
        )
    if not index.names:
        raise SubjectError("The index holds no picture. Choose a folder with pictures, and index it again.")
    scores = index.vectors @ text.of(which) * text.scale
    for number, name in enumerate(index.names):
        if name in seen:
            scores[number] = SEEN
    found = scores.topk(min(most, len(scores)))
    return [(index.names[i], float(score)) for score, i in zip(found.values, found.indices, strict=True)]


def ranked(text: TextEmbedding, pictures: Tensor, which: int = 1) -> tuple[list[int], list[float]]:
    """The order of pictures by how well they fit, best first, and their cosines in that order.

    Args:
        pictures: their embeddings, `[B, R]` of unit length.
        which: picture of the reply, counted from 1.

    Raises:
        SubjectError: the reply has fewer pictures.
    """
    cosines = pictures.float().cpu() @ text.of(which)
    order = cosines.argsort(descending=True, stable=True).tolist()
    return order, [float(cosines[place]) for place in order]


def decision(probabilities: Sequence[float] | None) -> tuple[str, float]:
    """ "gen" or "ret" with its probability, from those of drawing and retrieving; without classifier, "gen" and 1."""
    if probabilities is None:
        return "gen", 1.0
    draw, retrieve = probabilities
    return ("gen", draw) if draw >= retrieve else ("ret", retrieve)
