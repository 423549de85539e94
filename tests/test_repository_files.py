"""What a public repository shows: workflows, issue form, hooks, changes, citation; each says what is true here."""

import json
import re
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from tools.places import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in GITHUB.glob("workflows/*")}
FORMS = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in GITHUB.glob("ISSUE_TEMPLATE/*")}
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)[1]


def jobs():
    return [(name, job) for workflow in WORKFLOWS.values() for name, job in workflow["jobs"].items()]


def steps():
    return [step for _, job in jobs() for step in job.get("steps", [])]


def starts_of(workflow):
    """What starts a workflow; YAML 1.1 reads the key `on` as true."""
    return WORKFLOWS[workflow][True]


def test_workflows_run_commands_that_the_makefile_has():
    called = re.findall(r"\bmake ([\w-]+)", "\n".join(step.get("run", "") for step in steps()))
    assert set(called) == {"check", "test"}
    assert set(called) <= TARGETS


def test_every_change_is_checked_and_tested():
    assert set(WORKFLOWS) == {"check.yml", "test.yml", "publish.yml"}
    for name in ("check.yml", "test.yml"):
        assert {"push", "pull_request", "workflow_call"} <= set(starts_of(name))


def test_workflows_call_each_other_where_they_are():
    called = [job["uses"] for _, job in jobs() if "uses" in job]
    assert {name.removeprefix("./.github/workflows/") for name in called} == {"check.yml", "test.yml"}


def test_workflows_may_write_nothing():
    assert all(workflow["permissions"] == {"contents": "read"} for workflow in WORKFLOWS.values())


def test_publishing_waits_for_both_and_takes_its_token_from_a_secret():
    publish = WORKFLOWS["publish.yml"]["jobs"]["publish"]
    assert set(publish["needs"]) == {"check", "test"}
    step = next(step for step in publish["steps"] if step.get("uses", "").startswith("Comfy-Org/publish-node-action@"))
    assert step["with"] == {"personal_access_token": "${{ secrets.REGISTRY_ACCESS_TOKEN }}"}
    assert "pyproject.toml" in starts_of("publish.yml")["push"]["paths"]


@pytest.fixture
def is_new(tmp_path):
    """What publish.yml's first job says after a second commit, run as GitHub runs it."""
    script = WORKFLOWS["publish.yml"]["jobs"]["version"]["steps"][-1]["run"]

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        ended = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return ended.stdout.strip()

    def run(first, second, event="push", before=None):
        git("init", "--quiet")
        for text in (first, second):
            (tmp_path / "pyproject.toml").write_text(text)
            git("add", "."), git("commit", "--quiet", "--message", "x")
        said = tmp_path / "said"
        said.touch()
        environment = {"EVENT": event, "BEFORE": before or git("rev-parse", "HEAD^"), "GITHUB_OUTPUT": str(said)}
        words = ["bash", "-e", "-c", script]
        subprocess.run(words, cwd=tmp_path, env={**environment, "PATH": "/usr/bin:/bin"}, check=True)
        return said.read_text().strip() == "is_new=true"

    return run


OLD, NEW = '[project]\nversion = "0.1.0"\n', '[project]\nversion = "0.2.0"\n'


@pytest.mark.parametrize("second, event, before, new", [
    (NEW, "push", None, True), (OLD + "# a word\n", "push", None, False), (NEW, "push", "0" * 40, False),
    (OLD + "# a word\n", "workflow_dispatch", "", True),
], ids=["new version", "another change", "first push", "by hand"])  # fmt: skip
def test_only_a_new_version_is_published(is_new, second, event, before, new):
    assert is_new(OLD, second, event, before) is new


def test_the_issue_form_asks_for_what_an_answer_needs():
    (form,) = FORMS.values()
    assert form["name"] and form["description"]
    fields = {field["id"]: field for field in form["body"]}
    assert len(fields) == len(form["body"])
    assert all(field["type"] in {"input", "textarea", "dropdown", "checkboxes"} for field in fields.values())
    assert all(field["attributes"]["label"] for field in fields.values())
    needed = {name for name, field in fields.items() if field.get("validations", {}).get("required")}
    assert {"comfyui", "log", "workflow"} <= needed


def test_hooks_use_the_pinned_ruff():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local"
    entries = [hook["entry"] for hook in repo["hooks"]]
    assert [entry.split()[:4] for entry in entries] == [
        [".cache/venv/bin/python", "-m", "ruff", word] for word in ("check", "format")
    ]
    assert all(hook["language"] == "system" for hook in repo["hooks"])


def test_the_citation_is_of_this_version_and_names_the_papers():
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)
    assert CITATION["version"] == VERSION
    papers = {
        (reference["identifiers"][0]["value"], reference["year"], reference["authors"][0]["family-names"])
        for reference in CITATION["references"]
    }
    assert papers == {
        ("arXiv:2305.14720", 2023, "Li"), ("arXiv:2406.07209", 2025, "Wang"), ("arXiv:2305.17216", 2023, "Koh"),
    }  # fmt: skip
    assert all({"type", "title", "collection-title"} <= set(reference) for reference in CITATION["references"])


def test_changes_begin_with_what_is_unreleased_and_have_this_version():
    headings = re.findall(r"^## (.+)$", CHANGES, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == f"{VERSION} ({CITATION['date-released']})"
    assert headings[-1].startswith("0.1.0 ")


@pytest.mark.parametrize("page", PAGES)
def test_what_the_pages_link_and_name_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    named = re.findall(r"`((?:tests|docs|blipdiff_impl)/[\w./-]+)`", text)
    assert [name for name in linked + named if not (ROOT / name).exists()] == []
    assert set(re.findall(r"`make ([\w-]+)", text)) <= TARGETS


def test_the_archive_leaves_out_what_only_the_repository_shows():
    left_out = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert {"/.github/", "/.pre-commit-config.yaml", "/CITATION.cff", *(f"/{page}" for page in PAGES)} <= set(left_out)


def test_try_on_ships_a_picture_with_a_painted_mask():
    """The mask of its edit comes from the picture, part of which is painted: transparent, with its colours below."""
    workflow = json.loads((ROOT / "workflows" / "try_on.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    edit = next(node for node in nodes.values() if node["type"] == "SubjectP2PEdit")
    link = next(item["link"] for item in edit["inputs"] if item["name"] == "mask")
    source = nodes[next(entry[1] for entry in workflow["links"] if entry[0] == link)]
    assert source["type"] == "LoadImage"
    pixels = np.asarray(Image.open(ROOT / "workflows" / "input" / source["widgets_values"][0]))
    hidden = pixels[..., 3] == 0
    assert 0.2 < hidden.mean() < 0.8 and pixels[hidden][:, :3].std() > 30
