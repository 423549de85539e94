"""Texts use the field's words: what a reader has met elsewhere under one name does not get another one here."""

import re
import subprocess

import pytest

from tools.places import ROOT

TEXTS = ("*.md", "nodes/*.py", "blipdiff_impl/*.py", "locales/en/*.json", "workflows/*.json", "tools/*.py")
INSTEAD = {
    r"\bheed": "follow",
    r"\bshall\b": "should",
    r"\bgone on (from|with)\b|\b[Gg]o(ing)? on from\b": "resumed, starting from",
    r"\b[Bb]roken[ -]off\b|\b[Bb]reaking off\b": "interrupted",
    r"\brows of 77\b": "chunks of 77",
    r"\bway (down|up)\b": "down blocks, up blocks",
    r"\bt(ells|old) of\b": "says, reported",
    r"\bas ever\b": "as before",
    r"\b(neutral|new|old|other|another|different|clean|dark) grounds?\b": "background",
}


def texts():
    """What a user or contributor reads, by name of the file."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *TEXTS]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


@pytest.mark.parametrize("pattern", INSTEAD, ids=INSTEAD.get)
def test_the_fields_word_is_used(pattern):
    found = [(name, hit[0]) for name, text in texts().items() for hit in re.finditer(pattern, text)]
    assert found == []


def test_texts_are_found():
    names = texts()
    assert {"README.md", "locales/en/nodeDefs.json", "web/docs/SubjectMatte.md"} <= set(names)
    for folder in ("nodes", "blipdiff_impl"):
        assert any(name.startswith(f"{folder}/") and name.count("/") > 1 for name in names)
