"""Where checkpoints lie: the embedded model, `models/blipdiffusion` and all folders that the user has added to it; and
the segmenters that find a subject in a photo, in `models/clipseg`."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...blipdiff_impl.errors import CheckpointError, excerpt, first_few
from ...blipdiff_impl.weights.transformers_folder import CONFIG_FILE, WEIGHTS_FILE

FOLDER = "blipdiffusion"
SEGMENTERS = "clipseg"
TOYBOX = "toybox (built in, toy world only)"
_TOYBOX_FILES = Path(__file__).parents[2] / "blipdiff_impl" / "toybox"
CONTROLNETS, LORAS = _TOYBOX_FILES / "controlnet", _TOYBOX_FILES / "loras"

_FILE_TYPES = (".safetensors", ".pth")
# A folder that holds one of these is one checkpoint: diffusers' layout, or that of the official release.
_CHECKPOINT_SIGNS = {"model_index.json", "qformer", "blip_model"}
_DEPTH = 4  # folders below a model folder; a loop of links ends here
_SHOWN = 12

log = logging.getLogger(__name__)
_mentioned: set[str] = set()


def register() -> None:
    """Make `models/blipdiffusion` known to the host, beside what `extra_model_paths.yaml` has put there.

    The embedded model's ControlNet and LoRAs join those that the host's own loaders list.
    """
    for folder in (FOLDER, SEGMENTERS):
        register_kind(folder)
    folder_paths.add_model_folder_path("controlnet", str(CONTROLNETS))
    folder_paths.add_model_folder_path("loras", str(LORAS))


def register_kind(kind: str) -> None:
    """Make `models/<kind>` known to the host, beside what `extra_model_paths.yaml` has put there."""
    folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))


def model_names() -> list[str]:
    """The embedded model first, then every checkpoint file and folder, relative to its model folder."""
    return [TOYBOX, *names_of_kind(FOLDER, _FILE_TYPES, _CHECKPOINT_SIGNS)]


def model_path(name: str) -> str:
    """Path of a checkpoint by the name in the list, or "toybox".

    Raises:
        CheckpointError: it is in none of the model folders; the message says where it was looked for and what is there.
    """
    if name == TOYBOX:
        return "toybox"
    cure = "Put the checkpoint there, or choose another model_name. The README says where checkpoints come from."
    return str(path_of_kind(FOLDER, name, "checkpoint", model_names()[1:], cure))


def names_of_kind(kind: str, file_types: tuple[str, ...], folder_signs: Collection[str] = ()) -> list[str]:
    """What lies in the model folders of a kind, relative to its folder and sorted.

    Args:
        file_types: endings of files that count.
        folder_signs: a folder that holds one of these names counts as a whole.
    """
    counted = _Counted(file_types, frozenset(folder_signs))
    found = {name for root in _roots(kind) for name in _checkpoints(_entries(root), "", _DEPTH, counted)}
    return sorted(found, key=str.lower)


def path_of_kind(kind: str, name: str, what: str, there: Sequence[str], cure: str) -> Path:
    """Path of what has this name in the model folders of a kind.

    Args:
        what: it is, as the message calls it: "checkpoint".
        there: names of what there is.
        cure: sentences with what to do.

    Raises:
        CheckpointError: it is in none of them; the message says where it was looked for and what is there.
    """
    for root in _roots(kind):
        if name and _inside(root / name, root) and os.path.exists(root / name):
            return root / name
    raise CheckpointError(
        f"There is no {what} {excerpt(name)}. Looked for a file or folder of that name in "
        f"{' and in '.join(_described(root) for root in _roots(kind))}; found there: "
        f"{first_few(there, _SHOWN) or f'no {what}'}. {cure}"
    )


def segmenter_names() -> list[str]:
    """Every folder with CLIPSeg's weights in it, directly below a model folder."""
    folders = [entry for root in _roots(SEGMENTERS) for entry in _entries(root) if entry.is_dir()]
    return sorted({folder.name for folder in folders if _holds_weights(folder)}, key=str.lower)


def segmenter_path(name: str) -> Path:
    """The folder of a segmenter by the name in the list.

    Raises:
        CheckpointError: there is none; the message says which files belong where.
    """
    if name in segmenter_names():
        return next(root / name for root in _roots(SEGMENTERS) if _holds_weights(root / name))
    raise CheckpointError(
        f"No mask is connected, and there is no CLIPSeg model {excerpt(name)} to find the subject with. Either connect "
        f"a rough mask (background removal, SAM, painted by hand), or put {CONFIG_FILE} and {WEIGHTS_FILE} of "
        f"CIDAS/clipseg-rd64-refined into {_roots(SEGMENTERS)[-1] / 'clipseg-rd64-refined'}, refresh the lists and "
        "choose it."
    )


def _holds_weights(folder: os.PathLike) -> bool:
    return os.path.isfile(os.path.join(folder, WEIGHTS_FILE))


def _described(root: Path) -> str:
    """A model folder, and why nothing can be found in it, if so."""
    if not os.path.isdir(root):
        return f"{root} (there is no such folder)"
    return str(root) if os.access(root, os.R_OK | os.X_OK) else f"{root} (which may not be read: allow reading it)"


def _roots(kind: str) -> list[Path]:
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def _inside(path: Path, root: Path) -> bool:
    """Whether a path stays below a folder; links inside it may point elsewhere, `..` may not."""
    base = os.path.abspath(root)
    return os.path.commonpath([base, os.path.abspath(path)]) == base


@dataclass(frozen=True)
class _Counted:
    """Which files and folders count: by a file's ending, by a name that a folder holds."""

    file_types: tuple[str, ...]
    folder_signs: frozenset[str]


def _checkpoints(entries: list[os.DirEntry], prefix: str, depth: int, counted: _Counted) -> list[str]:
    """Names of what counts among the entries of a folder and below them."""
    names = []
    for entry in entries:
        name = prefix + entry.name
        if not entry.is_dir():
            names += [name] if entry.name.lower().endswith(counted.file_types) else []
            continue
        inner = _entries(entry)
        if counted.folder_signs & {part.name for part in inner}:
            names.append(name)
        elif depth > 1:
            names += _checkpoints(inner, f"{name}/", depth - 1, counted)
    return names


def _entries(folder: os.PathLike) -> list[os.DirEntry]:
    """What lies in a folder; nothing where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        _log_once(os.fspath(folder), error)
        return []


def _log_once(folder: str, error: OSError) -> None:
    """The list is made many times a minute; a folder that cannot be read is mentioned the first time."""
    if folder not in _mentioned:
        _mentioned.add(folder)
        log.warning("The folder %s is left out of the list of checkpoints: %s", folder, error)
