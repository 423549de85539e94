"""An index of a folder's pictures, what fits a reply in it, and drawn pictures in order."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch
from torch import Tensor

from ....blipdiff_impl.errors import CheckpointError, SubjectError, first_few, one_line
from ....blipdiff_impl.files import PICTURE_TYPES, UnreadablePicture, as_tensor, read_picture
from ....blipdiff_impl.gill.retrieval import MOST_PICTURES, PictureIndex, TextEmbedding, best_pictures, ranked
from ....blipdiff_impl.pictures.preprocess import as_rgb, check_photos
from ..notices import tell
from ..session import Progress
from .loader import HostGILL
from .picture_folders import chosen_folder, pictures_in


@dataclass(frozen=True, eq=False)
class HostIndex:
    """A GILL_INDEX: embeddings, and the folder that their names lie in."""

    index: PictureIndex
    folder: Path


def index_folder(model: HostGILL, folder: str) -> HostIndex:
    """The index of all pictures in a folder and those below; what was indexed before and has not changed stays.

    It is kept as `output/gill/<folder>_<hash>.safetensors`. Files that cannot be read are left out and named on the
    node.

    Raises:
        SubjectError: no such folder, or no picture in it that can be read.
    """
    root = chosen_folder(folder)
    path = Path(folder_paths.get_output_directory()) / "gill" / f"{_file_name(folder)}.safetensors"
    files = list(pictures_in(root))
    if len(files) > MOST_PICTURES:
        raise SubjectError(f"{folder} holds {len(files)} pictures; at most {MOST_PICTURES} go into an index.")
    known = _known(path, model.gill.space)
    rows, kept, broken = [], [], []
    progress = Progress(len(files))
    with model.on_device() as gill:
        for number, (name, state) in enumerate(files):
            row = known.get((name, state))
            if row is None:
                try:
                    row = gill.picture_embeddings(as_tensor(read_picture(root / name, name))[None])[0]
                except UnreadablePicture as error:
                    broken.append(one_line(error))
                    continue
                finally:
                    progress.report(number + 1, len(files))
            rows.append(row)
            kept.append((name, state))
    if broken:
        tell(f"{len(broken)} of {len(files)} files are left out of the index: {first_few(broken, 3, ' ')}")
    if not rows:
        raise SubjectError(
            f"There is no picture in {folder} that can be read ({len(broken)} could not). Put pictures "
            f"({', '.join(PICTURE_TYPES)}) there, or choose another folder."
        )
    names, states = (tuple(column) for column in zip(*kept, strict=True))
    index = PictureIndex(names, states, torch.stack(rows), model.gill.space)
    with suppress(OSError):  # saving says what is wrong with a folder that is not there
        path.parent.mkdir(parents=True, exist_ok=True)
    index.save(path)
    return HostIndex(index, root)


def retrieve(
    index: HostIndex, embedding: TextEmbedding, which: int, most: int, seen: str
) -> tuple[list[Tensor], str, list[float]]:
    """The pictures that fit best, each `[1, H, W, 3]`, their names a line each, and scores.

    Args:
        seen: names of pictures that should not come again, a line each.

    Raises:
        SubjectError: the index is of another model, or a picture is gone.
    """
    names = {line.strip() for line in seen.splitlines() if line.strip()}
    found = best_pictures(embedding, index.index, which, most, names)
    pictures = []
    for name, _ in found:
        try:
            pictures.append(as_tensor(read_picture(index.folder / name, name))[None])
        except UnreadablePicture as error:
            raise SubjectError(
                f"{one_line(error)} It was there when the folder was indexed: index it again."
            ) from error
    return pictures, "\n".join(name for name, _ in found), [score for _, score in found]


def rank(model: HostGILL, embedding: TextEmbedding, pictures: Tensor, which: int) -> tuple[Tensor, Tensor, str]:
    """The batch with the picture first that fits the reply best, that picture alone, and cosines a line each.

    Raises:
        SubjectError: the reply is of another model, or pictures that cannot be used.
    """
    if embedding.model != model.gill.space:
        raise SubjectError(
            "The reply was made by another GILL model (or another CLIP vision model) than the one connected here. "
            "Connect the one that made it."
        )
    check_photos(pictures)
    with model.on_device() as gill:
        rows = torch.cat([gill.picture_embeddings(each, squash=True) for each in pictures.split(1)])
    order, cosines = ranked(embedding, rows, which)
    placed = as_rgb(pictures, "images")[order]
    return placed, placed[:1], "\n".join(f"{each:.4f}" for each in cosines)


def _known(path: Path, space: str) -> dict[tuple[str, tuple[int, int]], Tensor]:
    """Rows of an older index of the same model; nothing where there is none that can be used."""
    try:
        index = PictureIndex.load(path)
    except CheckpointError:
        return {}
    if index.model != space:
        return {}
    return {(name, state): row for name, state, row in zip(index.names, index.states, index.vectors, strict=True)}


def _file_name(folder: str) -> str:
    """A folder's name as that of a file: what no system forbids, and a hash, as several folders read alike then."""
    readable = re.sub(r"[^\w. -]+", "_", folder)[:100]
    return f"{readable}_{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"
