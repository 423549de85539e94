"""Where saved subjects lie, and what the host's own loaders may see of them.

They are saved to `subjects` in the output folder, as the host saves LoRAs to `output/loras`. Subjects from elsewhere go
to `models/blipdiffusion_subjects` or a folder of `extra_model_paths.yaml`. The embedding and LoRA loaders of the host
look in all of them too, so that a subject just saved needs no copying.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths

from ...blipdiff_impl.errors import SubjectError

FOLDER = "blipdiffusion_subjects"

_EXAMPLES = Path(__file__).parents[2] / "workflows" / "subjects"
_SUFFIX = ".safetensors"
# Control characters, what Windows forbids in a name, and what ends the name in a prompt's `embedding:name`.
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"|?*\[\](),]')
_LONGEST = 60
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
        there = subject_names()
        shown = ", ".join(there[:_SHOWN]) + (" ..." if len(there) > _SHOWN else "")
        raise SubjectError(
            f"There is no saved subject '{name}'. Looked in {' and in '.join(folder_paths.get_folder_paths(FOLDER))}; "
            f"found there: {shown or 'no subject'}. Choose another one, or save one with Save Subject and press R."
        )
    return Path(path)


def new_path(prefix: str) -> Path:
    """Where a subject is saved under this name: counted up, as the host counts pictures, so nothing is overwritten.

    Args:
        prefix: a name, with folders before it if wanted; spaces become `_`, `%year%` and the like are filled in.

    Raises:
        SubjectError: the name is empty, holds forbidden characters, or leads out of the folder.
    """
    # A prompt's `embedding:name` ends at a space.
    parts = re.split(r"[/\\]", "_".join(prefix.split()).removesuffix(_SUFFIX))
    if any(not part or part.startswith(".") or _FORBIDDEN.search(part) or len(part) > _LONGEST for part in parts):
        raise SubjectError(
            f"A subject cannot be saved as {prefix[:_LONGEST]!r}. Give a name such as my_dog or pets/my_dog: not "
            f'empty, at most {_LONGEST} letters, no dot in front, and none of < > : " | ? * [ ] ( ) or a comma.'
        )
    try:
        folder, stem, counter, _, _ = folder_paths.get_save_image_path("/".join(parts), _saved())
    except OSError as error:
        raise SubjectError(f"{prefix!r} cannot be saved in {_saved()}: {error.strerror or error}.") from error
    return Path(folder) / f"{stem}_{counter:05}_{_SUFFIX}"


def listed_name(path: Path) -> str:
    """The name by which the list shows a subject that was saved."""
    return os.path.relpath(path, _saved())


def _saved() -> str:
    return os.path.join(folder_paths.get_output_directory(), "subjects")
