"""Where GILL's files lie: learned parts and language models, in `models/gill`."""

from __future__ import annotations

from pathlib import Path

from ....blipdiff_impl.gill.file_names import DECISION_FILE, RELEASED, TOY_FILE, TOY_LOOK_FILE
from ....blipdiff_impl.weights.transformers_folder import CONFIG_FILE
from ..folders import names_of_kind, path_of_kind, register_kind

FOLDER = "gill"
TOY = "toy GILL (built in, toy world only)"
TOY_LOOK = "toy GILL that keeps the look (built in, not as published)"
OWN = "(the checkpoint's own)"
_FILE_TYPES = (".safetensors", ".pth.tar")


def register() -> None:
    """Make `models/gill` known to the host, beside what `extra_model_paths.yaml` has put there."""
    register_kind(FOLDER)


def built_in() -> tuple[str, ...]:
    """The toy GILL; also with its second mapper, where that was trained."""
    return (TOY, TOY_LOOK) if TOY_LOOK_FILE.is_file() else (TOY,)


def checkpoint_names() -> list[str]:
    """The built-in model first, then files with learned parts; what lies in a language model's folder is none."""
    found = [name for name in _names() if name.endswith(_FILE_TYPES) and not name.endswith(DECISION_FILE)]
    return [*built_in(), *found]


def language_model_names() -> list[str]:
    """That of a checkpoint that brings one, then folders of transformers."""
    return [OWN, *(name for name in _names() if not name.endswith(_FILE_TYPES))]


def checkpoint_path(name: str) -> Path:
    """Path of a file by the name in the list.

    Raises:
        CheckpointError: there is none; the message says where it was looked for and what is there.
    """
    if name in built_in():
        return TOY_FILE
    cure = f"Put {', '.join(RELEASED)} of jykoh/gill there, or one .safetensors made from them, and refresh the lists."
    return path_of_kind(FOLDER, name, "GILL model", checkpoint_names(), cure)


def mapper_path(name: str) -> Path | None:
    """The file whose mapper takes the place of the checkpoint's own; None where it keeps that."""
    return TOY_LOOK_FILE if name == TOY_LOOK else None


def language_model_path(name: str) -> Path | None:
    """The folder of a language model by the name in the list; None for that of the checkpoint.

    Raises:
        CheckpointError: there is none; the message says where it was looked for and what is there.
    """
    if name == OWN:
        return None
    cure = (
        "Put the whole folder facebook/opt-6.7b there, and refresh the lists. OPT's licence allows research without "
        "commercial use only."
    )
    return path_of_kind(FOLDER, name, "language model", language_model_names(), cure)


def _names() -> list[str]:
    return names_of_kind(FOLDER, _FILE_TYPES, {CONFIG_FILE})
