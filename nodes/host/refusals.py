"""What can be said before anything runs: the sentences of `validate_inputs`, each for one input.

The host lays a sentence on every input that `validate_inputs` names. So it begins with the name of the input that it is
about; `web/explained.js` takes it off the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...blipdiff_impl.errors import SubjectError
from ...blipdiff_impl.prompts.rows import MOST_LETTERS

# What a parameter of `validate_inputs` holds where the prompt has no such input: the host gives None for links.
ABSENT: Any = object()


def typed(value) -> str | None:
    """A text that was typed in; None where it comes through a link, is absent, or is too long to look at."""
    value = value[0] if isinstance(value, list | tuple) else value  # of nodes that take lists, the host hands lists
    return value if isinstance(value, str) and len(value) <= MOST_LETTERS else None


def is_linked(value) -> bool:
    """Whether an input is connected; `value` has `ABSENT` as its default."""
    return value is not ABSENT


def first_refusal(*checks: tuple[str, Callable[[], object]]) -> bool | str:
    """The answer of `validate_inputs`: True, or what the first check raises, behind its input's name.

    Args:
        checks: the name of an input, and a function that raises SubjectError if it is wrong.
    """
    for name, check in checks:
        try:
            check()
        except SubjectError as error:
            return f"{name}: {error}"
    return True
