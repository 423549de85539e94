"""The command `evaluate`: the DreamBench protocol on a model, or on pictures that lie in folders."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import SubjectError
from ..pipeline import SCHEDULERS, SubjectPipeline
from ..prompt import TEMPLATES
from .aesthetic import AestheticScorer
from .benchmark import BenchmarkSubject, open_benchmark
from .evaluate import evaluate, require_same_settings, summary
from .generation import GenerationSettings, Generator, model_fingerprint
from .scoring import BATCH, Judges, Scorer
from .towers import ClipTower, DinoTower

_DEFAULTS = GenerationSettings()
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser("evaluate", help="judge a model or pictures by DreamBench (docs/evaluation.md)")
    parser.add_argument("--data", required=True, help="folder with a folder of photos for each subject")
    parser.add_argument("--benchmark", help="YAML, JSON or DreamBench's text (default: the one in --data)")
    parser.add_argument("--class-words", choices=("released", "file"), default="released",
                        help="for DreamBench's text: class words of the release, or as the file says")  # fmt: skip
    parser.add_argument("--subjects", nargs="+", help="only these (default: all that are listed, 30 in DreamBench)")
    parser.add_argument("--out", required=True, help="folder for pictures, scores and report; a run goes on there")
    parser.add_argument("--dino", required=True, help="folder of DINO ViT-S/16 as transformers stores it")
    parser.add_argument("--clip", required=True, help="folder of CLIP ViT-B/32, likewise")
    parser.add_argument("--aesthetic-clip", help="folder of CLIP ViT-L/14, for the aesthetic score")
    parser.add_argument("--aesthetic-head", help=".safetensors with the score's linear layers")
    parser.add_argument("--pictures", help="score the pictures of this folder instead of drawing any")
    parser.add_argument("--title", help="heading of the report")
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures judged at once (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    _add_drawing(parser.add_argument_group("drawing", "defaults are the paper's"))
    parser.set_defaults(run=run_evaluate)


def _add_drawing(group: argparse._ArgumentGroup) -> None:
    shown = "(default: %(default)s)"
    group.add_argument("--checkpoint", default="toybox", help="model of any layout (default: the embedded one)")
    group.add_argument("--precision", choices=_PRECISIONS, default="fp32")
    group.add_argument("--seeds", type=int, nargs="+", default=list(_DEFAULTS.seeds), help=f"one run for each {shown}")
    group.add_argument("--images", type=int, default=_DEFAULTS.images, help=f"of each prompt {shown}")
    group.add_argument("--steps", type=int, default=_DEFAULTS.steps, help=f"of the sampler {shown}")
    group.add_argument("--guidance", type=float, default=_DEFAULTS.guidance, help=shown)
    group.add_argument("--scheduler", choices=SCHEDULERS, default=_DEFAULTS.scheduler, help=shown)
    group.add_argument("--negative", default=_DEFAULTS.negative, help="negative prompt (default: the release's)")
    group.add_argument("--template", choices=TEMPLATES, default=_DEFAULTS.template, help=shown)
    group.add_argument("--prompt-reps", type=int, default=_DEFAULTS.prompt_reps, help=shown)
    group.add_argument("--reference-photos", type=int, default=_DEFAULTS.reference_photos,
                       help="photos of a subject that the encoder sees; 0 is all (default: %(default)s)")  # fmt: skip
    group.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: the model's own")
    group.add_argument("--finetune", action="store_true", help="tune the model to each subject first")
    group.add_argument("--finetune-steps", type=int, help="default: the paper's for the subject (table 4), else 80")
    group.add_argument("--finetune-rate", type=float, default=_DEFAULTS.finetune_rate, help=f"learning rate {shown}")


def run_evaluate(options: argparse.Namespace) -> None:
    """Draw what is missing, score what is new, write the report."""
    out = Path(options.out)
    subjects = open_benchmark(
        Path(options.data),
        Path(options.benchmark) if options.benchmark else None,
        options.subjects,
        options.class_words == "released",
    )
    judges = _open_judges(options)
    scorer = Scorer(judges, out / "scores", options.batch)
    settings = {"judges": judges.fingerprint, "subjects": [subject.name for subject in subjects]}
    if options.pictures:
        title = options.title or "Pictures by the DreamBench protocol"
        results = evaluate(title, subjects, Path(options.pictures), scorer, out, settings)
    else:
        drawing = _drawing(options)
        _draw(options, drawing, subjects, out)
        kind = "fine-tuned" if drawing.finetune else "zero-shot"
        title = options.title or f"{Path(options.checkpoint).name}, {kind}, by the DreamBench protocol"
        runs = [str(seed) for seed in drawing.seeds]
        settings |= asdict(drawing)
        results = evaluate(title, subjects, out / "pictures", scorer, out, settings, drawing.images, runs)
    log.info("%s", summary(results))


def _open_judges(options: argparse.Namespace) -> Judges:
    if bool(options.aesthetic_clip) != bool(options.aesthetic_head):
        raise SubjectError("The aesthetic score needs both --aesthetic-clip and --aesthetic-head.")
    aesthetic = None
    if options.aesthetic_clip:
        tower = ClipTower(Path(options.aesthetic_clip), options.device)
        aesthetic = AestheticScorer(tower, Path(options.aesthetic_head))
    dino, clip = (kind(Path(f), options.device) for kind, f in ((DinoTower, options.dino), (ClipTower, options.clip)))
    return Judges(dino, clip, aesthetic)


def _drawing(options: argparse.Namespace) -> GenerationSettings:
    values = {name: getattr(options, name) for name in asdict(_DEFAULTS)}
    values |= {"seeds": tuple(options.seeds), "size": tuple(options.size) if options.size else None}
    return GenerationSettings(**values)


def _draw(
    options: argparse.Namespace, drawing: GenerationSettings, subjects: list[BenchmarkSubject], out: Path
) -> None:
    pipeline = SubjectPipeline.from_checkpoint(options.checkpoint, options.device, _PRECISIONS[options.precision])
    fixed = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(drawing).items() if name != "seeds"}
    fixed |= {"model": model_fingerprint(pipeline), "precision": options.precision}
    require_same_settings(out / "settings.json", fixed)
    for subject in subjects:
        require_same_settings(out / "asked" / f"{subject.name}.json", subject.as_record())
    generator = Generator(pipeline, drawing, out / "pictures", out / "tuned")
    for subject in subjects:
        generator.draw(subject, _show(subject.name))


def _show(name: str):
    """Progress, where somebody watches."""
    if not sys.stderr.isatty():
        return lambda done, total: None
    return lambda done, total: print(f"\r{name}: {done} of {total} prompts", end="", file=sys.stderr)
