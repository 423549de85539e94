"""Where checkpoints lie: the embedded model, `models/blipdiffusion` and all folders that the user has added to it; and
the segmenters that find a subject in a photo, in `models/clipseg`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import folder_paths

from ...blipdiff_impl.errors import CheckpointError
from ...blipdiff_impl.matting.clipseg import CONFIG_FILE, WEIGHTS_FILE

FOLDER = "blipdiffusion"
SEGMENTERS = "clipseg"
TOYBOX = "toybox (built in, toy world only)"
CONTROLNETS = Path(__file__).parents[2] / "blipdiff_impl" / "toybox" / "controlnet"

_FILE_TYPES = (".safetensors", ".pth")
# A folder that holds one of these is one checkpoint: diffusers' layout, or that of the official release.
_CHECKPOINT_SIGNS = {"model_index.json", "qformer", "blip_model"}
_DEPTH = 4  # folders below a model folder; a loop of links ends here
_SHOWN = 12

log = logging.getLogger(__name__)
_mentioned: set[str] = set()


def register() -> None:
    """Make `models/blipdiffusion` known to the host, beside what `extra_model_paths.yaml` has put there.

    The embedded model's ControlNet joins those that the host's own loader lists.
    """
    for folder in (FOLDER, SEGMENTERS):
        folder_paths.add_model_folder_path(folder, os.path.join(folder_paths.models_dir, folder))
    folder_paths.add_model_folder_path("controlnet", str(CONTROLNETS))


def model_names() -> list[str]:
    """The embedded model first, then every checkpoint file and folder, relative to its model folder."""
    found = {name for root in _roots() for name in _checkpoints(_entries(root), "", _DEPTH)}
    return [TOYBOX, *sorted(found, key=str.lower)]


def model_path(name: str) -> str:
    """Path of a checkpoint by the name in the list, or "toybox".

    Raises:
        CheckpointError: it is in none of the model folders; the message says where it was looked for and what is there.
    """
    if name == TOYBOX:
        return "toybox"
    for root in _roots():
        if _inside(root / name, root) and os.path.exists(root / name):
            return str(root / name)
    raise CheckpointError(_not_found(name))


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
        f"No mask is connected, and there is no CLIPSeg model {name!r} to find the subject with. Either connect a "
        f"rough mask (background removal, SAM, painted by hand), or put {CONFIG_FILE} and {WEIGHTS_FILE} of "
        f"CIDAS/clipseg-rd64-refined into {_roots(SEGMENTERS)[-1] / 'clipseg-rd64-refined'}, refresh the lists and "
        "choose it."
    )


def _holds_weights(folder: os.PathLike) -> bool:
    return os.path.isfile(os.path.join(folder, WEIGHTS_FILE))


def _not_found(name: str) -> str:
    there = model_names()[1:]
    shown = ", ".join(there[:_SHOWN]) + (" ..." if len(there) > _SHOWN else "")
    return (
        f"There is no checkpoint '{name}'. Looked for a file or folder of that name in "
        f"{' and in '.join(_described(root) for root in _roots())}; found there: {shown or 'no checkpoint'}. "
        "Put the checkpoint there, or choose another model_name. The README says where checkpoints come from."
    )


def _described(root: Path) -> str:
    """A model folder, and why nothing can be found in it, if so."""
    if not os.path.isdir(root):
        return f"{root} (there is no such folder)"
    return str(root) if os.access(root, os.R_OK | os.X_OK) else f"{root} (which may not be read: allow reading it)"


def _roots(kind: str = FOLDER) -> list[Path]:
    return [Path(folder) for folder in folder_paths.get_folder_paths(kind)]


def _inside(path: Path, root: Path) -> bool:
    """Whether a path stays below a folder; links inside it may point elsewhere, `..` may not."""
    root = os.path.abspath(root)
    return os.path.commonpath([root, os.path.abspath(path)]) == root


def _checkpoints(entries: list[os.DirEntry], prefix: str, depth: int) -> list[str]:
    """Names of the checkpoints among the entries of a folder and below them."""
    names = []
    for entry in entries:
        name = prefix + entry.name
        if not entry.is_dir():
            names += [name] if entry.name.lower().endswith(_FILE_TYPES) else []
            continue
        inner = _entries(entry)
        if _CHECKPOINT_SIGNS & {part.name for part in inner}:
            names.append(name)
        elif depth > 1:
            names += _checkpoints(inner, f"{name}/", depth - 1)
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
