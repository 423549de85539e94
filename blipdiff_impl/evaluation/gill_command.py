"""The command `evaluate-gill`: VIST and VisDial, from local files (docs/evaluation.md)."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

from ..errors import SubjectError
from ..files import require_writable_folder
from ..folder_lock import only_run_in
from ..settings import require_in_range
from .stories import PROTOCOLS, open_trials

log = logging.getLogger(__name__)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser("evaluate-gill", help="judge GILL by VIST or VisDial (docs/evaluation.md)")
    parser.add_argument("protocol", choices=PROTOCOLS)
    parser.add_argument("annotations", help="val.story-in-sequence.json, or visdial_1.0_val.json")
    parser.add_argument("pictures", help="folder of the data set's pictures")
    parser.add_argument("--out", required=True, help="folder for what is drawn, scores and report; a run resumes there")
    parser.add_argument("--gill", required=True, help='the GILL model, or "toy" for the built-in one')
    parser.add_argument("--language-model", help="the folder of its OPT, where the model brings none")
    parser.add_argument("--vision", help="the folder of its CLIP ViT-L/14, likewise")
    parser.add_argument("--clip", required=True, help="folder of the CLIP that compares pictures (ViT-L/14)")
    parser.add_argument("--alexnet", help="torchvision's AlexNet, for LPIPS")
    parser.add_argument("--lpips", help="the linear layers of LPIPS 0.1 for it")
    parser.add_argument("--checkpoint", help='what draws: a checkpoint as `evaluate` takes it, or "toybox"; without it '
                        "somebody else draws, from the files in OUT/conditioning into OUT/pictures")  # fmt: skip
    parser.add_argument("--trials", type=int, default=0, help="the first ones only; 0 is all (default)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--title", help="heading of the report")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=run_evaluate_gill)


def run_evaluate_gill(options: argparse.Namespace) -> None:
    """Answer and draw what is missing, score what is new, write the report."""
    from ..blip_diffusion.pipeline import SubjectPipeline
    from ..gill.file_names import TOY_FILE
    from ..gill.pipeline import load_gill
    from ..gill.vision import ClipVision
    from ..pictures.towers import ClipTower
    from ..weights.fingerprint import fingerprint_of
    from .evaluate import require_same_settings
    from .gill_evaluation import Judges, StoryEvaluation, StorySettings, summarise, write_summary
    from .lpips import Lpips

    require_in_range("trials", options.trials, 0, 10**7)
    require_in_range("steps", options.steps, 1, 1000)
    if bool(options.alexnet) != bool(options.lpips):
        raise SubjectError("LPIPS needs both --alexnet and --lpips.")
    trials = open_trials(options.protocol, Path(options.annotations), Path(options.pictures), options.trials)
    out, settings = Path(options.out), StorySettings(options.steps, options.guidance, options.seed)
    require_writable_folder(out)
    with only_run_in(out):
        path = TOY_FILE if options.gill == "toy" else Path(options.gill)
        folder = Path(options.language_model) if options.language_model else None
        tower = ClipVision.from_folder(Path(options.vision)) if options.vision else None
        gill = load_gill(path, folder, tower=tower)
        weights = {name: fingerprint_of(part.state_dict())
                   for name, part in (("gill", gill.parts), ("language_model", gill.language))}  # fmt: skip
        gill.module.to(options.device)
        pipeline = SubjectPipeline.from_checkpoint(options.checkpoint, options.device) if options.checkpoint else None
        lpips = Lpips(Path(options.alexnet), Path(options.lpips), options.device) if options.lpips else None
        judges = Judges(ClipTower(Path(options.clip), options.device), lpips)
        fixed = asdict(settings) | {"protocol": options.protocol, "space": gill.space, "checkpoint": options.checkpoint}
        judged_by = {"clip": judges.clip.fingerprint, "lpips": lpips.fingerprint if lpips else None}
        require_same_settings(out / "settings.json", fixed | weights | judged_by)
        records = StoryEvaluation(gill, pipeline, judges, settings, out).run(trials)
        title = options.title or f"GILL by {options.protocol}, {len(trials)} trials"
        summary = summarise(options.protocol, records, title)
        write_summary(summary, out)
    for name, scores in summary["contexts"].items():
        found = ", ".join(f"{key} {value:.3f}" for key, value in scores.items() if isinstance(value, float))
        log.info("%s: %s", name, found)
