"""Settings as numbers within their limits, as one of a few words, as those of before, and as records read from JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from .errors import CheckpointError, SubjectError, shown

MAX_SEED = 2**64 - 1  # PyTorch takes no larger one
_WHOLE_FLOATS = 1 << 53  # every integer below is a float; far larger ones are none


def require_in_range(name: str, value: float, low: float, high: float = math.inf, hint: str = "") -> None:
    """Refuse what is not from `low` to `high`, both allowed, or not finite.

    Args:
        hint: what to choose, for people: "the paper uses 3".

    Raises:
        SubjectError: names the setting, its value and the limits.
    """
    if not low <= value <= high or value == math.inf:
        bound = f"at least {_plain(low)}" if high == math.inf else f"from {_plain(low)} to {_plain(high)}"
        hint = f" ({hint})" if hint else ""
        raise SubjectError(f"{name} = {shown(value)} is not possible; choose a number {bound}{hint}.")


def require_one_of(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse what is none of the choices.

    Raises:
        SubjectError: names the setting, its value and the choices.
    """
    if value not in choices:
        raise SubjectError(f"{name} = {shown(value)} is unknown; choose one of {', '.join(choices)}.")


def differing(before: Mapping, now: Mapping) -> list[str]:
    """Names of settings that have another value now, or had none before."""
    return [name for name in now if before.get(name) != now[name]]


def require_same(before: Mapping, now: Mapping, complaint: str, advice: str) -> None:
    """Refuse to go on with what was begun with other settings.

    Args:
        complaint: how the message begins, "out/run belongs to a run with other settings".
        advice: what to do, as a sentence.

    Raises:
        SubjectError: names what differs, with both values.
    """
    if different := differing(before, now):
        list_ = "; ".join(f"{name} was {shown(before.get(name))} and is {now[name]!r}" for name in different)
        raise SubjectError(f"{complaint}: {list_}. {advice}")


def _plain(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def typed_record(kind: Any, record: object, where: str) -> Any:
    """A dataclass from plain JSON values; a field that is not named keeps its default.

    Fields are numbers, texts, tuples of one type, or dataclasses of such; each is known by the type of its default.

    Args:
        where: what the record is, for the messages.

    Raises:
        CheckpointError: the record is no object, or has a name or a type that the dataclass does not, at any level.
    """
    if not isinstance(record, dict):
        raise CheckpointError(f"The {where} should be a JSON object, but it is {shown(record)}.")
    defaults = {each.name: _default(each) for each in dataclasses.fields(kind)}
    if unknown := sorted(set(record) - set(defaults)):
        raise CheckpointError(
            f"The {where} has fields this version does not know: {shown(unknown)}. "
            "Update the pack, or convert the checkpoint again."
        )
    return kind(**{name: _typed(value, defaults[name], f"{where}.{name}") for name, value in record.items()})


def _default(each: dataclasses.Field):
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()


def _typed(value, default, where: str):
    """`value` as the type of `default`: nested dataclass, tuple or plain scalar."""
    if dataclasses.is_dataclass(default):
        return typed_record(type(default), value, where)
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and value and all(type(item) is type(default[0]) for item in value):
            return tuple(value)
    elif type(value) is type(default):
        return value
    elif isinstance(default, float) and type(value) is int and abs(value) < _WHOLE_FLOATS:
        return float(value)
    raise CheckpointError(f"The {where} should be like {default!r}, but it is {shown(value)}.")
