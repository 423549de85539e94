"""No file takes the place of another: several who finish at once, names taken meanwhile, what killed saves leave."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from blipdiff_impl.blip_diffusion.checkpoints import convert
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.subject_file import read_subject
from blipdiff_impl.errors import CheckpointError, SubjectError
from tests.checkpoint_fixtures import SMALL, random_parts, write_diffusers_folder
from tools.places import ROOT

HOUR = 3600


def subject(seed=0):
    return Subject(torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed)), "dog", "an encoder")


@pytest.fixture(params=["links", "no links"])
def file_system(request, monkeypatch):
    """Memory cards and some network shares have no links."""
    if request.param == "no links":

        def refuse(*_, **__):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)


def test_of_many_that_write_one_name_one_does(tmp_path, file_system):
    path, barrier, outcomes = tmp_path / "a.safetensors", threading.Barrier(12), {}

    def save(seed):
        barrier.wait()
        try:
            subject(seed).save(path)
            outcomes[seed] = "saved"
        except SubjectError as error:
            outcomes[seed] = str(error)

    threads = [threading.Thread(target=save, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [seed for seed, outcome in outcomes.items() if outcome == "saved"]
    assert all("exists already" in outcome for outcome in outcomes.values() if outcome != "saved")
    assert torch.equal(read_subject(path).subject.embeddings, subject(winner).embeddings)
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_taken_while_converting_keeps_its_file(tmp_path, file_system):
    folder = write_diffusers_folder(tmp_path / "model", random_parts())
    path = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="exists already"):
        convert(folder, path, progress=lambda done, total: path.write_bytes(b"mine"), config=SMALL)
    assert path.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [folder, path]


@pytest.mark.parametrize("what", ["a dangling link", "a folder"])
def test_what_is_no_file_takes_the_name_too(tmp_path, what):
    path = tmp_path / "a.safetensors"
    path.mkdir() if what == "a folder" else path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SubjectError, match="exists already"):
        subject().save(path)
    assert not (tmp_path / "nowhere").exists()


def test_overwriting_still_does_when_it_is_allowed(tmp_path, file_system):
    subject(1).save(tmp_path / "a.safetensors")
    subject(2).save(tmp_path / "a.safetensors", overwrite=True)
    assert torch.equal(Subject.load(tmp_path / "a.safetensors").embeddings, subject(2).embeddings)


@pytest.mark.parametrize("name", ["n" * 243, "\U0001f436" * 60, "ä" * 121], ids=["letters", "emoji", "umlauts"])
def test_every_name_that_the_system_takes_can_be_written(tmp_path, name):
    """255 bytes; the hidden name while writing is not longer than the name itself."""
    path = tmp_path / f"{name}.safetensors"
    assert len(path.name.encode()) <= 255
    subject().save(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["n" * 300, "\U0001f436" * 70, "a\0b"], ids=["letters", "emoji", "null"])
def test_other_names_end_in_a_sentence(tmp_path, name):
    with pytest.raises(SubjectError, match="cannot be written"):
        subject().save(tmp_path / f"{name}.safetensors")
    assert list(tmp_path.iterdir()) == []


def killed_while_saving(path):
    """What a power cut leaves: a process that is killed in the middle of its writing."""
    script = (
        "import os, pathlib, signal, sys\n"
        "import blipdiff_impl.blip_diffusion.checkpoints\n"
        "from blipdiff_impl.weights.writing import complete_file\n"
        "with complete_file(pathlib.Path(sys.argv[1]), 10, False) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    return next(found for found in path.parent.iterdir() if found.name.startswith(f".{path.name[:10]}"))


def made_older(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_a_killed_save_left_is_swept_when_it_is_old(tmp_path):
    part = killed_while_saving(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    subject().save(tmp_path / "b.safetensors")
    assert part.exists(), "somebody might be writing to it"
    made_older(part, 2 * HOUR)
    subject().save(tmp_path / "c.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.safetensors", "c.safetensors"]


@pytest.mark.parametrize("name", ["a.part", ".a.part", ".a.12345678.partial", ".part", "a.12345678.part"])
def test_hidden_files_of_others_are_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"somebody's")
    made_older(tmp_path / name, 1000 * HOUR)
    subject().save(tmp_path / "a.safetensors")
    assert (tmp_path / name).read_bytes() == b"somebody's"


# --- in the host


SAVE_IN_ANOTHER_HOST = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from tools.inprocess import load_comfy
comfy = load_comfy(pathlib.Path(sys.argv[2]))
import torch
subject = comfy.module("blipdiff_impl.blip_diffusion.subject").Subject(torch.ones(1, 16, 8), "cat", "another host")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(25):
    print("saved", comfy.node("SubjectSave").execute(subject, "crowd/dog").result[0], flush=True)
"""


@pytest.fixture
def output(comfy):
    return Path(comfy.folder_paths.get_output_directory()) / "subjects"


@pytest.fixture
def make(comfy):
    return comfy.module("blipdiff_impl.blip_diffusion.subject").Subject


def test_two_hosts_and_many_threads_lose_no_subject(comfy, output, make):
    """50 saves of one name into one folder: 50 reports of success, 50 files, each of them whole."""
    other = subprocess.Popen(
        [sys.executable, "-c", SAVE_IN_ANOTHER_HOST, str(ROOT), comfy.folder_paths.base_path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while other.stdout.readline() != "ready\n":
        assert other.poll() is None
    node, names, failures = comfy.node("SubjectSave"), [], []

    def save(thread):
        for number in range(5):
            vectors = torch.full((1, 16, 8), float(10 * thread + number))
            try:
                names.append(node.execute(make(vectors, "dog", "this host"), "crowd/dog").result[0])
            except ValueError as error:
                failures.append(error)

    threads = [threading.Thread(target=save, args=(thread,)) for thread in range(5)]
    other.stdin.write("go\n")
    other.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    theirs = [line.split(" ", 1)[1].strip() for line in other.communicate()[0].splitlines() if line.startswith("saved")]
    assert failures == [] and other.returncode == 0
    assert len(set(names) | set(theirs)) == len(names) + len(theirs) == 50
    files = sorted((output / "crowd").iterdir())
    assert {str(path.relative_to(output)) for path in files} == set(names) | set(theirs)
    saved = [read_subject(path).subject for path in files]
    assert sum(subject.category == "cat" for subject in saved) == 25
    ours = sorted(float(subject.embeddings[0, 0, 0]) for subject in saved if subject.category == "dog")
    assert ours == sorted(10.0 * thread + number for thread in range(5) for number in range(5))


def test_saving_sweeps_what_killed_saves_left_anywhere_in_the_folder(comfy, output, make):
    (output / "deep" / "er").mkdir(parents=True, exist_ok=True)
    part = killed_while_saving(output / "deep" / "er" / "big.safetensors")
    made_older(part, 2 * HOUR)
    comfy.node("SubjectSave").execute(make(torch.ones(1, 16, 8), "dog", "this host"), "sweeping")
    assert not part.exists()


def test_an_example_picture_that_comes_meanwhile_is_left_alone(comfy, monkeypatch, tmp_path):
    examples = comfy.module("nodes.host.examples")
    monkeypatch.setattr(comfy.folder_paths, "get_input_directory", lambda: str(tmp_path))

    def another_host_is_faster(source, part):
        Path(part).write_bytes(source.read_bytes())
        (tmp_path / source.relative_to(examples.PICTURES)).write_bytes(b"theirs")

    monkeypatch.setattr(examples.shutil, "copyfile", another_host_is_faster)
    examples.offer_pictures()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.read_bytes() == b"theirs" for path in files)
    assert len(files) == len(list(examples.PICTURES.rglob("*.png")))
