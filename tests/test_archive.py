"""What the Registry ships: made by comfy-cli, unpacked into a ComfyUI without packs, and used as a newcomer does.

The newcomer's screenshots are kept in .cache/newcomer.
"""

import re
import subprocess
import sys
import zipfile

import pytest
from front_end import complaints, is_blank, open_template, queue

from tools.archive import comfy_cli, make_archive
from tools.browser import open_front_end
from tools.client import Client
from tools.host import running_host
from tools.places import CACHE, PACK_FOLDER, ROOT

MAX_MEGABYTES = 50
# What developers have and neither ComfyUI nor requirements.txt installs.
NOT_INSTALLED = ("accelerate", "autograph", "diffusers", "numba", "playwright", "pymatting", "pytest", "tensorboard")
HIDING = f"""
import importlib.machinery

find = importlib.machinery.PathFinder.find_spec


def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {NOT_INSTALLED} else find(name, path, target)


importlib.machinery.PathFinder.find_spec = find_spec
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_archive(tmp_path_factory.mktemp("archive") / "node.zip")


@pytest.fixture(scope="module")
def bare_host(archive, tmp_path_factory):
    """A server whose only pack is the unpacked archive, with no library that a newcomer lacks."""
    base, hiding = tmp_path_factory.mktemp("bare"), tmp_path_factory.mktemp("hiding")
    (hiding / "sitecustomize.py").write_text(HIDING)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "custom_nodes" / PACK_FOLDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hiding))
        with running_host(base, pack=None) as server:
            yield Client(server)


def test_comfy_cli_finds_no_fault():
    assert "All validation checks passed" in comfy_cli("validate")


def test_the_archive_holds_only_what_runs(archive):
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "LICENSE", "README.md", "__init__.py", "blipdiff_impl", "locales", "nodes", "pyproject.toml",
        "requirements.txt", "subgraphs", "web", "workflows",
    }  # fmt: skip
    assert archive.stat().st_size < MAX_MEGABYTES * 1e6
    unlike = [name for name in names if not re.fullmatch(r"[\w./ -]+", name) or ".." in name]
    assert unlike == []


def test_the_requirements_cannot_break_another_pack():
    """Lower bounds only, and never torch."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z]+>=[\d.]+", line) for line in lines)
    assert not any(line.startswith("torch") for line in lines)


def test_the_pack_loads_without_complaint(bare_host):
    log = bare_host.log()
    assert "blip" in log and "IMPORT FAILED" not in log and "Traceback" not in log
    assert "SubjectEncoder" in bare_host.object_info()


def test_what_was_hidden_is_missed_in_that_host(bare_host):
    """Else the fixture would hide nothing."""
    hiding = next(bare_host.base_dir.parent.glob("hiding*"))
    ended = subprocess.run(
        [sys.executable, "-c", "import diffusers"], env={"PYTHONPATH": str(hiding)}, capture_output=True, text=True
    )
    assert "No module named 'diffusers'" in ended.stderr


def test_a_newcomer_gets_a_picture(bare_host, browser):
    """Template browser, queue, picture."""
    shots = CACHE / "newcomer"
    shots.mkdir(exist_ok=True)
    with open_front_end(browser, bare_host.url) as page:
        page.screenshot(path=shots / "1_start.png")
        open_template(page, ROOT / "workflows" / "zero_shot.json")
        page.wait_for_timeout(1000)
        page.screenshot(path=shots / "2_template.png")
        pictures = queue(page)
        page.wait_for_timeout(1000)
        page.screenshot(path=shots / "3_picture.png")
        assert pictures and not any(map(is_blank, pictures))
        assert complaints(page) == [] and page.errors == []
