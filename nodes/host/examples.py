"""The pictures that the example workflows start from; the host's LoadImage reads only the input folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import folder_paths

from ...blipdiff_impl.publishing import part_of, publish, sweep

PICTURES = Path(__file__).parents[2] / "workflows" / "input"

log = logging.getLogger(__name__)


def offer_pictures() -> None:
    """Copy the example pictures, and the folder of some, to the host's input folder, where no file of the name is there
    yet."""
    destination = Path(folder_paths.get_input_directory())
    sweep(destination)
    for picture in sorted(PICTURES.rglob("*.png")):
        place = destination / picture.relative_to(PICTURES)
        try:
            place.parent.mkdir(exist_ok=True)
            _copy_once(picture, place)
        except OSError as error:
            log.warning("The example picture %s was not copied to %s: %s", picture.name, place.parent, error)


def _copy_once(source: Path, destination: Path) -> None:
    """Copy a file in one step, so that nobody ever sees half of it; a file that is there, or comes, is left alone."""
    if os.path.lexists(destination):
        return
    part = part_of(destination)
    try:
        shutil.copyfile(source, part)
        publish(part, destination)
    except FileExistsError:
        return
    finally:
        part.unlink(missing_ok=True)
