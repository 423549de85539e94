"""The commands `synthesise filter` and `synthesise caption`: which photos, and what they show."""

from __future__ import annotations

import argparse
import logging
from itertools import chain
from pathlib import Path

from ...errors import SubjectError
from ...files import require_writable_folder, write_json
from ...pictures.towers import ClipTower
from .captioning.files import CaptionFile
from .captioning.judge import CaptionJudge
from .captioning.model import Captioner, SamplingSettings
from .captioning.run import CaptionSources, caption_list, require_new
from .filtering.open_images import read_boxes, read_classes
from .filtering.open_images_rules import FilterReport, FilterSettings, choose_photos
from .photo_list import write_photos

_RULES, _SAMPLING = FilterSettings(), SamplingSettings()

log = logging.getLogger(__name__)


def add_commands(subcommands: argparse._SubParsersAction) -> None:
    """Add both commands to the subcommands of `synthesise`."""
    _add_filter(subcommands.add_parser("filter", help="boxes of OpenImages to a list of photos"))
    _add_caption(subcommands.add_parser("caption", help="captions for a list of photos"))


def _add_filter(parser: argparse.ArgumentParser) -> None:
    shown = "(default: %(default)s)"
    parser.add_argument("--boxes", required=True, action="append", metavar="CSV", help="may be given several times")
    parser.add_argument("--classes", required=True, metavar="CSV", help="class-descriptions-boxable.csv")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="with IMAGEID.jpg")
    parser.add_argument("--out", required=True, metavar="JSONL", help="the list to write")
    parser.add_argument("--report", metavar="JSON", help="counts by rule and by class")
    parser.add_argument("--max-aspect", type=float, default=_RULES.max_aspect, help=f"of a box {shown}")
    parser.add_argument("--min-area", type=float, default=_RULES.min_area, help=f"a box covers more {shown}")
    parser.add_argument("--max-area", type=float, default=_RULES.max_area, help=f"and less {shown}")
    for name in ("human", "clutter"):
        parser.add_argument(f"--{name}", nargs="*", metavar="CLASS", default=getattr(_RULES, name),
                            help="classes to leave out, instead of the paper's")  # fmt: skip
    parser.set_defaults(run=run_filter)


def _add_caption(parser: argparse.ArgumentParser) -> None:
    shown = "(default: %(default)s)"
    parser.add_argument("list", help="photos, JSON Lines")
    parser.add_argument("--out", required=True, metavar="JSONL", help="the list to write; a killed run resumes")
    parser.add_argument("--captions", metavar="FILE", help="CSV or JSON Lines with key or image, and caption")
    parser.add_argument("--captioner", metavar="FOLDER", help="of a BLIP, BLIP-2 or GIT model")
    parser.add_argument("--clip", metavar="FOLDER", help="of a CLIP model, which puts the captions in order")
    parser.add_argument("--keep", type=int, default=CaptionSources.keep, help=f"captions of a photo {shown}")
    parser.add_argument("--samples", type=int, default=_SAMPLING.samples, help=f"that the captioner draws {shown}")
    parser.add_argument("--top-p", type=float, default=_SAMPLING.top_p, help=f"of nucleus sampling {shown}")
    parser.add_argument("--min-tokens", type=int, default=_SAMPLING.min_tokens, help=f"of a drawn caption {shown}")
    parser.add_argument("--max-tokens", type=int, default=_SAMPLING.max_tokens, help=f"of a drawn caption {shown}")
    parser.add_argument("--seed", type=int, default=_SAMPLING.seed)
    parser.add_argument("--batch", type=int, default=CaptionSources.batch, help=f"photos captioned at once {shown}")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=run_caption)


def run_filter(options: argparse.Namespace) -> None:
    """Write the list; the report is written also when nothing was kept."""
    values = {name: getattr(options, name) for name in ("max_aspect", "min_area", "max_area")}
    named = {name: tuple(word.lower() for word in getattr(options, name)) for name in ("human", "clutter")}
    settings = FilterSettings(**values, **named)
    boxes, out, images = [Path(path) for path in options.boxes], Path(options.out), Path(options.images)
    _require_apart(options)
    for path in (options.out, options.report):
        if path:
            require_writable_folder(Path(path).parent)
    if not images.is_dir():
        raise SubjectError(f"There is no folder {images}. --images is the folder with IMAGEID.jpg.")
    classes = read_classes(Path(options.classes))
    settings.require_known(classes.values())
    report = FilterReport(settings)
    rows = chain.from_iterable(read_boxes(path, classes) for path in boxes)
    photos = list(choose_photos(rows, images, out, report))
    record = report.as_record()
    if options.report:
        write_json(Path(options.report), record)
    counts = ", ".join(f"{rule} {count}" for rule, count in record["rejected"].items() if count)
    if not photos:
        raise SubjectError(f"No box of {report.rows} was kept ({counts or 'there is none'}), so no list was written.")
    write_photos(out, photos)
    log.info("%d of %d boxes kept, in %d images; left out: %s", len(photos), report.rows, record["images"], counts)
    for line in record["unreadable_rows"]:
        log.info("unreadable: %s", line)


def _require_apart(options: argparse.Namespace) -> None:
    """Refuse to write over what is read."""
    read = {Path(path).resolve() for path in (*options.boxes, options.classes)}
    written = [Path(path).resolve() for path in (options.out, options.report) if path]
    if read & set(written) or len(set(written)) < len(written):
        raise SubjectError("--out and --report should be files of their own, not those that are read.")


def run_caption(options: argparse.Namespace) -> None:
    """Write the list with captions."""
    photo_list, out = Path(options.list), Path(options.out)
    require_new(out)
    require_writable_folder(out.parent)
    sampling = SamplingSettings(options.samples, options.top_p, options.min_tokens, options.max_tokens, options.seed)
    sources = CaptionSources(
        CaptionFile(Path(options.captions)) if options.captions else None,
        Captioner(Path(options.captioner), options.device) if options.captioner else None,
        sampling,
        CaptionJudge(ClipTower(Path(options.clip), options.device)) if options.clip else None,
        options.keep,
        options.batch,
    )
    counts = caption_list(photo_list, out, sources)
    log.info("%d photos, %d captions, %d without, of which %d cannot be read",
             counts.photos, counts.captions, counts.without, counts.unreadable)  # fmt: skip
