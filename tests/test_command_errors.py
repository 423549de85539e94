"""How commands end: in one sentence and status 2, before the work; in 130 after Ctrl-C. And one run in a folder."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from synthesis_fixtures import contents, many_photos, write_list
from tiny_judges import write_benchmark, write_judges
from tiny_model import write_tiny_checkpoint

from blipdiff_impl import command as commands
from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.checkpoints import command as checkpoint_command
from blipdiff_impl.blip_diffusion.finetuning import command as finetune_command
from blipdiff_impl.blip_diffusion.finetuning import plain
from blipdiff_impl.blip_diffusion.pretraining import command as pretrain_command
from blipdiff_impl.blip_diffusion.synthesis import command as shards_command
from blipdiff_impl.blip_diffusion.synthesis import lists_command
from blipdiff_impl.blip_diffusion.synthesis.sharding.settings import SynthesisSettings
from blipdiff_impl.blip_diffusion.synthesis.sharding.synthesise import synthesise
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.evaluation import command as evaluate_command
from blipdiff_impl.evaluation import scoring
from blipdiff_impl.folder_lock import only_run_in
from blipdiff_impl.toybox import __main__ as toybox
from tools.places import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "tiny.safetensors"
    write_tiny_checkpoint(path, seed=4)
    return path


@pytest.fixture
def ends(capsys):
    """Run a command; it must end with status 2 and one line on stderr, which is returned."""

    def run(*arguments, of=main):
        assert of([str(one) for one in arguments]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("error: ") and len(said[0]) < 700, said
        return said[0]

    return run


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((64, 64), 80).convert("RGB").save(folder / "a.png")
    return folder


@pytest.fixture
def finetune(ends, photos, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(plain, "tune", lambda *a, **o: pytest.fail("it trained"))
    fixed = ["finetune", "--images", photos, "--category", "dog", "--checkpoint", checkpoint]
    return lambda *arguments: ends(*fixed, "--out", tmp_path / "a.safetensors", *arguments)


@pytest.mark.parametrize("arguments, sentence", [
    (("--out", "no/such/a.safetensors"), "no folder no/such"),
    (("--out", "/dev/null/a.safetensors"), "no folder /dev/null"),
    (("--save-rank", -1), "save_rank = -1"),
    (("--save-rank", 0), "save_rank = 0"),
    (("--save-rank", 10**6), "save_rank = 1000000"),
    (("--rank", -3), "rank = -3"),
    (("--steps", 10**9), "steps = 1000000000"),
    (("--steps", int("9" * 4000)), "steps = 9"),
    (("--seed", 2**70), "seed = 1180591620717411303424"),
    (("--seed", -1), "seed = -1"),
    (("--learning-rate", "inf"), "learning_rate = inf"),
    (("--ema-decay", "nan"), "ema_decay = nan"),
    (("--prior-weight=-inf",), "prior_weight = -inf"),
    (("--resolution", 2**70), "resolution = "),
    (("--resolution", 0), "resolution = 0"),
    (("--device", "nosuch"), "--device nosuch cannot be used"),
    (("--device", "cuda:77"), "--device cuda:77 cannot be used"),
    (("--device", "meta"), "--device meta cannot be used"),
    (("--device", "x" * 9999), "cannot be used"),
    (("--checkpoint", "nowhere.safetensors"), "nowhere.safetensors"),
])  # fmt: skip
def test_finetune_refuses_before_it_trains(finetune, arguments, sentence):
    assert sentence in finetune(*arguments)


def test_a_folder_that_may_not_be_written_is_told_before(finetune, monkeypatch, tmp_path):
    def refused(self, *arguments, **named):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.touch", refused)
    assert "a.safetensors cannot be written: Permission denied" in finetune()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A benchmark and judges, as the first arguments of `evaluate`."""
    folder = tmp_path_factory.mktemp("judged")
    write_judges(folder)
    write_benchmark(folder / "data")
    return ["evaluate", "--data", folder / "data", "--dino", folder / "dino", "--clip", folder / "clip"]


@pytest.mark.parametrize("arguments, sentence", [
    (("--steps", 100_000), "steps = 100000"),
    (("--seeds", 2**70), "seeds = 1180591620717411303424"),
    (("--seeds", 2**64 - 1), "seeds = 18446744073709551615"),
    (("--seeds", -1), "seeds = -1"),
    (("--images", 10**9), "images = 1000000000"),
    (("--prompt-reps", 10**9), "prompt_reps = 1000000000"),
    (("--reference-photos", -1), "reference_photos = -1"),
    (("--guidance", "inf"), "guidance = inf"),
    (("--finetune-rate", "nan"), "finetune_rate = nan"),
    (("--finetune-steps", 0), "finetune_steps = 0"),
    (("--finetune-steps", 10**9), "finetune_steps = 1000000000"),
    (("--size", 2**40, 64), "height = 1099511627776"),
    (("--size", 64, -8), "width = -8"),
    (("--batch", 10**9), "batch = 1000000000"),
    (("--batch", -1), "batch = -1"),
    (("--pictures", "nowhere"), "nowhere holds no pictures"),
    (("--out", "/dev/null/out"), "/dev/null/out is no folder"),
])  # fmt: skip
def test_evaluate_refuses_before_it_loads_a_network(ends, judged, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.setattr(evaluate_command, "_open_judges", lambda options: pytest.fail("it began"))
    assert sentence in ends(*judged, "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_damaged_list_of_scores_is_made_again(judged, tmp_path):
    """Also where it is JSON, but not what was written."""
    arguments = [*map(str, judged), "--out", str(tmp_path), "--subjects", "toy_0", "--images", "1", "--seeds", "1",
                 "--steps", "1"]  # fmt: skip
    assert main(arguments) == 0
    (file,) = (tmp_path / "scores").rglob("*.json")
    whole, results = file.read_text(), (tmp_path / "results.json").read_bytes()
    record = yaml.safe_load(whole)
    name, entry = next(iter(record["pictures"].items()))
    wrong = [{}, [], None, 3, entry | {"scores": {}}, entry | {"scores": {"dino": "x"}}, {"sha256": entry["sha256"]},
             entry | {"sha256": 3}, entry | {"scores": [1]}]  # fmt: skip
    for value in wrong:
        scoring.write_json(file, record | {"pictures": record["pictures"] | {name: value}})
        assert main(arguments) == 0
        assert file.read_text() == whole and (tmp_path / "results.json").read_bytes() == results
    for value in ([], None, "x"):
        scoring.write_json(file, record | {"pictures": value})
        assert main(arguments) == 0
        assert file.read_text() == whole


@pytest.mark.parametrize("text, sentence", [
    ("[" * 50_000, "YAML"),
    ("{a: " * 50_000, "YAML"),
    ("stage: 1\nsteps: [" + "[" * 3000, "YAML"),
    ("stage: 1\nsteps: 2001-99-99", "YAML"),
    ("stage: 1\nsteps: !!python/object:os.system {}", "YAML"),
    ("stage: [1]\n", "should begin with"),
    ("stage: 2\nsteps: 1000000000000", "steps = 1000000000000"),
    ("stage: 2\nseed: 1180591620717411303424", "seed = 1180591620717411303424"),
    ("stage: 2\nlearning_rate: .inf", "learning_rate = inf"),
    ("stage: 2\nmin_snr: .nan", "min_snr = nan"),
    ("stage: 2\nworkers: 100000000", "workers = 100000000"),
    ("stage: 2\nbatch_size: 2.5", "batch_size = 2.5"),
    ("stage: 2\nout: /dev/null/x", "/dev/null/x is no folder"),
    ("\xe4\x00", "settings.yaml"),
    ("a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
     "d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e]\n"
     "stage: 2\nsteps: [*f, *f, *f, *f, *f, *f, *f, *f]", "has no setting"),
])  # fmt: skip
def test_settings_that_are_none(ends, tmp_path, monkeypatch, text, sentence):
    monkeypatch.setattr(pretrain_command, "open_source", lambda settings: pytest.fail("it began"))
    (tmp_path / "settings.yaml").write_text(text, encoding="utf-8")
    assert sentence in ends("pretrain", tmp_path / "settings.yaml")


@pytest.mark.parametrize("arguments, sentence", [
    (("--processes", 0), "processes = 0"),
    (("--process", 3, "--processes", 2), "process = 3"),
    (("--process", -1), "process = -1"),
    (("--minutes", "nan"), "minutes = nan"),
    (("--minutes", "-1"), "minutes = -1"),
    (("--minutes", "inf"), "minutes = inf"),
    (("--subjects", 0), "subjects = 0"),
])  # fmt: skip
def test_the_toybox_refuses_likewise(ends, arguments, sentence):
    assert sentence in ends("numbers", *arguments, of=toybox.main)


COMMANDS = {
    "inspect": (checkpoint_command, "run_inspect", ["x"]),
    "convert": (checkpoint_command, "run_convert", ["x", "y"]),
    "finetune": (finetune_command, "run_finetune", ["--images", "x", "--category", "x", "--out", "x"]),
    "pretrain": (pretrain_command, "run_pretrain", ["x"]),
    "evaluate": (evaluate_command, "run_evaluate", ["--data", "x", "--out", "x", "--dino", "x", "--clip", "x"]),
    "synthesise shards": (shards_command, "run_shards", ["x", "--backgrounds", "x", "--out", "x"]),
    "synthesise caption": (lists_command, "run_caption", ["x", "--out", "x"]),
    "synthesise filter": (
        lists_command, "run_filter", ["--boxes", "x", "--classes", "x", "--images", "x", "--out", "x"]),
}  # fmt: skip
ERRORS = [
    (SubjectError("The dog is no dog."), "error: The dog is no dog."),
    (MemoryError(), "not enough memory"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    (OSError(28, "No space left on device", "/a/b"), "The disk is full /a/b. Free"),
    (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
    (OSError("odd"), "odd"),
    (RecursionError("maximum recursion depth exceeded"), "Something unforeseen"),
    (KeyError("a\nb"), "Something unforeseen"),
    (ValueError("x" * 100_000), "Something unforeseen"),
]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error, sentence", ERRORS)
def test_every_command_ends_in_a_sentence(ends, monkeypatch, name, error, sentence):
    module, run, arguments = COMMANDS[name]

    def fails(options):
        raise error

    monkeypatch.setattr(module, run, fails)
    said = ends(*name.split(), *arguments)
    assert sentence in said and type(error).__name__ not in said.replace("SubjectError", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_in_130_after_ctrl_c(monkeypatch, capsys, name):
    module, run, arguments = COMMANDS[name]

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, run, interrupted)
    assert main([*name.split(), *arguments]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."


def test_where_an_error_came_from_can_be_seen(monkeypatch, capsys):
    def fails():
        raise KeyError("deep")

    assert commands.exit_status(fails) == 2
    said = capsys.readouterr().err
    assert "test_command_errors.py, line" in said and "Traceback" not in said and "python -X dev" in said
    monkeypatch.setattr(commands, "sys", SimpleNamespace(stderr=sys.stderr, flags=SimpleNamespace(dev_mode=True)))
    assert commands.exit_status(fails) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_device_that_is_there_is_taken():
    commands.require_device("cpu")
    assert torch.zeros(1).device.type == "cpu"


# --- shards: interrupted, damaged, two at once


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Sources, the settings' argument, and a finished folder of them."""
    folder = tmp_path_factory.mktemp("shards")
    sources = write_list(folder, many_photos(folder, 4))
    synthesise(sources, folder / "whole", SynthesisSettings(shard_samples=2))
    arguments = ["synthesise", "shards", sources.photos, "--backgrounds", sources.backgrounds, "--shard-samples", 2]
    return list(map(str, arguments)), folder / "whole"


def test_ctrl_c_in_shards_is_130_and_goes_on_to_the_same_bytes(shards, tmp_path):
    arguments, whole = shards
    process = subprocess.Popen(
        [sys.executable, "-m", "blipdiff_impl", *arguments, "--out", str(tmp_path / "out")],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "out" / ".running").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=300)[1]
    assert (process.returncode, said.strip().splitlines()[-1]) == (130, "Stopped.") and "Traceback" not in said
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == contents(whole)


def test_two_runs_in_one_folder(ends, shards, tmp_path):
    arguments, whole = shards
    with only_run_in(tmp_path):
        said = ends(*arguments, "--out", tmp_path)
        assert f"Another run is writing to {tmp_path} (process {os.getpid()} on this computer)" in said
    assert not list(tmp_path.iterdir())
    (tmp_path / ".running").write_text("12345")  # what a killed run leaves
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert contents(tmp_path) == contents(whole)


def test_a_shard_of_other_bytes_is_made_again(shards, tmp_path):
    arguments, whole = shards
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    path = tmp_path / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("change", [
    lambda record: record.update(shards=3), lambda record: record.update(shards=[3]),
    lambda record: record.update(rejected=[]), lambda record: record.pop("rejected"),
    lambda record: record.update(made_from=[]), lambda record: record["shards"][0].update(bytes="x"),
    lambda record: record["shards"][0].update(samples=[]), lambda record: record["shards"][0].update(name=None),
])  # fmt: skip
def test_a_manifest_of_other_kinds(ends, shards, tmp_path, change):
    arguments, whole = shards
    for name, data in contents(whole).items():
        (tmp_path / name).write_bytes(data)
    record = yaml.safe_load((whole / "manifest.json").read_text())
    change(record)
    scoring.write_json(tmp_path / "manifest.json", record)
    assert "manifest.json is no manifest of shards" in ends(*arguments, "--out", tmp_path)


def test_a_lock_is_free_when_its_run_has_ended(tmp_path):
    for _ in range(2):
        with only_run_in(tmp_path, "a"), only_run_in(tmp_path, "b"):
            with pytest.raises(SubjectError, match="Another run"), only_run_in(tmp_path, "a"):
                pytest.fail("two at once")
    assert not list(tmp_path.iterdir())
