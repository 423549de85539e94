"""Settings from and to YAML, and whether those of a checkpoint are the ones asked for."""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path

from ..errors import SubjectError
from .settings import Stage1Settings, Stage2Settings, StageSettings

STAGES = {1: Stage1Settings, 2: Stage2Settings}
# What may change when a run goes on; all else would make it another run.
_FREE = {"out", "workers", "threads", "log_every", "save_every", "keep", "tensorboard", "sample_every", "sample_count",
         "sample_steps", "sample_guidance", "shards"}  # fmt: skip


def read_settings(path: Path, overrides: list[str] | None = None) -> StageSettings:
    """Settings from a YAML file with `stage: 1` or `stage: 2` and any of that stage's fields.

    Args:
        overrides: `name=value` each, the value as YAML.

    Raises:
        SubjectError: no file, no YAML, an unknown field, a value of a wrong kind or out of range.
    """
    import yaml

    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubjectError(f"The settings {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubjectError(f"The settings {path} are not YAML: {error}") from error
    if not isinstance(record, dict) or record.get("stage") not in STAGES:
        raise SubjectError(
            f"The settings {path} should begin with `stage: 1` or `stage: 2`, then one `name: value` a line."
        )
    stage = record.pop("stage")
    return from_record(STAGES[stage], record | parse_overrides(overrides or []))


def parse_overrides(overrides: list[str]) -> dict:
    """`name=value` each to a record; values are read as YAML."""
    import yaml

    record = {}
    for override in overrides:
        name, found, value = override.partition("=")
        if not found:
            raise SubjectError(f"--set {override} should look like --set steps=1000.")
        try:
            record[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SubjectError(f"--set {override}: the value is not YAML ({error}).") from error
    return record


def from_record(kind: type[StageSettings], record: dict) -> StageSettings:
    """The settings `kind` with the values of a record."""
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    for name in record:
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, 1)
            hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(fields)}."
            raise SubjectError(f"{kind.__name__} has no setting {name!r}.{hint}")
    return kind(**{name: _typed(name, value, fields[name]) for name, value in record.items()})


def to_yaml(settings: StageSettings) -> str:
    """All settings, as `read_settings` takes them."""
    import yaml

    return yaml.safe_dump(_record(settings), sort_keys=False)


def require_same(found: str, settings: StageSettings, where: Path) -> None:
    """Refuse a checkpoint whose settings (the text of `to_yaml`) would make it another run.

    Raises:
        SubjectError: names what differs, with both values.
    """
    import yaml

    try:
        before, now = yaml.safe_load(found), _record(settings)
    except yaml.YAMLError as error:
        raise SubjectError(f"The settings in {where} are damaged ({error}); remove that checkpoint.") from error
    before = before if isinstance(before, dict) else {}
    different = [name for name in now if name not in _FREE and before.get(name) != now[name]]
    if different:
        list_ = "; ".join(f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in different)
        raise SubjectError(f"{where} belongs to a run with other settings: {list_}. Use them again, or another --out.")


def _record(settings: StageSettings) -> dict:
    stage = next(number for number, kind in STAGES.items() if isinstance(settings, kind))
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(settings).items()}
    return {"stage": stage, **plain}


def _typed(name: str, value, default):
    """`value` as the type of `default`."""
    if isinstance(default, tuple):
        items = (value,) if isinstance(value, str | int | float) else value
        kind = type(default[0]) if default else str
        if isinstance(items, list | tuple) and all(isinstance(item, kind) for item in items):
            return tuple(items)
    elif isinstance(default, float) and _is_number(value):
        return float(value)
    elif type(value) is type(default):
        return value
    kinds = {tuple: "a list", bool: "true or false", str: "text"}
    kind = kinds.get(type(default), "a number")
    raise SubjectError(f"{name} = {value!r} should be {kind}, such as {default!r}.")


def _is_number(value) -> bool:
    """YAML reads 1e-4 (no point, no sign) as text."""
    if type(value) is str:
        return re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None
    return type(value) in (int, float)
