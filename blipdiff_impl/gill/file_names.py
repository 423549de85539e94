"""What the files of a GILL model are called, and where the built-in ones are (docs/method.md 14.2)."""

from __future__ import annotations

from pathlib import Path

RELEASED_FILE, ARGS_FILE, DECISION_FILE = RELEASED = (
    "pretrained_ckpt.pth.tar",
    "model_args.json",
    "decision_model.pth.tar",
)
TOY_FILE, TOY_LOOK_FILE = (
    Path(__file__).parents[1] / "toy_gill" / f"{name}.safetensors" for name in ("toy_gill", "toy_gill_look")
)
