"""`python -m blipdiff_impl.toybox STAGE [--minutes M]`: the stages that make the embedded model, in order."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..command import exit_status
from ..settings import require_in_range
from .threads import on_one_thread

PRETRAINED = Path("pretraining") / "stage2" / "model.safetensors"


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; what is wrong ends in one sentence and exit status 2, Ctrl-C in 130."""
    return exit_status(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m blipdiff_impl.toybox", description=__doc__)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--minutes", type=float, help="length of a training stage over all its runs")
    parser.add_argument("--steps", type=int, help="of `box_judge`, and of each training of `style`, over all its runs")
    parser.add_argument("--seed", type=int, default=11, help="of `scenes`; another one to train further")
    parser.add_argument("--process", type=int, default=0, help="number of this process, where several share a stage")
    parser.add_argument("--processes", type=int, default=1, help="how many share it; start each with its own number")
    parser.add_argument("--subjects", type=int, default=256, help="held-out subjects that `numbers` and `sheet` draw")
    parser.add_argument("--file", type=Path, default=PRETRAINED, help="what `adopt` takes")
    parser.add_argument(
        "--out", type=Path, help="where `renew`, `adapter`, `adapter_further`, `sheet` and `style` (a folder) write"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=(), choices=(96, 192), help="of the pictures measured")
    parser.add_argument("--model", default="toybox", help="the file that `numbers` measures and `sheet` draws with")
    options = parser.parse_args(arguments)
    if options.minutes is not None:
        require_in_range("minutes", options.minutes, 0.01, 100_000)
    if options.steps is not None:
        require_in_range("steps", options.steps, 1, 10**6)
    require_in_range("processes", options.processes, 1, 1024)
    require_in_range("process", options.process, 0, options.processes - 1)
    require_in_range("subjects", options.subjects, 1, 100_000)
    require_in_range("seed", options.seed, 0, 2**32 - 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    STAGES[options.stage](options)


def _bank(options: argparse.Namespace) -> None:
    from ..toy_world.bank import make_bank

    make_bank()


def _vae(options: argparse.Namespace) -> None:
    from .train_vae import train_vae

    train_vae(options.minutes or 26)


def _fold(options: argparse.Namespace) -> None:
    from .train_vae import fold_vae

    fold_vae()


def _decoder(options: argparse.Namespace) -> None:
    from .train_vae import train_vae

    train_vae(options.minutes or 9, decoder_only=True, rate=6e-4)


def _subject(options: argparse.Namespace) -> None:
    from .train_subject import train_subject

    train_subject(options.minutes or 22)


def _box_judge(options: argparse.Namespace) -> None:
    from .box_judge import train_box_judge

    train_box_judge(options.steps or 700)


def _judge(options: argparse.Namespace) -> None:
    from .judge import train_judge

    train_judge(options.minutes or 16.5)


def _features(options: argparse.Namespace) -> None:
    from .features import compute_features

    compute_features(options.process, options.processes)


def _latents(options: argparse.Namespace) -> None:
    from .features import compute_latents

    compute_latents(options.process, options.processes)


def _diffusion(options: argparse.Namespace) -> None:
    from .train_diffusion import train_diffusion

    train_diffusion(options.minutes or 62, options.process, options.processes)


def _scene_bank(options: argparse.Namespace) -> None:
    from .scene_bank import make_scene_bank

    make_scene_bank()


def _scenes(options: argparse.Namespace) -> None:
    from .train_scenes import train_scenes

    train_scenes(options.minutes or 76, options.seed)


def _large_decoder(options: argparse.Namespace) -> None:
    from .train_decoder import train_decoder

    train_decoder(options.minutes or 15)


def _renew(options: argparse.Namespace) -> None:
    from .export import WEIGHT_FILE, renew

    renew(options.out or WEIGHT_FILE)


def _edges(options: argparse.Namespace) -> None:
    from .train_edges import train_edges

    train_edges(options.minutes or 45)


def _style(options: argparse.Namespace) -> None:
    from .train_style import FOLDER, train_style

    train_style(options.steps, options.out or FOLDER)


def _adapter(options: argparse.Namespace) -> None:
    from ..ms_diffusion.file_names import TOYBOX_FILE
    from .train_adapter import make_adapter

    make_adapter(options.out or TOYBOX_FILE)


def _adapter_further(options: argparse.Namespace) -> None:
    from ..ms_diffusion.file_names import TOYBOX_FILE
    from .train_adapter import train_adapter_further

    train_adapter_further(options.out or TOYBOX_FILE)


def _export(options: argparse.Namespace) -> None:
    from .export import export

    export()


def _adopt(options: argparse.Namespace) -> None:
    from .export import adopt

    adopt(options.file)


def _numbers(options: argparse.Namespace) -> None:
    from .evaluate import print_numbers

    print_numbers(options.subjects, options.model, options.sizes)


def _settings(options: argparse.Namespace) -> None:
    from .other_settings import print_other_settings

    print_other_settings()


def _pndm(options: argparse.Namespace) -> None:
    from .stability import print_stability

    print_stability()


def _sheet(options: argparse.Namespace) -> None:
    from .subject_sheet import write_sheet

    write_sheet(options.subjects, options.out or Path("subjects.png"), options.model)


STAGES = {
    "bank": _bank,
    "vae": on_one_thread(_vae),
    "fold": on_one_thread(_fold),
    "decoder": on_one_thread(_decoder),
    "subject": on_one_thread(_subject),
    "judge": on_one_thread(_judge),
    "box_judge": on_one_thread(_box_judge),
    "features": on_one_thread(_features),
    "latents": on_one_thread(_latents),
    "diffusion": on_one_thread(_diffusion),
    "scene_bank": on_one_thread(_scene_bank),
    "scenes": on_one_thread(_scenes),
    "large_decoder": on_one_thread(_large_decoder),
    "renew": _renew,
    "style": on_one_thread(_style),
    "adapter": _adapter,
    "adapter_further": _adapter_further,
    "edges": on_one_thread(_edges),
    "export": _export,
    "adopt": _adopt,
    "numbers": on_one_thread(_numbers),
    "settings": on_one_thread(_settings),
    "pndm": on_one_thread(_pndm),
    "sheet": on_one_thread(_sheet),
}

if __name__ == "__main__":
    sys.exit(main())
