"""Turn a checkpoint of any layout into this pack's single file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from ..config import ModelConfig
from .expected_shapes import PARTS
from .opening import open_checkpoint
from .single_file import Progress, SingleFile
from .stock import stock_warnings

logger = logging.getLogger(__name__)


def convert(
    source: str | Path,
    destination: str | Path,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    config: ModelConfig | None = None,
) -> None:
    """Write the parts of `source` as one `.safetensors`; one part is in memory at a time.

    Args:
        source: a checkpoint of any layout.
        destination: file to write; appears when it is complete.
        dtype: type to store the weights in; None keeps the types of the source.
        progress: called with (bytes written, bytes in all).
        overwrite: replace a file that exists.
        config: sizes for layouts that state none; default the released ones.

    Raises:
        CheckpointError: the source cannot be used, or the file cannot be written.
    """
    checkpoint = open_checkpoint(source, config)
    for note in checkpoint.notes:
        logger.info(note)
    present = [name for name in PARTS if checkpoint.has(name)]
    content = SingleFile(
        infos={name: checkpoint.infos(name) for name in present},
        load_part=checkpoint.part,
        config=checkpoint.config,
        vocabulary=checkpoint.vocabulary if checkpoint.has("subject_encoder") else [],
        dtype=dtype,
        subject_vectors=checkpoint.subject_vectors(),
        notes={"warnings": json.dumps(checkpoint.warnings + stock_warnings(checkpoint))},
    )
    content.write(Path(destination), overwrite, progress)
