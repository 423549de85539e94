"""The pictures that the example workflows start from; the host's LoadImage reads only the input folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import folder_paths

PICTURES = Path(__file__).parents[2] / "workflows" / "input"

log = logging.getLogger(__name__)


def offer_pictures() -> None:
    """Copy the example pictures to the host's input folder, where no file of the name is there yet."""
    destination = Path(folder_paths.get_input_directory())
    for picture in sorted(PICTURES.glob("*.png")):
        try:
            _copy_once(picture, destination / picture.name)
        except OSError as error:
            log.warning("The example picture %s was not copied to %s: %s", picture.name, destination, error)


def _copy_once(source: Path, destination: Path) -> None:
    """Copy a file in one step, so that nobody ever sees half of it; a file that is there is left alone."""
    if destination.exists():
        return
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, destination)
    finally:
        partial.unlink(missing_ok=True)
