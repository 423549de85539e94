"""The toy world as training data, and what training on it needs: word pieces, and settings that suit its size.

First stage: captions that say how the subject looks, so that there is something to learn from pictures. Second stage:
as in `toybox`, the look is never in the text.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ...stable_diffusion.text_encoder import TextEncoder
from ...toy_world import prompts
from ...toy_world.bank import CACHE, open_bank
from ...toy_world.colour import rgb_to_lab
from ...toy_world.render import render_picture, render_reference
from ...toy_world.world import BACKGROUND_NAMES, BACKGROUNDS, RGB, ToySubject, captions, subject_from_seed, vocabulary
from ...training.samples import Sample
from ..checkpoints.vocabulary import ADDED_PIECE

COLOURS = {
    "red": (220, 40, 40), "orange": (240, 140, 40), "yellow": (235, 220, 60), "green": (70, 180, 70),
    "turquoise": (70, 200, 190), "blue": (60, 90, 220), "purple": (140, 60, 200), "pink": (240, 130, 190),
    "brown": (130, 85, 50), "grey": (150, 150, 150), "white": (240, 240, 240),
}  # fmt: skip
_PATTERN_WORDS = {"stripes": "stripes", "bars": "bars", "dots": "dots", "checks": "checks", "halves": "half"}

_SHARED = {"model": "toybox", "shards": ("toy",), "optimiser": "muon", "betas": (0.9, 0.98), "weight_decay": 0.01,
           "clip": 1.0, "dropout": 0.0, "flip": 0.0, "precision": "no", "threads": 1}  # fmt: skip
STAGE1 = _SHARED | {
    "fresh": ("qformer",), "batch_size": 48, "steps": 2000, "warm_up": 100, "learning_rate": 3e-3,
    "last_rate": 6e-5, "crop_low": 0.8, "text_length": 16, "embedding_size": 64, "save_every": 500, "ema_decay": 0.998,
}  # fmt: skip
STAGE2 = _SHARED | {
    "fresh": ("qformer",), "batch_size": 40, "steps": 4000, "warm_up": 160, "learning_rate": 6e-4, "last_rate": 1.2e-5,
    "crop_low": 1.0, "released_share": 0.8, "empty_share": 0.1, "min_snr": 5.0, "mask_weight": 2.0,
    "encoder_rate": 2.0, "ema_decay": 0.998, "save_every": 250,
    "sample_every": 1000, "sample_steps": 25, "sample_guidance": 2.5,
}  # fmt: skip


class ToyWorld:
    """Pairs 0 .. count-1 of the toy world; pair i shows the subject with seed i.

    Pairs that the bank on disk holds (`python -m blipdiff_impl.toybox bank`, `latents`) are read, others rendered:
    the pictures are the same.

    Args:
        describe_look: captions name colours and pattern.
    """

    def __init__(self, count: int, describe_look: bool):
        self.groups = [count]
        self._describe_look = describe_look
        self._bank = open_bank() if (CACHE / "bank" / "ready.txt").exists() else None
        latents = CACHE / "bank" / "latents.npy"
        self._latents = np.load(latents, mmap_mode="r") if latents.exists() else None

    def __getitem__(self, index: int) -> Sample:
        subject = subject_from_seed(index)
        background, picture, reference, mask = self._pair(index, subject)
        phrases = captions(background)
        heads = looks(subject) if self._describe_look else (f"a {subject.category}",)
        return Sample(
            f"toy pair {index}", picture, tuple(f"{head} {phrase}" for head in heads for phrase in phrases),
            subject.category, reference, mask, phrases[index % len(phrases)], self._latent(index),
        )  # fmt: skip

    def _pair(self, index: int, subject: ToySubject) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        """Name of the background, picture, reference, and how much of the picture's parts is subject."""
        if self._bank is not None and index < len(self._bank.labels):
            bank = self._bank
            background = BACKGROUND_NAMES[bank.labels[index, 1]]
            return background, np.array(bank.pictures[index]), np.array(bank.references[index]), bank.masks[index]
        rng = np.random.default_rng((index, 3))
        background = BACKGROUND_NAMES[int(rng.integers(len(BACKGROUND_NAMES)))]
        target = render_picture(subject, background, rng, bank=True)
        return background, target.picture, render_reference(subject, rng, bank=True).picture, target.mask

    def _latent(self, index: int) -> np.ndarray | None:
        """None where it was not computed (a row of zeros)."""
        if self._latents is None or index >= len(self._latents) or not self._latents[index].any():
            return None
        return self._latents[index].astype(np.float32)


def looks(subject: ToySubject) -> tuple[str, ...]:
    """Two ways to say how a subject looks: all of it, or its main colour alone."""
    look = subject.look
    main, second, accent = (colour_word(colour) for colour in (look.main, look.second, look.accent))
    plain = f"a {main} {subject.category}"
    pattern = "" if look.pattern == "plain" else f" with {second} {_PATTERN_WORDS[look.pattern]}"
    return f"{plain}{pattern} and {accent} parts", plain


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    return rgb_to_lab(np.array(list(COLOURS.values())))


def colour_word(colour: RGB) -> str:
    """The nearest of `COLOURS`, by Lab distance."""
    distances = np.linalg.norm(_palette() - rgb_to_lab(np.array(colour)), axis=-1)
    return list(COLOURS)[int(distances.argmin())]


def toy_vocabulary() -> list[str]:
    """Word pieces of the first stage's captions; begins with those of the embedded model."""
    phrases = [phrase for name in BACKGROUNDS for phrase in captions(name)]
    words = ["a", "with", "and", "parts", *COLOURS, *_PATTERN_WORDS.values(), *(" ".join(phrases)).split()]
    return list(dict.fromkeys([*vocabulary(), ADDED_PIECE, *words]))


@torch.no_grad()
def prepare_text_encoder(encoder: TextEncoder, seed: int) -> None:
    """A fresh table for the toy world's few words: large enough to be told apart, zero for all others."""
    table = encoder.token_embedding().weight
    used = list(prompts.used_tokens())
    rows = torch.randn(len(used), table.shape[1], generator=torch.Generator().manual_seed(seed))
    table.zero_()
    table[torch.tensor(used)] = rows / 2
