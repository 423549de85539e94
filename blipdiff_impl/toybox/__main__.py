"""`python -m blipdiff_impl.toybox STAGE [--minutes M]`: the stages that make the embedded model, in order."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

PRETRAINED = Path("pretraining") / "stage2" / "model.safetensors"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m blipdiff_impl.toybox", description=__doc__)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--minutes", type=float, help="length of a training stage over all its runs")
    parser.add_argument("--process", type=int, default=0, help="number of this process, where several share a stage")
    parser.add_argument("--processes", type=int, default=1, help="how many share it; start each with its own number")
    parser.add_argument("--subjects", type=int, default=256, help="held-out subjects that `numbers` draws")
    parser.add_argument("--file", type=Path, default=PRETRAINED, help="what `adopt` takes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    STAGES[options.stage](options)


def _one_thread(stage):
    """On one thread: two of them wait for each other many times as long as they work when a core is not free.

    Attention by plain products, because its fused backward is the slower one at these sizes.
    """

    def run(options: argparse.Namespace) -> None:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        torch.set_num_threads(1)
        with sdpa_kernel(SDPBackend.MATH):
            stage(options)

    return run


def _bank(options: argparse.Namespace) -> None:
    from .bank import make_bank

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


def _edges(options: argparse.Namespace) -> None:
    from .train_edges import train_edges

    train_edges(options.minutes or 25)


def _export(options: argparse.Namespace) -> None:
    from .export import export

    export()


def _adopt(options: argparse.Namespace) -> None:
    from .export import adopt

    adopt(options.file)


def _numbers(options: argparse.Namespace) -> None:
    from .evaluate import print_numbers

    print_numbers(options.subjects)


def _settings(options: argparse.Namespace) -> None:
    from .other_settings import print_other_settings

    print_other_settings()


STAGES = {
    "bank": _bank,
    "vae": _one_thread(_vae),
    "fold": _one_thread(_fold),
    "decoder": _one_thread(_decoder),
    "subject": _one_thread(_subject),
    "judge": _one_thread(_judge),
    "features": _one_thread(_features),
    "latents": _one_thread(_latents),
    "diffusion": _one_thread(_diffusion),
    "edges": _one_thread(_edges),
    "export": _export,
    "adopt": _adopt,
    "numbers": _one_thread(_numbers),
    "settings": _one_thread(_settings),
}

if __name__ == "__main__":
    main(sys.argv[1:])
