"""What `pip install .` in a clone installs: built once without the network, unpacked, used outside the checkout."""

import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
from PIL import Image

from tools.places import ROOT

GENERATE = """
import torch
from PIL import Image
import blipdiff_impl
from blipdiff_impl import SubjectPipeline

print(blipdiff_impl.__file__)
pipeline = SubjectPipeline.from_checkpoint("toybox")
subject = pipeline.encoder.encode(torch.full((1, 96, 96, 3), 0.5), "mug")
picture = pipeline.generate(subject, "on the grass", steps=3, guidance=2.5)[0]
Image.fromarray((picture * 255).round().to(torch.uint8).numpy()).save("mug.png")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of the wheel. The build backend is the one in the virtual environment."""
    folder = tmp_path_factory.mktemp("wheel")
    alone = ["--no-deps", "--no-index", "--no-build-isolation"]
    words = [sys.executable, "-m", "pip", "wheel", *alone, "--wheel-dir", folder, ROOT]
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


@pytest.fixture
def run(unpacked, tmp_path):
    """Python in an empty folder, with the unpacked wheel and not the checkout on its path."""

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(unpacked)}
        ended = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


def files_of_the_project(*below):
    """What git tracks or would track."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *below]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_it_holds_the_package_with_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert names == files_of_the_project("blipdiff_impl")
    assert {name.rpartition(".")[2] for name in names} == {"py", "txt", "safetensors"}


def test_it_offers_the_extras_that_docs_and_messages_name(wheel):
    with zipfile.ZipFile(wheel) as packed:
        path = next(name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        said = Parser().parsestr(packed.read(path).decode())
    assert set(said.get_all("Provides-Extra")) == {"matting", "synthesis", "training"}
    needed = [line for line in said.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(line.partition(">=")[0] for line in needed) == ["safetensors", "tokenizers", "transformers"]


def test_its_commands_run_outside_the_checkout(run):
    said = run("-m", "blipdiff_impl", "--help")
    assert all(name in said for name in ("convert", "finetune", "pretrain", "evaluate", "synthesise"))


def test_the_built_in_model_makes_a_picture_outside_the_checkout(run, unpacked, tmp_path):
    said = run("-c", GENERATE)
    assert said.split()[-1].startswith(str(unpacked))
    with Image.open(tmp_path / "mug.png") as picture:
        assert picture.size == (96, 96) and len(picture.getcolors(maxcolors=1 << 16)) > 100


def test_what_is_trained_from_an_installed_package_stays_where_the_command_runs(run, tmp_path):
    said = run("-c", "from blipdiff_impl.toy_world.bank import CACHE; print(CACHE)")
    assert said.strip() == str(tmp_path / ".cache" / "toybox")


def test_no_text_sends_a_reader_to_a_package_index_that_does_not_have_it():
    texts = files_of_the_project("*.py", "*.md", "*.json", "*.yml", "*.toml", "*.cff")
    advert = re.compile(r"(pip|uv|pipx)\b[^\n]{0,40}\b(install|add|run)\b[^\n]{0,40}blip[-_]diffusion[-_]subjects")
    assert [name for name in texts if advert.search((ROOT / name).read_text(encoding="utf-8"))] == []
