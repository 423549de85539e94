"""What code, tests and docs cite by number, as in `docs/method.md 6.3`, is a heading of that page."""

import re
import subprocess

import pytest

from tools.places import ROOT

NUMBER = r"\d+(?:\.\d+)*"
CITATION = re.compile(rf"docs/(\w+)\.md\s+({NUMBER}(?:(?:,| and| to)\s+{NUMBER})*)")
TEXTS = ("*.py", "*.md", "*.toml", "*.yml", "*.cff", "*.json", "Makefile")


def texts():
    """The project's texts by name: what git tracks or would track."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *TEXTS]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


def numbers_of(page):
    """Numbers of the headings of a page, in its order."""
    return re.findall(
        rf"^#+ ({NUMBER}) ", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )


def citations():
    """(file, page, number) of everything that is cited."""
    found = []
    for name, text in texts().items():
        for page, numbers in CITATION.findall(text):
            found += [(name, page, number) for number in re.findall(NUMBER, numbers)]
    return found


def test_every_citation_is_a_heading():
    cited = citations()
    assert len(cited) > 45
    pages = {page: numbers_of(page) for _, page, _ in cited}
    assert [citation for citation in cited if citation[2] not in pages[citation[1]]] == []


def test_the_code_cites_nothing_that_a_reader_does_not_have():
    unknown = re.compile(r"fact[\s_-]?sheet", re.IGNORECASE)
    assert [name for name, text in texts().items() if unknown.search(text)] == []


@pytest.mark.parametrize("text, numbers", [
    ("see docs/method.md 6.4 and 6.5", "6.4 and 6.5"), ("(docs/method.md 3.3, 9.2)", "3.3, 9.2"),
    ("docs/method.md 2).", "2"), ("docs/method.md\n    6.4, steps 1 to 6", "6.4"),
])  # fmt: skip
def test_citations_are_read_whole(text, numbers):
    assert CITATION.search(text)[2] == numbers


def test_headings_are_numbered_in_order():
    numbers = [tuple(map(int, number.split("."))) for number in numbers_of("method")]
    assert len(numbers) > 30 and numbers == sorted(set(numbers))
