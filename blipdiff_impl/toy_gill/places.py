"""Where the trainings leave what they made: folders of transformers, runs and checkpoints."""

from ..toy_world.bank import CACHE

FOLDER = CACHE.parent / "toy_gill"
LANGUAGE, TOWER, TEXT_ENCODER = (FOLDER / name for name in ("opt", "clip_vision", "text_encoder"))
