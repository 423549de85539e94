"""The texts of the nodes in every language: nothing missing, nothing too much, nothing stale, nothing lost."""

import json
import re
from collections import Counter

import pytest

from tools.browser import READY
from tools.make_locales import (
    ENGLISH,
    LANGUAGES,
    LOCALES,
    digest,
    english_texts,
    find_problems,
    flat,
    mark_done,
    read_language,
    read_sources,
)

# What stands for something or is typed as it is: {a}, [subject], (weights:1.2), folders and file types, quoted words.
KEPT = re.compile(r"\{\w+\}|\[\w+\]|\(\w+:[\d.]+\)|[a-z_]+/[a-z_]+|\.safetensors|\.pth|'[^']*\w[^']*'")
# The front end compiles names and descriptions as messages of vue-i18n, where these have a meaning; tooltips are raw.
COMPILED, MEANINGFUL = ("display_name", "description", "name"), set("{}@|$")


@pytest.fixture(scope="module")
def english(comfy):
    return flat(english_texts(comfy.pack.NODES))


def kept(text):
    """Typographic apostrophes are none of the quotes that enclose a word to be typed."""
    return Counter(KEPT.findall(re.sub(r"(?<=[A-Za-z])'(?=[A-Za-zÀ-ÿ])", "", text)))


def test_english_is_that_of_the_nodes(english):
    assert flat(read_language(ENGLISH)) == english, "the texts of nodes changed: run `python -m tools.make_locales`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_from_the_english_of_today(english, language):
    problems = find_problems(language, english, flat(read_language(language)), read_sources())
    assert not problems, "see tools/make_locales.py:\n" + "\n".join(problems)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_what_is_typed_as_it_is(english, language):
    translated = flat(read_language(language))
    lost = {key: kept(text) - kept(translated[key]) for key, text in english.items()}
    assert {key: set(missing) for key, missing in lost.items() if missing} == {}


@pytest.mark.parametrize("language", [ENGLISH, *LANGUAGES])
def test_texts_can_be_shown(language):
    for key, text in flat(read_language(language)).items():
        assert text.strip() == text != "", key
        assert "\n" not in text, key
        if key.rpartition(".")[2] in COMPILED or not key.startswith("nodeDefs."):
            assert not MEANINGFUL & set(text), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_is_one(english, language):
    """Of the longer texts none is the English one, so that no copy passes for a translation."""
    translated = flat(read_language(language))
    same = [key for key, text in english.items() if text == translated[key] and len(text.split()) > 3]
    assert same == []


def test_only_what_the_host_reads_lies_there():
    assert {path.name for path in LOCALES.iterdir()} == {ENGLISH, *LANGUAGES}
    assert {path.name for path in LOCALES.glob("*/*")} == {"main.json", "nodeDefs.json"}


def test_the_host_serves_every_language(host):
    served = host.get("/i18n")
    for language in (ENGLISH, *LANGUAGES):
        name = read_language(language)["nodeDefs"]["SubjectEncoder"]["display_name"]
        assert served[language]["nodeDefs"]["SubjectEncoder"]["display_name"] == name
        assert served[language]["dataTypes"]["SUBJECT"]


SHOWN = """() => {
    const node = LiteGraph.createNode('SubjectScene')
    return [node.title, node.inputs[0].localized_name, ...node.widgets.map(widget => widget.label)]
}"""


def switch(page, language):
    """Another language for the front end, as its settings dialog does it."""
    page.evaluate("code => app.extensionManager.setting.set('Comfy.Locale', code)", language)
    page.reload()
    page.wait_for_function(READY)


@pytest.mark.parametrize("language", ["fr", "zh-TW"])
def test_the_front_end_shows_the_language(browser_page, language):
    texts = read_language(language)["nodeDefs"]["SubjectScene"]
    try:
        switch(browser_page, language)
        shown = browser_page.evaluate(SHOWN)
    finally:
        switch(browser_page, ENGLISH)  # the setting is the host's, which other tests share
    names = [texts["inputs"][name]["name"] for name in ("clip", "prompt", "soft_edge", "canvas_width", "canvas_height")]
    assert shown == [texts["display_name"], *names]


def test_problems_are_found():
    english = {"a": "new", "b": "same", "c": "missing"}
    sources = {"a": {digest("old"): "fr"}, "b": {digest("same"): "de fr"}}
    found = find_problems("fr", english, {"a": "vieux", "b": "même", "d": "trop"}, sources)
    assert [sentence.split(" was")[0] for sentence in found] == [
        "fr: c is missing", "fr: d is no text of any node", "fr: a",
    ]  # fmt: skip


def test_a_text_that_is_done_is_no_longer_stale():
    english, sources = {"a": "new"}, {"a": {digest("old"): "de fr"}}
    mark_done(sources, "fr", english, ["a"])
    assert sources == {"a": {digest("old"): "de", digest("new"): "fr"}}
    assert find_problems("fr", english, {"a": "neuf"}, json.loads(json.dumps(sources))) == []
    assert len(find_problems("de", english, {"a": "alt"}, sources)) == 1
