"""The command `finetune`: a folder of photos and a category to one file with the tuned subject."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor

from ..base_fingerprint import base_fingerprint
from ..errors import SubjectError
from ..files import open_picture
from ..stored_weights import store_change, store_factors
from ..subject import Subject
from ..subject_file import TunedWeights, write_subject
from .pictures import check_resolution, square_masks, squares
from .precision import AUTO, PRECISIONS
from .settings import METHODS, FinetuneSettings
from .tuner import Learned

_TYPES = (".png", ".jpg", ".jpeg", ".webp")
_DEFAULTS = FinetuneSettings()

log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser("finetune", help="learn a subject from a folder of photos")
    parser.add_argument("--images", required=True, help="folder of photos of one subject, of any sizes")
    parser.add_argument("--category", required=True, help="what it is, in a word or two")
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.add_argument("--checkpoint", default="toybox", help="model of any layout (default: the embedded one)")
    parser.add_argument("--masks", help="folder of masks, white on the subject, named like the photos")
    parser.add_argument("--class-images", help="folder of other things of the category (prior preservation)")
    parser.add_argument("--method", choices=METHODS, default=_DEFAULTS.method)
    for name in ("steps", "batch-size", "rank", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(_DEFAULTS, name.replace("-", "_")))
    for name in ("learning-rate", "background-weight", "prior-weight", "ema-decay"):
        parser.add_argument(f"--{name}", type=float, default=getattr(_DEFAULTS, name.replace("-", "_")))
    parser.add_argument("--flip", action="store_true", help="show a random half of the photos mirrored")
    parser.add_argument("--resolution", type=int, help="side of the training pictures (default: the model's own)")
    parser.add_argument("--save-rank", type=int, help="store a full tune as changes of this rank (default: whole)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=(AUTO, *PRECISIONS), default=AUTO)
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=run_finetune)


def run_finetune(options: argparse.Namespace) -> None:
    """Load, encode, tune and write; the loss is shown where somebody watches."""
    from ..pipeline import SubjectPipeline
    from .plain import encode_pictures, tune

    names = FinetuneSettings.__dataclass_fields__.keys() & vars(options).keys()
    settings = FinetuneSettings(**{name: getattr(options, name) for name in names})
    _require_new(Path(options.out), options.overwrite)
    photos = _read_folder(Path(options.images))
    pipeline = SubjectPipeline.from_checkpoint(options.checkpoint, options.device)
    side = options.resolution or pipeline.config.picture_size
    check_resolution(side)
    masks = _read_masks(options.masks, photos)
    pairs = list(zip(photos.values(), masks, strict=True))
    subject = _mean_subject([pipeline.encoder.encode(photo, options.category, masks=mask) for photo, mask in pairs])
    cut = torch.cat([square_masks(mask, photo, side) for photo, mask in pairs]) if options.masks else None
    pictures = encode_pictures(pipeline, _targets(photos, side), settings, cut)
    prior = None
    if options.class_images:
        prior = encode_pictures(pipeline, _targets(_read_folder(Path(options.class_images)), side), settings)
    before = dict(pipeline.unet.state_dict())
    watch = _show_loss if sys.stderr.isatty() else lambda done, losses: None
    tuned = tune(pipeline, subject, pictures, settings, prior, options.precision, watch)
    weights = tuned_weights(tuned.learned, before, settings.method, options.save_rank)
    write_subject(options.out, tuned.subject, weights, overwrite=options.overwrite)
    log.info("%s: %d steps, loss %.4f", options.out, tuned.learned.steps, np.mean(tuned.losses[-10:]))


def tuned_weights(learned: Learned, before: dict[str, Tensor], method: str, rank: int | None = None) -> TunedWeights:
    """What was learned, as a file holds it.

    Args:
        before: the UNet's weights by canonical names.
        rank: for a full tune, store the closest changes of this rank instead of whole ones.
    """
    tensors: dict[str, Tensor] = {}
    for name, factors in learned.factors.items():
        shape = torch.Size((len(factors.up), factors.down.shape[1]))
        tensors |= store_factors(name, factors.up, factors.down, shape, factors.alpha)
    for name, weight in learned.weights.items():
        tensors |= store_change(name, weight.cpu() - before[name].cpu().float(), rank or None)
    return TunedWeights(tensors, learned.steps, method, base_fingerprint(before))


def _require_new(path: Path, overwrite: bool) -> None:
    """Told before the training rather than after it."""
    if path.exists() and not overwrite:
        raise SubjectError(f"{path} exists already. Choose another name, or add --overwrite.")
    if path.suffix != ".safetensors":
        raise SubjectError(f"{path} should end in .safetensors.")


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Photos by the stem of their file, each `[1, H, W, 3]` in 0..1."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _TYPES)
    if not paths:
        raise SubjectError(f"There is no photo ({', '.join(_TYPES)}) in {folder}.")
    return {path.stem: _read(path) for path in paths}


def _read(path: Path, mode: str = "RGB") -> Tensor:
    try:
        with open_picture(path) as picture:
            pixels = np.array(ImageOps.exif_transpose(picture).convert(mode), dtype=np.float32)
    except OSError as error:
        raise SubjectError(f"{path} cannot be read as a picture: {error}") from error
    return torch.from_numpy(pixels)[None] / 255


def _read_masks(folder: str | None, photos: dict[str, Tensor]) -> list[Tensor | None]:
    if folder is None:
        return [None] * len(photos)
    found = {path.stem: path for path in Path(folder).glob("*") if path.suffix.lower() in _TYPES}
    if missing := sorted(photos.keys() - found.keys()):
        raise SubjectError(f"There is no mask in {folder} for {', '.join(missing[:3])}; name masks like the photos.")
    return [_read(found[stem], "L") for stem in photos]


def _targets(photos: dict[str, Tensor], side: int) -> Tensor:
    return torch.cat([squares(photo, side) for photo in photos.values()])


def _mean_subject(subjects: list[Subject]) -> Subject:
    first = subjects[0]
    mean = torch.cat([subject.embeddings for subject in subjects]).mean(0, keepdim=True)
    return Subject(mean, first.category, first.encoder_fingerprint, f"{len(subjects)} photos")


def _show_loss(done: int, losses: list[float]) -> None:
    if losses:
        print(f"\rstep {done}, loss {np.mean(losses[-10:]):.4f}", end="", file=sys.stderr)
