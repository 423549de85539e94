"""The command `finetune`: a folder of photos and a category to one file with the tuned subject."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import SubjectError, first_few
from ...files import PICTURE_TYPES, as_tensor, picture_paths, read_cutout, read_mask, require_writable
from ...pictures.preprocess import check_masks, check_photos
from ...prompts.tokenizers import normalise_category
from ...settings import require_in_range
from ...stable_diffusion.base_fingerprint import base_fingerprint
from ...training.precision import AUTO, PRECISIONS
from ..stored_weights import store_change, store_factors
from ..subject_file import TunedWeights, write_subject
from .pictures import check_resolution, square_masks, square_opacity, squares
from .settings import MAX_RANK, METHODS, TIMESTEPS, FinetuneSettings
from .tuner import Learned

_DEFAULTS = FinetuneSettings()

log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser("finetune", help="learn a subject from a folder of photos")
    parser.add_argument("--images", required=True, help="folder of photos of one subject, of any sizes")
    parser.add_argument("--category", required=True, help="what it is, in a word or two")
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.add_argument("--checkpoint", default="toybox", help="model of any layout (default: the embedded one)")
    parser.add_argument(
        "--masks",
        help="folder of masks, white on the subject, named like the photos",
    )
    parser.add_argument("--class-images", help="folder of other things of the category (prior preservation)")
    parser.add_argument(
        "--method", choices=METHODS, default=_DEFAULTS.method,
        help="full: the UNet's weights; lora: factors beside its attention; vectors: the subject alone, "
        "a small file that every prompt can name",
    )  # fmt: skip
    for name in ("steps", "batch-size", "rank", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(_DEFAULTS, name.replace("-", "_")))
    for name in ("learning-rate", "background-weight", "prior-weight", "ema-decay", "min-snr", "vectors-speed"):
        parser.add_argument(f"--{name}", type=float, default=getattr(_DEFAULTS, name.replace("-", "_")))
    parser.add_argument(
        "--timesteps", choices=TIMESTEPS, default=_DEFAULTS.timesteps,
        help="even: those of a run cover all times evenly, instead of each by chance",
    )  # fmt: skip
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
    if options.save_rank is not None:
        require_in_range("save_rank", options.save_rank, 1, MAX_RANK)
    if options.resolution is not None:
        check_resolution(options.resolution)
    category = normalise_category(options.category)
    _require_new(Path(options.out), options.overwrite)
    photos = _read_folder(Path(options.images))
    masks = _read_masks(Path(options.masks), photos) if options.masks else None
    others = list(_read_folder(Path(options.class_images)).values()) if options.class_images else []
    pipeline = SubjectPipeline.from_checkpoint(options.checkpoint, options.device)
    side = options.resolution or pipeline.config.picture_size
    check_resolution(side)
    shown = list(photos.values())
    subject = pipeline.encoder.encode(shown, category, masks)
    cut = None if masks is None else square_masks(masks, shown, side)
    pictures = encode_pictures(pipeline, squares(shown, side), settings, cut, square_opacity(shown, side))
    prior = None
    if others:
        prior = encode_pictures(pipeline, squares(others, side), settings, opaque=square_opacity(others, side))
    before = dict(pipeline.unet.state_dict())
    watch = _show_loss if sys.stderr.isatty() else lambda done, losses: None
    tuned = tune(pipeline, subject, pictures, settings, prior, options.precision, watch)
    weights = None
    if settings.method != "vectors":
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
        tensors |= store_change(name, weight.cpu() - before[name].cpu().float(), rank)
    return TunedWeights(tensors, learned.steps, method, base_fingerprint(before))


def _require_new(path: Path, overwrite: bool) -> None:
    """Told before the training rather than after it."""
    if path.suffix != ".safetensors":
        raise SubjectError(f"{path} should end in .safetensors.")
    if path.exists() and not overwrite:
        raise SubjectError(f"{path} exists already. Choose another name, or add --overwrite.")
    require_writable(path)


def _read_folder(folder: Path) -> dict[Path, Tensor]:
    """Photos by their file, each `[1, H, W, 3]` in 0..1, or `[1, H, W, 4]` where some of it is transparent."""
    paths = picture_paths(folder)
    if not paths:
        raise SubjectError(f"There is no photo ({', '.join(PICTURE_TYPES)}) in {folder}.")
    photos = {path: as_tensor(read_cutout(path))[None] for path in paths}
    for path, photo in photos.items():
        _named(path, check_photos, photo)
    return photos


def _read_masks(folder: Path, photos: dict[Path, Tensor]) -> list[Tensor]:
    """The mask of each photo, `[1, H, W]` in 0..1."""
    found = picture_paths(folder)
    called = {photo: _mask_of(photo, list(photos), found) for photo in photos}
    chosen = {photo: mask for photo, mask in called.items() if mask is not None}
    if missing := [photo.stem for photo in photos if photo not in chosen]:
        raise SubjectError(
            f"There is no mask in {folder} for {first_few(missing)}; name masks like the photos (and where two photos "
            "differ in their ending only, dog.jpg.png)."
        )
    if unused := [mask.name for mask in found if mask not in chosen.values()]:
        log.warning("No photo has the name of %s in %s.", first_few(unused), folder)
    masks = {photo: as_tensor(read_mask(mask))[None] for photo, mask in chosen.items()}
    for photo, mask in masks.items():
        _named(chosen[photo], check_masks, mask, photos[photo])
    return list(masks.values())


def _mask_of(photo: Path, photos: list[Path], masks: list[Path]) -> Path | None:
    """The mask called like the photo, or so with an ending, or (if no other photo is) like it without its ending."""
    same = [mask for mask in masks if mask.name == photo.name] or [mask for mask in masks if mask.stem == photo.name]
    if not same and sum(other.stem == photo.stem for other in photos) == 1:
        same = [mask for mask in masks if mask.stem == photo.stem]
    if len(same) > 1:
        raise SubjectError(f"{first_few([mask.name for mask in same])} are masks for {photo.name}; leave one of them.")
    return same[0] if same else None


def _named(path: Path, check: Callable, *arguments: Tensor) -> None:
    """Complaints of a check begin with the file that they are about."""
    try:
        check(*arguments)
    except SubjectError as error:
        raise SubjectError(f"{path}: {error}") from error


def _show_loss(done: int, losses: list[float]) -> None:
    if losses:
        print(f"\rstep {done}, loss {np.mean(losses[-10:]):.4f}", end="", file=sys.stderr)
