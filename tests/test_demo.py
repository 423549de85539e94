"""`make demo`, from the command to the picture, and how it ends when a node fails."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tools.demo import WORKFLOW, make_picture
from tools.places import ROOT
from tools.problems import Problem


def test_demo_ends_with_the_path_of_its_picture():
    ended = subprocess.run(
        [sys.executable, "-m", "tools.demo"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    picture = Path(re.search(r"^The picture, made in \d+ s: (.+)$", ended.stdout, flags=re.MULTILINE)[1])
    with Image.open(picture) as opened:
        assert len(opened.convert("RGB").getcolors(maxcolors=1 << 16)) > 100, "the picture is blank"
    assert "KSampler" in ended.stdout, "the progress of the sampler is shown"
    assert "make ui" in ended.stdout


def changed(tmp_path, change):
    """A copy of the demo's workflow in which `change(node)` was applied to every node."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        change(node)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


def test_a_refused_workflow_ends_with_the_sentence_of_the_host(host, tmp_path):
    def other_picture(node):
        if node["type"] == "LoadImage":
            node["widgets_values"][0] = "no such picture.png"

    with pytest.raises(Problem, match="LoadImage says: .*no such picture.png"):
        make_picture(host, changed(tmp_path, other_picture))


def test_a_failing_node_ends_the_demo_with_its_sentence(host, tmp_path):
    def no_category(node):
        if node["type"] == "SubjectEncoder":
            node["widgets_values"][0] = "   "

    with pytest.raises(Problem, match="SubjectEncoder says: .*category"):
        make_picture(host, changed(tmp_path, no_category))
