"""Names of tensors translated by ordered rules, each a pattern and its replacement; every method has its own rules."""

from __future__ import annotations

import re

Rules = tuple[tuple[str, str], ...]


def rename(name: str, rules: Rules) -> str:
    """Apply every rule in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
