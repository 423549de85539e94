"""The command `evaluate`: the DreamBench protocol on a model, or on pictures that lie in folders."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..blip_diffusion.pipeline import SubjectPipeline
from ..errors import SubjectError
from ..files import require_writable_folder, write_json
from ..folder_lock import only_run_in
from ..ms_diffusion.checkpoint import open_adapter
from ..ms_diffusion.file_names import TOYBOX_FILE
from ..ms_diffusion.pipeline import MSPipeline
from ..ms_diffusion.pretraining.base import Base
from ..pictures.towers import ClipTower, DinoTower
from ..prompts.rows import TEMPLATES
from ..ray_session import check_workers
from ..settings import require_in_range
from ..stable_diffusion.base_fingerprint import base_fingerprint
from ..stable_diffusion.building import SCHEDULERS
from ..weights.fingerprint import fingerprint_of
from .aesthetic import AestheticScorer
from .benchmark import BenchmarkSubject, open_benchmark
from .evaluate import evaluate, require_same_settings, summary
from .generation import GenerationSettings, Generator, model_fingerprint
from .layout import find_runs
from .ms_bench import Combination, open_ms_bench
from .ms_evaluation import CombinationScorer, evaluate_ms_bench
from .ms_generation import MS_DEFAULTS, MSGenerationSettings, MSGenerator
from .scoring import BATCH, MAX_BATCH, Judges, Scorer
from .workers import Studio, draw_with_ray

_DEFAULTS = GenerationSettings()
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction, open_base: Callable[[str, str], Base]) -> None:
    """Add the command to a parser's subcommands.

    Args:
        open_base: the frozen networks that an MS-Diffusion adapter draws with, of `--ms-model` and `--ms-vision`.
    """
    parser = commands.add_parser("evaluate", help="judge a model or pictures by DreamBench (docs/evaluation.md)")
    parser.add_argument("--data", required=True, help="folder with a folder of photos for each subject")
    parser.add_argument("--benchmark", help="YAML, JSON or DreamBench's text (default: the one in --data)")
    parser.add_argument("--class-words", choices=("released", "file"), default="released",
                        help="for DreamBench's text: class words of the release, or as the file says")  # fmt: skip
    parser.add_argument("--subjects", nargs="+", help="only these (default: all that are listed, 30 in DreamBench)")
    parser.add_argument("--out", required=True, help="folder for pictures, scores and report; a run resumes there")
    parser.add_argument("--dino", required=True, help="folder of DINO ViT-S/16 as transformers stores it")
    parser.add_argument("--clip", required=True, help="folder of CLIP ViT-B/32, likewise")
    parser.add_argument("--aesthetic-clip", help="folder of CLIP ViT-L/14, for the aesthetic score")
    parser.add_argument("--aesthetic-head", help=".safetensors with the score's linear layers")
    parser.add_argument("--pictures", help="score the pictures of this folder instead of drawing any")
    parser.add_argument(
        "--ms-bench",
        metavar="FILE",
        help="several subjects in a picture: the file of MS-Bench's subjects, with --pictures or --ms-adapter",
    )
    parser.add_argument("--title", help="heading of the report")
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures judged at once (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    _add_drawing(parser.add_argument_group("drawing", "defaults are the paper's; for MS-Bench, MS-Diffusion's own"))
    group = parser.add_argument_group("drawing MS-Bench")
    group.add_argument("--ms-adapter", metavar="FILE", help="MS-Diffusion adapter, or toybox for the built-in one")
    group.add_argument("--ms-model", metavar="FOLDER", default="toybox", help="what it is for, in diffusers' layout")
    group.add_argument(
        "--ms-vision", metavar="FOLDER", default="", help="its picture encoder, as transformers reads it"
    )
    group.add_argument("--ms-scale", type=float, default=0.6, help="of the subjects (default: %(default)s)")
    parser.set_defaults(run=run_evaluate, open_base=open_base)


def _add_drawing(group: argparse._ArgumentGroup) -> None:
    shown = "(default: %(default)s)"
    group.add_argument("--checkpoint", default="toybox", help="model of any layout (default: the embedded one)")
    group.add_argument("--precision", choices=_PRECISIONS, default="fp32")
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        help="Ray processes that draw (default: none, a plain loop); not for --ms-bench",
    )
    group.add_argument("--ray-address", default="", help="a Ray cluster (default: one on this computer)")
    # No defaults here: which they are depends on what is drawn.
    group.add_argument("--seeds", type=int, nargs="+", help=f"one run for each {_defaults('seeds')}")
    group.add_argument("--images", type=int, help=f"of each prompt {_defaults('images')}")
    group.add_argument("--steps", type=int, help=f"of the sampler {_defaults('steps')}")
    group.add_argument("--guidance", type=float, help=_defaults("guidance"))
    group.add_argument("--scheduler", choices=SCHEDULERS, help=_defaults("scheduler"))
    group.add_argument("--negative", help="negative prompt (default: the release's)")
    group.add_argument("--template", choices=TEMPLATES, default=_DEFAULTS.template, help=shown)
    group.add_argument("--prompt-reps", type=int, default=_DEFAULTS.prompt_reps, help=shown)
    group.add_argument("--reference-photos", type=int, default=_DEFAULTS.reference_photos,
                       help="photos of a subject that the encoder sees; 0 is all (default: %(default)s)")  # fmt: skip
    group.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="default: the model's own")
    group.add_argument("--finetune", action="store_true", help="tune the model to each subject first")
    group.add_argument("--finetune-steps", type=int, help="default: the paper's for the subject (table 4), else 80")
    group.add_argument("--finetune-rate", type=float, default=_DEFAULTS.finetune_rate, help=f"learning rate {shown}")


def _defaults(name: str) -> str:
    """For the help: the default of a setting, and that for MS-Bench where it is another."""
    values = [getattr(defaults, name) for defaults in (_DEFAULTS, MS_DEFAULTS)]
    first, second = (" ".join(map(str, each)) if isinstance(each, tuple) else str(each) for each in values)
    return f"(default: {first})" if first == second else f"(default: {first}; for MS-Bench {second})"


def run_evaluate(options: argparse.Namespace) -> None:
    """Draw what is missing, score what is new, write the report."""
    require_in_range("batch", options.batch, 1, MAX_BATCH)
    check_workers(options.workers, options.ray_address)
    if options.workers and options.ms_bench and options.ms_adapter:
        raise SubjectError("--workers draws pictures of one subject only; leave it out, and MS-Bench is drawn in turn.")
    if options.workers and (options.pictures or options.ms_bench):
        raise SubjectError("--workers spreads drawing, but nothing is drawn here. Leave it out.")
    if options.workers and ":" in options.device:
        raise SubjectError(f"--workers chooses the GPUs itself; use --device cuda instead of {options.device}.")
    if options.ms_bench:
        run_ms_bench(options)
        return
    drawing = None if options.pictures else _drawing(options)
    out = Path(options.out)
    subjects = open_benchmark(
        Path(options.data),
        Path(options.benchmark) if options.benchmark else None,
        options.subjects,
        options.class_words == "released",
    )
    if options.pictures:
        find_runs(Path(options.pictures), subjects)
    require_writable_folder(out)
    with only_run_in(out):
        _evaluate(options, drawing, subjects, out)


def run_ms_bench(options: argparse.Namespace) -> None:
    """Write what is asked for into `asked.json`; score the pictures, where there are some, and write the report.

    Raises:
        SubjectError: see `open_ms_bench` and `evaluate_ms_bench`.
    """
    benchmark, out = open_ms_bench(Path(options.data), Path(options.ms_bench)), Path(options.out)
    require_writable_folder(out)
    write_json(out / "asked.json", {combination.name: combination.as_record() for combination in benchmark})
    if options.pictures and options.ms_adapter:
        raise SubjectError("Give either --pictures, to score what is there, or --ms-adapter, to draw.")
    if not (options.pictures or options.ms_adapter):
        log.info("What is asked for is in %s. Draw it, and name the folder with --pictures.", out / "asked.json")
        return
    drawing = MSGenerationSettings(_drawing(options, MS_DEFAULTS), options.ms_scale) if options.ms_adapter else None
    with only_run_in(out):
        judges = _open_judges(options)
        if drawing:
            _draw_ms_bench(options, drawing, benchmark, out)
        scorer = CombinationScorer(judges, out / "scores", options.batch)
        title = options.title or "Pictures by the MS-Bench protocol"
        pictures = Path(options.pictures) if options.pictures else out / "pictures"
        results = evaluate_ms_bench(title, benchmark, pictures, scorer, out)
    means = ", ".join(f"{name} {value:.3f}" for name, value in results["overall"].items())
    log.info("%d pictures: %s", results["pictures"], means)


def _evaluate(
    options: argparse.Namespace, drawing: GenerationSettings | None, subjects: list[BenchmarkSubject], out: Path
) -> None:
    judges = _open_judges(options)
    scorer = Scorer(judges, out / "scores", options.batch)
    settings = {"judges": judges.fingerprint, "subjects": [subject.name for subject in subjects]}
    if drawing is None:
        title = options.title or "Pictures by the DreamBench protocol"
        results = evaluate(title, subjects, Path(options.pictures), scorer, out, settings)
    else:
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
    dino = DinoTower(Path(options.dino), options.device)
    return Judges(dino, ClipTower(Path(options.clip), options.device), aesthetic)


def _drawing(options: argparse.Namespace, defaults: GenerationSettings = _DEFAULTS) -> GenerationSettings:
    given = {name: getattr(options, name) for name in asdict(defaults)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def _draw(
    options: argparse.Namespace, drawing: GenerationSettings, subjects: list[BenchmarkSubject], out: Path
) -> None:
    pipeline = SubjectPipeline.from_checkpoint(options.checkpoint, options.device, _PRECISIONS[options.precision])
    pipeline.latent_size(drawing.size)  # before anything is drawn
    fixed = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(drawing).items() if name != "seeds"}
    fixed |= {"model": model_fingerprint(pipeline), "precision": options.precision}
    require_same_settings(out / "settings.json", fixed)
    for subject in subjects:
        require_same_settings(out / "asked" / f"{subject.name}.json", subject.as_record())
    if options.workers:
        del pipeline  # its memory is the processes'
        dtype = _PRECISIONS[options.precision]
        studio = Studio(options.checkpoint, options.device, dtype, drawing, out / "pictures", out / "tuned")
        draw_with_ray(studio, subjects, options.workers, options.ray_address, _show("drawn"))
        return
    generator = Generator(pipeline, drawing, out / "pictures", out / "tuned")
    for subject in subjects:
        generator.draw(subject, _show(subject.name))


def _draw_ms_bench(
    options: argparse.Namespace, drawing: MSGenerationSettings, benchmark: list[Combination], out: Path
) -> None:
    file = TOYBOX_FILE if options.ms_adapter == "toybox" else Path(options.ms_adapter)
    adapter, base = open_adapter(file).load(), options.open_base(options.ms_model, options.ms_vision)
    shared = asdict(drawing.shared) | {"scale": drawing.scale}
    fixed = {name: list(v) if isinstance(v, tuple) else v for name, v in shared.items() if name != "seeds"}
    fixed |= {"adapter": fingerprint_of(adapter.state_dict()), "model": base_fingerprint(base.unet.state_dict())}
    require_same_settings(out / "settings.json", fixed)
    for combination in benchmark:
        require_same_settings(out / "asked" / f"{combination.name}.json", combination.as_record())
    pipeline = MSPipeline(base.to(torch.device(options.device)), adapter)
    generator = MSGenerator(pipeline, drawing, out / "pictures")
    for combination in benchmark:
        generator.draw(combination, _show(combination.name))


def _show(name: str):
    """Progress, where somebody watches."""
    if not sys.stderr.isatty():
        return lambda done, total: None
    return lambda done, total: print(f"\r{name}: {done} of {total} prompts", end="", file=sys.stderr)
