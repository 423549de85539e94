"""Whether a setting is a number within its limits."""

from __future__ import annotations

import math

from .errors import SubjectError


def require_in_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse what is not from `low` to `high`, both allowed, or not finite.

    Raises:
        SubjectError: names the setting, its value and the limits.
    """
    if not (math.isfinite(value) and low <= value <= high):
        bound = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise SubjectError(f"{name} = {value} is not possible; choose a number {bound}.")
