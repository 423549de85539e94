"""The file that lists a benchmark's subjects and prompts: YAML, JSON, or DreamBench's own `prompts_and_classes.txt`.

prompts:
  object: ["a {} in the jungle", "a red {}"]
  live: ["a {} wearing a red hat"]
subjects:
  my_cat: {category: cat, prompts: live}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import SubjectError, shown
from ..files import parse_yaml, read_text
from .published import RELEASED_WORDS

DATA_SET_FILES = ("benchmark.yaml", "benchmark.yml", "benchmark.json", "prompts_and_classes.txt")
_LIVE = ("cat", "dog")
_PROMPT_LINE = re.compile(r"^\s*(['\"])(?P<text>.*\{0\}.*\{1\}.*)\1\.format\(", re.MULTILINE)
_CLASS_LINE = re.compile(r"^([\w-]+),([\w ]+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Listing:
    """Templates by the name of their list; (class word, name of the list) by subject."""

    prompts: dict[str, list[str]]
    subjects: dict[str, tuple[str, str]]


def read_listing(path: Path, released_words: bool = True) -> Listing:
    """Read a listing of either form.

    Raises:
        SubjectError: unreadable or malformed; says where.
    """
    text = read_text(path, "The benchmark")
    if path.suffix == ".txt":
        return _parse_data_set(path, text, released_words)
    return _parse_record(path, _load_yaml(path, text))


def _parse_data_set(path: Path, text: str, released_words: bool) -> Listing:
    """The text form: `name,class` lines under "Classes", two Python-like lists, those for objects first."""
    head, objects, live = _sections(path, text)
    classes = {name: word for name, word in _CLASS_LINE.findall(head) if name != "subject_name"}
    prompts = {"object": _templates(objects), "live": _templates(live)}
    if not classes or not all(prompts.values()):
        raise SubjectError(f"The benchmark {path} lists no classes, or no prompts for objects or live subjects.")
    words = {name: RELEASED_WORDS.get(name, word) if released_words else word for name, word in classes.items()}
    return Listing(prompts, {n: (words[n], "live" if word in _LIVE else "object") for n, word in classes.items()})


def _sections(path: Path, text: str) -> list[str]:
    sections = re.split(r"^(?:Object|Live Subject) Prompts\s*$", text, flags=re.MULTILINE)
    if len(sections) != 3:
        raise SubjectError(f"The benchmark {path} should have the parts Classes, Object Prompts, Live Subject Prompts.")
    return sections


def _templates(section: str) -> list[str]:
    found = [match["text"] for match in _PROMPT_LINE.finditer(section)]
    return [re.sub(r"\{0\}\s*", "", text).replace("{1}", "{}") for text in found]


def _load_yaml(path: Path, text: str) -> dict:
    record = parse_yaml(text, f"The benchmark {path} is neither YAML nor JSON")
    if not isinstance(record, dict) or not all(
        isinstance(record.get(part), dict) and record[part] for part in ("prompts", "subjects")
    ):
        raise SubjectError(f"The benchmark {path} should have the parts `prompts` and `subjects`, each with names.")
    return record


def _parse_record(path: Path, record: dict) -> Listing:
    for name, templates in record["prompts"].items():
        if not isinstance(templates, list) or not templates or not all(isinstance(t, str) for t in templates):
            raise SubjectError(f"In {path}, prompts: {name} should be a list of texts such as 'a {{}} in the snow'.")
    subjects = {str(name): _entry(path, name, entry, record["prompts"]) for name, entry in record["subjects"].items()}
    return Listing({str(name): templates for name, templates in record["prompts"].items()}, subjects)


def _entry(path: Path, name: object, entry: object, prompts: dict) -> tuple[str, str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("category"), str):
        raise SubjectError(f"In {path}, subjects: {name} should say `category: <class word>` and `prompts: <list>`.")
    chosen = entry.get("prompts", next(iter(prompts)))
    if not isinstance(chosen, str | int) or chosen not in prompts:
        raise SubjectError(f"In {path}, subjects: {name} asks for the prompts {shown(chosen)}, which are not listed.")
    return entry["category"], str(chosen)
