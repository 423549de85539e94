"""docs/architecture.md against the files: every module has its line, and what the page names is there."""

import re

from tools.make_architecture import PAGE, modules, page
from tools.places import ROOT


def test_every_module_has_its_line():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run `python -m tools.make_architecture`"
    assert len(modules()) > 150


def test_every_module_says_what_it_is():
    assert [str(path) for path, sentence in modules().items() if len(sentence.split()) < 2] == []


def test_files_that_it_names_are_there():
    text = PAGE.read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`((?:blipdiff_impl|nodes|tests)/[\w./-]+)`", text) if "<" not in name]
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
