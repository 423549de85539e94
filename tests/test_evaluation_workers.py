"""`evaluate --workers`: the same pictures and numbers on one process and on two, also where one is killed."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from tiny_judges import write_benchmark, write_judges

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.evaluation.benchmark import open_benchmark
from blipdiff_impl.evaluation.generation import GenerationSettings, missing
from blipdiff_impl.evaluation.workers import Studio, _finished, _Worker, draw_with_ray
from tools.places import ROOT

SETTINGS = GenerationSettings(seeds=(1000, 2000), images=2, steps=3)
DRAW = ("--steps", 3, "--images", 2, "--seeds", 1000, 2000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    write_judges(folder)
    write_benchmark(folder / "data")
    return folder


@pytest.fixture(scope="module")
def arguments(folder):
    """Of the command, without --out."""
    judges = ("--dino", folder / "dino", "--clip", folder / "clip")
    return [str(part) for part in ("evaluate", "--data", folder / "data", *judges, *DRAW)]


@pytest.fixture(scope="module")
def plain(folder, arguments):
    """A run without Ray, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*arguments, "--out", str(folder / "plain")]) == 0
    torch.set_num_threads(before)
    return folder / "plain"


def drawn(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "pictures").rglob("*.png"))}


def start(arguments, out, workers):
    command = [sys.executable, "-m", "blipdiff_impl", *arguments, "--out", str(out), "--workers", str(workers)]
    # Ray's parts wait half a minute for each other, which is little on a computer that is busy with other tests.
    patient = {"RAY_raylet_start_wait_time_s": "600", "RAY_agent_register_timeout_ms": "600000"}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | patient
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def workers_of(process):
    """Ray's processes that draw, as the system names them."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if any("_Worker" in part for part in child.cmdline()[:1]) else []
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def test_two_workers_of_which_one_is_killed_draw_what_one_process_draws(arguments, plain, tmp_path):
    out = tmp_path / "out"
    process = start(arguments, out, 2)
    until = time.monotonic() + 900
    while not list(out.rglob("*.png")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0][-4000:]
        time.sleep(0.02)
    busy = workers_of(process)
    assert len(busy) == 2
    os.kill(busy[0].pid, signal.SIGKILL)
    assert len(drawn(out)) < len(drawn(plain))  # in the middle
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, said[-4000:]
    assert drawn(out) == drawn(plain)
    for name in ("results.json", "results.csv"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    assert not psutil.pid_exists(busy[1].pid)


def test_another_number_of_workers_goes_on_where_a_run_was_stopped(arguments, plain, tmp_path):
    out = tmp_path / "out"
    first = sorted(drawn(plain))[:5]
    for name in first:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes((plain / name).read_bytes())
    times = {name: (out / name).stat().st_mtime_ns for name in first}
    process = start(arguments, out, 1)
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, said[-4000:]
    assert drawn(out) == drawn(plain) and (out / "results.json").read_bytes() == (plain / "results.json").read_bytes()
    assert times == {name: (out / name).stat().st_mtime_ns for name in first}


def test_nothing_is_started_where_nothing_is_missing(folder, plain):
    studio = Studio("toybox", "cpu", torch.float32, SETTINGS, plain / "pictures", plain / "tuned")
    subjects = open_benchmark(folder / "data")
    assert all(not missing(SETTINGS, studio.pictures, subject) for subject in subjects)
    draw_with_ray(studio, subjects, 2, address="no cluster is asked")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (("--workers", "-1"), "--workers -1 is not possible"),
        (("--ray-address", "auto"), "--ray-address goes with --workers"),
        (("--workers", "2", "--pictures", "somewhere"), "--workers spreads drawing"),
        (("--workers", "2", "--ms-bench", "file.json"), "nothing is drawn here"),
        (("--workers", "2", "--ms-bench", "file.json", "--ms-adapter", "toybox"), "draws pictures of one subject only"),
        (("--workers", "2", "--device", "cpu:0"), "--workers chooses the GPUs itself"),
    ],
)
def test_what_cannot_be_spread_is_refused(arguments, tmp_path, capsys, extra, sentence):
    assert main([*arguments, "--out", str(tmp_path / "out"), *extra]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_a_model_or_a_subject_is_an_answer(folder, tmp_path):
    subject = open_benchmark(folder / "data")[0]
    missing_model = Studio(str(tmp_path / "none"), "cpu", torch.float32, SETTINGS, tmp_path, tmp_path)
    assert "none" in _Worker(missing_model).do(subject, (1000, 0))
    worker = _Worker(Studio("toybox", "cpu", torch.float32, SETTINGS, tmp_path, tmp_path))
    subject.photos[0].write_bytes(b"\x89PNG broken")
    assert subject.photos[0].name in worker.do(subject, (1000, 0))


class Gone(Exception):
    """What Ray raises for a process that ended."""


class FakeRay:
    """Answers in the order they were asked for; `ends` says at which piece the process is gone for good."""

    exceptions = SimpleNamespace(RayError=Gone)

    def __init__(self, ends=None, problem=None):
        self.given, self._ends, self._problem = [], ends, problem
        self.do = SimpleNamespace(remote=self._give)

    def _give(self, *piece):
        self.given.append(piece)
        return len(self.given)

    def wait(self, asked, num_returns):
        return asked[:1], asked[1:]

    def get(self, number):
        if number == self._ends:
            raise Gone("The actor died.\nA long story.")
        return "The photo is broken." if number == self._problem else ""


def test_pieces_are_given_out_as_processes_come_free():
    ray, pieces = FakeRay(), [("subject", (0, number)) for number in range(5)]
    assert len(list(_finished(ray, [ray, ray], pieces))) == 5
    assert ray.given == pieces


def test_a_process_that_ends_again_and_again_ends_the_command_in_a_sentence():
    ray = FakeRay(ends=2)
    with pytest.raises(SubjectError, match=r"ended 5 times.*The actor died\.\).*fewer --workers"):
        list(_finished(ray, [ray], [("subject", None)] * 3))
    ray = FakeRay(problem=2)
    with pytest.raises(SubjectError, match="The photo is broken"):
        list(_finished(ray, [ray], [("subject", None)] * 3))
