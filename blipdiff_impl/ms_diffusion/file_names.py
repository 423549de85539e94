"""What the file of an adapter is called, and where the built-in one is."""

from __future__ import annotations

from pathlib import Path

RELEASED_FILE = "ms_adapter.bin"
TOYBOX_FILE = Path(__file__).parents[1] / "toybox" / "ms_adapter.safetensors"
"""The adapter for the embedded model."""
