"""A model of the released size with random weights, loaded through the host's nodes, for benchmarks.

The weights are those of `tests/reference/seeded.py`, so the reference in its own process has the same ones.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.blip_diffusion.checkpoints.expected_shapes import PARTS, expected_shapes
from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.prompts.tokenizers import bert_word_pieces
from tests.reference.seeded import seeded_like
from tools.host import find_host
from tools.inprocess import load_comfy
from tools.places import CACHE

BASE = CACHE / "benchmarks"
NAME = "released_size_random.safetensors"


def write_released_checkpoint() -> None:
    """The checkpoint in the benchmark's model folder; kept from run to run (about 6 GB, float32)."""
    path = BASE / "models" / "blipdiffusion" / NAME
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: seeded_like(expected_shapes(part, RELEASED), part) for part in PARTS}
    write_single_file(path, parts, RELEASED, bert_word_pieces(), torch.float32)


def host_with_pytorch_attention(base: Path = BASE) -> SimpleNamespace:
    """The host in this process as `--use-pytorch-cross-attention` starts it; see `tools.inprocess.load_comfy`."""
    sys.path.insert(0, str(find_host()))
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    return load_comfy(base)


def load_model(comfy: SimpleNamespace, name: str = NAME) -> tuple:
    """MODEL, CLIP, VAE and SUBJECT_ENCODER from the loader node, float32."""
    return comfy.node("SubjectModelLoader").execute(name, "fp32").result[:4]
