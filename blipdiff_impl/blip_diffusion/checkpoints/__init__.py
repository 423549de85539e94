"""Checkpoints: open any published layout, check it strictly, convert it into one file."""

from .checkpoint import Checkpoint
from .convert import convert
from .expected_shapes import PARTS
from .opening import open_checkpoint
from .single_file import write_single_file

__all__ = ["PARTS", "Checkpoint", "convert", "open_checkpoint", "write_single_file"]
