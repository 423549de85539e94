"""Where saved subjects lie, and what the host's own loaders may see of them.

They are saved to `subjects` in the output folder, as the host saves LoRAs to `output/loras`. Subjects from elsewhere go
to `models/blipdiffusion_subjects` or a folder of `extra_model_paths.yaml`. The embedding and LoRA loaders of the host
look in all of them too, so that a subject just saved needs no copying.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....blipdiff_impl.errors import SubjectError, excerpt, first_few
from ....blipdiff_impl.publishing import sweep

FOLDER = "blipdiffusion_subjects"

_EXAMPLES = Path(__file__).parents[3] / "workflows" / "subjects"
_SUFFIX = ".safetensors"
# What Windows forbids in a name, and what ends the name in a prompt's `embedding:name`.
_FORBIDDEN = re.compile(r'[<>:"|?*\[\](),]')
# Characters that cannot be seen: some turn the letters behind them round, so that a name looks like another one.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # these belong to the spelling of Persian and Hindi words, and of some emoji
# Systems count bytes, mostly 255 of them, from which the number, the suffix and the hidden name while writing go off.
_LONGEST, _LONGEST_BYTES = 60, 200
_SHOWN = 12


def register() -> None:
    """Make the folders known to the host, beside what `extra_model_paths.yaml` has put there."""
    for folder in (_saved(), os.path.join(folder_paths.models_dir, FOLDER)):
        folder_paths.add_model_folder_path(FOLDER, folder)
    for folder in folder_paths.get_folder_paths(FOLDER):
        folder_paths.add_model_folder_path("embeddings", folder)
        folder_paths.add_model_folder_path("loras", folder)
    folder_paths.add_model_folder_path(FOLDER, str(_EXAMPLES))
    folder_paths.folder_names_and_paths[FOLDER][1].add(_SUFFIX)


def subject_names() -> list[str]:
    """Every saved subject, relative to its folder."""
    return folder_paths.get_filename_list(FOLDER)


def subject_path(name: str) -> Path:
    """Path of a subject by the name in the list.

    Raises:
        SubjectError: there is none; the message says where it was looked for and what is there.
    """
    path = folder_paths.get_full_path(FOLDER, name) if name else None
    if path is None or not path.endswith(_SUFFIX):
        there = first_few(subject_names(), _SHOWN) or "no subject"
        raise SubjectError(
            f"There is no saved subject {excerpt(name)}. Looked in "
            f"{' and in '.join(folder_paths.get_folder_paths(FOLDER))}; found there: {there}. Choose another one, or "
            "save one with Save Subject and press R."
        )
    return Path(path)


def new_paths(prefix: str) -> Iterator[Path]:
    """Where a subject is saved under this name: counted up, as the host counts pictures, so nothing is overwritten.

    Each path is one that was free a moment ago; the next one is for when somebody else was faster.

    Args:
        prefix: a name, with folders before it if wanted; spaces become `_`, `%year%` and the like are filled in.

    Raises:
        SubjectError: the name is empty, too long, holds forbidden characters, or leads out of the folder.
    """
    name = checked_name(prefix)
    sweep(Path(_saved()), "**/")
    return _counted(name, *_next_of(name))


def checked_name(prefix: str) -> str:
    """The name that a subject's file begins with, with folders before it.

    Args:
        prefix: as in `new_paths`.

    Raises:
        SubjectError: the name is empty, too long, or holds forbidden characters.
    """
    # A prompt's `embedding:name` ends at a space.
    parts = re.split(r"[/\\]", "_".join(prefix.split()).removesuffix(_SUFFIX))
    if fault := next(filter(None, map(_fault, parts)), None):
        raise SubjectError(
            f"A subject cannot be saved as {prefix[:_LONGEST]!r}: {fault}. Give a name such as my_dog or pets/my_dog: "
            f"at most {_LONGEST} letters ({_LONGEST_BYTES} bytes; an emoji takes four or more), no dot in front, "
            'nothing that cannot be seen, and none of < > : " | ? * [ ] ( ) or a comma.'
        )
    return "/".join(parts)


def _counted(name: str, folder: str, stem: str, counter: int) -> Iterator[Path]:
    while True:
        yield Path(folder) / f"{stem}_{counter:05}_{_SUFFIX}"
        # The host's count leaves out what it takes for another name, such as one in capitals on some systems.
        counter = max(counter + 1, _next_of(name)[2])


def _next_of(name: str) -> tuple[str, str, int]:
    """Folder, stem and number of the next file of a name."""
    try:
        return folder_paths.get_save_image_path(name, _saved())[:3]
    except OSError as error:
        raise SubjectError(f"{excerpt(name)} cannot be saved in {_saved()}: {error.strerror or error}.") from error


def _fault(part: str) -> str:
    """What is wrong with a file's or folder's name, or nothing."""
    if not part:
        return "it is empty"
    if part.startswith("."):
        return "it begins with a dot"
    if unseen := [c for c in part if unicodedata.category(c) in _UNSEEN and c not in _JOINERS]:
        return f"it holds U+{ord(unseen[0]):04X}, which cannot be seen"
    if found := _FORBIDDEN.search(part):
        return f"it holds {found[0]}"
    size = len(part.encode())
    return f"it has {len(part)} letters and {size} bytes" if len(part) > _LONGEST or size > _LONGEST_BYTES else ""


def listed_name(path: Path) -> str:
    """The name by which the list shows a subject that was saved."""
    return os.path.relpath(path, _saved())


def _saved() -> str:
    return os.path.join(folder_paths.get_output_directory(), "subjects")
