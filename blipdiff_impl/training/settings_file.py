"""Settings from and to YAML, and whether those of a checkpoint are the ones asked for."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import SubjectError, one_line, shown
from ..files import parse_yaml, read_text
from ..settings import require_same
from .settings import StageSettings

# What may change when a run resumes; all else would make it another run.
_FREE = {"out", "workers", "threads", "log_every", "save_every", "keep", "tensorboard", "sample_every", "sample_count",
         "sample_steps", "sample_guidance", "shards"}  # fmt: skip


def read_settings(
    path: Path, stages: Mapping[int | str, type[StageSettings]], overrides: list[str] | None = None
) -> StageSettings:
    """Settings from a YAML file that names its stage (`stage: 1`) and any of that stage's fields.

    Args:
        stages: kinds of settings by what a file calls them.
        overrides: `name=value` each, the value as YAML.

    Raises:
        SubjectError: no file, no YAML, an unknown field, a value of a wrong kind or out of range.
    """
    record = parse_yaml(read_text(path, "The settings"), f"The settings {path} are not YAML")
    if not isinstance(record, dict) or record.get("stage") not in (*stages,):
        names = " or ".join(f"`stage: {name}`" for name in stages)
        raise SubjectError(f"The settings {path} should begin with {names}, then one `name: value` a line.")
    stage = record.pop("stage")
    return from_record(stages[stage], record | parse_overrides(overrides or []))


def parse_overrides(overrides: list[str]) -> dict:
    """`name=value` each to a record; values are read as YAML."""
    record = {}
    for override in overrides:
        name, found, value = override.partition("=")
        if not found:
            raise SubjectError(f"--set {one_line(override, 80)} should look like --set steps=1000.")
        record[name] = parse_yaml(value, f"--set {one_line(override, 80)}: the value is not YAML")
    return record


def from_record(kind: type[StageSettings], record: dict) -> StageSettings:
    """The settings `kind` with the values of a record."""
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    for name in record:
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, 1)
            hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(fields)}."
            raise SubjectError(f"{kind.__name__} has no setting {shown(name, 80)}.{hint}")
    return kind(**{name: _typed(name, value, fields[name]) for name, value in record.items()})


def to_yaml(settings: StageSettings) -> str:
    """All settings, as `read_settings` takes them."""
    import yaml

    return yaml.safe_dump(_record(settings), sort_keys=False)


def require_same_run(found: str, settings: StageSettings, where: Path) -> None:
    """Refuse a checkpoint whose settings (the text of `to_yaml`) would make it another run.

    Raises:
        SubjectError: names what differs, with both values.
    """
    before, now = parse_yaml(found, f"The settings in {where} are damaged, no YAML"), _record(settings)
    before = before if isinstance(before, dict) else {}
    fixed = {name: value for name, value in now.items() if name not in _FREE}
    complaint = f"{where} belongs to a run with other settings"
    require_same(before, fixed, complaint, "Use them again, or another --out.")


def _record(settings: StageSettings) -> dict:
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(settings).items()}
    return {"stage": settings.stage, **plain}


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
    raise SubjectError(f"{name} = {shown(value)} should be {kind}, such as {default!r}.")


def _is_number(value) -> bool:
    """YAML reads 1e-4 (no point, no sign) as text."""
    if type(value) is str:
        return re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None
    return type(value) in (int, float)
