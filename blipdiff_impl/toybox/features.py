"""Latents of the bank's pictures and image features of its references, computed once before diffusion training.

The autoencoder's encoder and the image tower are frozen from here on.
"""

from __future__ import annotations

import numpy as np
import torch

from ..toy_world.bank import CACHE, LATENT_SIDE, Bank, open_array, open_bank
from ..training.optimisers import fast_type
from .model import CONFIG, WIDTH
from .train_subject import averaged_subject_encoder, to_pixels
from .train_vae import VAE_CONFIG, build_vae

FOLDER = CACHE / "bank"
CHUNK = 128
_SHAPES = {"latents": (4, LATENT_SIDE, LATENT_SIDE), "features": (CONFIG.image_tower.num_tokens, WIDTH)}


@torch.no_grad()
def compute_latents(process: int = 0, processes: int = 1) -> None:
    """Write scaled latent means (float16) of the bank's pictures; a row of zeros is one not yet computed.

    Several processes share the work chunk by chunk; the first must have begun before the others start.
    """
    vae = build_vae()
    vae.load_state_dict(torch.load(CACHE / "vae_folded.pt", weights_only=True))
    vae.to(fast_type())

    def encode(bank: Bank, rows: slice) -> torch.Tensor:
        rgb = (
            torch.from_numpy(np.ascontiguousarray(bank.pictures[rows])).permute(0, 3, 1, 2).to(fast_type()) / 127.5 - 1
        )
        return vae.encode(rgb).latent_dist.mean.float() * VAE_CONFIG.scaling_factor

    _fill("latents", encode, process, processes)


@torch.no_grad()
def compute_features(process: int = 0, processes: int = 1) -> None:
    """Write the image tower's output (float16) for the bank's references; shared like `compute_latents`."""
    encoder, _ = averaged_subject_encoder()
    tower = encoder.visual_encoder.to(fast_type())

    def see(bank: Bank, rows: slice) -> torch.Tensor:
        return tower(to_pixels(bank.references[rows]).to(fast_type()))

    _fill("features", see, process, processes)


def _fill(name: str, compute, process: int, processes: int) -> None:
    bank = open_bank()
    count = len(bank.labels)
    path, shape = FOLDER / f"{name}.npy", (count, *_SHAPES[name])
    array = open_array(path, np.float16, shape)
    for start in range(CHUNK * process, count, CHUNK * processes):
        rows = slice(start, min(start + CHUNK, count))
        if not array[rows.stop - 1].any():
            array[rows] = compute(bank, rows).to(torch.float16).numpy()
    array.flush()
