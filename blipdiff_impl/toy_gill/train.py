"""GILL's own trainings on the frozen toy language model and picture encoder, and the file that all ends in.

The three losses are those of the stage `gill` of the command `pretrain`, by the same trainer; only the data is drawn
here. What differs from the published recipe stands in docs/gill.md.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import write_whole
from ..gill.checkpoint import open_gill, save_whole_gill
from ..gill.companions import Companions, LanguageConfig, VisionConfig
from ..gill.file_names import TOY_FILE
from ..gill.language_model import LanguageModel
from ..gill.pretraining.decision import add_classifier
from ..gill.pretraining.settings import GILLSettings
from ..gill.pretraining.task import GILLTask
from ..gill.vision import ClipVision
from ..training.optimisers import fast_precision
from ..training.settings_file import from_record
from ..training.trainer import train_stage
from .corpus import draw_caption
from .language import SIZES
from .places import FOLDER, LANGUAGE, TEXT_ENCODER, TOWER
from .prefix import fit_prefix
from .samples import ToyConversations, write_text_encoder

WITH_DECISION = FOLDER / "with_decision.safetensors"
VOTES = FOLDER / "votes.jsonl"

log = logging.getLogger(__name__)

VISION_CELLS = 2
SETTINGS = {
    "language_model": str(LANGUAGE), "vision_model": str(TOWER), "text_encoder": str(TEXT_ENCODER),
    "out": str(FOLDER / "gill"), "shards": ("toy",), "batch_size": 36, "steps": 3000, "warm_up": 30,
    "learning_rate": 2e-3, "last_rate": 4e-5, "tenth_every": 0, "optimiser": "muon", "ema_decay": 0.99,
    "precision": fast_precision(), "seed": 21, "threads": 1, "log_every": 25, "save_every": 50, "retrieval_width": 64,
    "mapper_width": 128, "mapper_layers": 2, "mapper_feed_forward": 256, "vision_cells": VISION_CELLS,
    "visual_tokens": 3, "text_length": 140, "pictures": 2, "forced": 0.6, "joined": 0.0,
    "row_norm": 1.3, "stored": "fp32",
}  # fmt: skip


class ToyGILLTask(GILLTask):
    """GILL's training with the visual prefix in closed form, which stays: all else is learned for the pictures that the
    finished model reads."""

    def __init__(self, settings: GILLSettings):
        super().__init__(settings)
        fit_prefix(self.model.parts, self.frozen.language, self.frozen.vision)
        self.model.parts.visual_embeddings.requires_grad_(False)


def train_gill(steps: int | None = None) -> Path:
    """The three losses; resumes from the newest checkpoint."""
    write_text_encoder()
    settings = _settings({"steps": steps} if steps else {})
    return train_stage(settings, lambda _: ToyConversations(), ToyGILLTask)


def train_decision(count: int = 800) -> None:
    """The classifier that says draw or retrieve, as the command `gill-decision` trains it.

    What has to be drawn in a look that was asked for should be retrieved: the embedded UNet has no words for looks.
    """
    rows = []
    for number in range(count):
        scene = draw_caption(np.random.default_rng((number, 51)), look_share=0.5)
        votes = {"gen": 0, "ret": 5} if scene.look else {"gen": 5, "ret": 0}
        asked = f"Q: draw {scene.said}.\nA: here is {scene.said}:"
        rows.append(json.dumps({"prompt": asked if number % 2 else scene.said, "votes": votes}))
    write_whole(VOTES, "\n".join(rows).encode())
    log.info(
        "%s",
        add_classifier(FOLDER / "gill" / GILLTask.result, LANGUAGE, VOTES, WITH_DECISION, steps=1500, overwrite=True),
    )


def export(path: Path = TOY_FILE) -> None:
    """Everything in one file, in float16."""
    cells = VISION_CELLS
    vision = ClipVision.from_folder(TOWER, cells=cells)
    own = vision.network.config
    parts, model = open_gill(WITH_DECISION).load(), LanguageModel.from_folder(LANGUAGE)
    language = LanguageConfig(vocab_size=model.network.config.vocab_size, **SIZES)
    sizes = {name: getattr(own, name) for name in VisionConfig.__dataclass_fields__ if name != "cells"}
    companions = Companions(language=language, vision=VisionConfig(**sizes, cells=cells))
    save_whole_gill(parts, model, vision, companions, path, torch.float16, overwrite=True)


def train_look(steps: int | None = None) -> Path:
    """The second mapper, which keeps the look; resumes from the newest checkpoint."""
    from .look import LookTask

    changes = {"out": str(FOLDER / "look"), "steps": steps or 250, "learning_rate": 1e-3, "warm_up": 20, "seed": 22}
    settings = _settings(changes)
    trained = FOLDER / "gill" / GILLTask.result
    return train_stage(settings, lambda _: ToyConversations(with_things=True), lambda each: LookTask(each, trained))


def _settings(changes: dict[str, Any]) -> GILLSettings:
    settings = from_record(GILLSettings, SETTINGS | changes)
    assert isinstance(settings, GILLSettings)  # of the kind that was asked for
    return settings
