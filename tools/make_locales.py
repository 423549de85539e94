"""The texts of the nodes in the languages of ComfyUI's front end: locales/<language>/{main,nodeDefs}.json.

    python -m tools.make_locales                    writes English from the nodes, and lists what the other languages
                                                    lack, have too much, or translated from an older English text
    python -m tools.make_locales --done fr [KEY...] notes that the French texts (all, or these) are of today's English

The translations are edited in their files. tools/translated_from.json keeps, for every key, a digest of the English
text that each translation was made from; it is how a stale one is known.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

from tools.inprocess import load_comfy
from tools.places import ROOT
from tools.problems import Problem, run_command

LOCALES = ROOT / "locales"
SOURCES = ROOT / "tools" / "translated_from.json"
ENGLISH = "en"
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "ru", "es", "de")  # as the front end spells them; it has no German yet
_PARTS = ("main", "nodeDefs")
_OWN_TYPES = ("SUBJECT", "MS_", "GILL_")  # how the pack's own types of sockets begin


def english_texts(nodes):
    """All texts of these node classes, as the host hands them to the front end: nested by key.

    The front end reads an output's name under its index, and under `dataTypes` where it is the type's own name; types
    of the host are translated by the host.
    """
    texts = {"nodeCategories": {}, "dataTypes": {}, "nodeDefs": {}}
    for node in nodes:
        info = node.GET_NODE_INFO_V1()
        texts["nodeCategories"] |= {part: part for part in info["category"].split("/")}
        texts["dataTypes"] |= {kind: kind for kind in info["output"] if kind.startswith(_OWN_TYPES)}
        texts["nodeDefs"][info["name"]] = _node_texts(info)
    return texts


def _node_texts(info):
    inputs = {
        name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
        for group in ("required", "optional")
        for name, (_, options) in info["input"].get(group, {}).items()
    }
    outputs = {
        str(index): {"name": name, "tooltip": tooltip} if name != kind else {"tooltip": tooltip}
        for index, (kind, name, tooltip) in enumerate(
            zip(info["output"], info["output_name"], info["output_tooltips"], strict=True)
        )
    }
    texts = {"display_name": info["display_name"], "description": info["description"]}
    return texts | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def flat(texts, prefix=""):
    """Nested texts by their whole key: `nodeDefs.SubjectEncoder.inputs.fit.name`."""
    found = {}
    for key, value in texts.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def read_language(language):
    """The texts of one language, merged as the host merges them; empty where there are none."""
    texts = {}
    for part in _PARTS:
        path = LOCALES / language / f"{part}.json"
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        texts |= content if part == "main" else {part: content}
    return texts


def write_language(language, texts):
    """The files of one language."""
    folder = LOCALES / language
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "main.json", {key: value for key, value in texts.items() if key != "nodeDefs"})
    _write(folder / "nodeDefs.json", texts["nodeDefs"])


def read_sources():
    """Key -> {digest of the English text: languages, in one string}."""
    return json.loads(SOURCES.read_text(encoding="utf-8")) if SOURCES.exists() else {}


def digest(text):
    """Identifies an English text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def find_problems(language, english, translated, sources):
    """Sentences on the texts of one language (flat); none where all is well."""
    missing = [f"{language}: {key} is missing" for key in english if key not in translated]
    surplus = [f"{language}: {key} is no text of any node" for key in translated if key not in english]
    stale = [
        f"{language}: {key} was translated from another English text; now it is: {english[key]}"
        for key in english
        if key in translated and language not in sources.get(key, {}).get(digest(english[key]), "").split()
    ]
    return missing + surplus + stale


def mark_done(sources, language, english, keys):
    """Note that these translations of a language are of today's English."""
    for key in keys:
        by_digest = {each: [name for name in names.split() if name != language]
                     for each, names in sources.get(key, {}).items()}  # fmt: skip
        by_digest.setdefault(digest(english[key]), []).append(language)
        sources[key] = {each: " ".join(sorted(names)) for each, names in by_digest.items() if names}


def _write(path, content):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m tools.make_locales", description=__doc__.splitlines()[0])
    parser.add_argument("--done", metavar="LANGUAGE", choices=LANGUAGES, help="its texts are of today's English")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="with --done: only these")
    return parser.parse_args()


def main():
    """Write English; report on the others."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        texts = english_texts(load_comfy(Path(folder)).pack.NODES)
    write_language(ENGLISH, texts)
    english, sources = flat(texts), {key: value for key, value in read_sources().items() if key in flat(texts)}
    if unknown := set(arguments.keys) - set(english):
        raise Problem(f"there is no text {', '.join(sorted(unknown))}; keys look like {next(iter(english))}")
    if arguments.done:
        mark_done(sources, arguments.done, english, arguments.keys or english)
    _write(SOURCES, {key: sources[key] for key in english if key in sources})
    problems = [line for name in LANGUAGES for line in find_problems(name, english, flat(read_language(name)), sources)]
    sys.stdout.write("\n".join([*problems, f"{len(english)} texts, {len(problems)} to be translated again"]) + "\n")


if __name__ == "__main__":
    run_command(main)
