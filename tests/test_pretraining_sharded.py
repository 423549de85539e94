"""Pre-training with weights and optimiser sharded (FSDP2) on two processes without a GPU: one process's losses, grids
and weights, checkpoints that another number of processes resumes from, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from pretraining_fixtures import write_model, write_shards
from safetensors.torch import load_file

from blipdiff_impl.blip_diffusion.pretraining import command
from blipdiff_impl.blip_diffusion.pretraining.settings import Stage1Settings, Stage2Settings
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.training import trainer
from blipdiff_impl.training.run_checkpoints import RunFolder
from blipdiff_impl.training.run_log import read_losses
from blipdiff_impl.training.settings_file import to_yaml
from tools.places import ROOT

LAYERS = ("Blip2QFormerLayer", "BasicTransformerBlock", "CLIPEncoderLayer")
STEPS = 6


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    return {"model": str(write_model(folder / "tiny.safetensors")), "shards": (write_shards(folder),)}


@pytest.fixture
def make(material, tmp_path):
    """Settings of a short run; batches of 12 can be divided by two and by three."""

    def make(kind, name, **changes):
        values = {"steps": STEPS, "batch_size": 12, "learning_rate": 1e-3, "last_rate": 1e-4, "warm_up": 2,
                  "clip": 1.0, "dropout": 0.0, "log_every": 1, "save_every": 4, "seed": 5, "threads": 1}  # fmt: skip
        if kind is Stage1Settings:
            values |= {"embedding_size": 8, "text_length": 8}
        else:
            values |= {"sample_every": 4, "sample_steps": 2, "sample_count": 2, "min_snr": 5.0}
        return kind(**(material | values | {"out": str(tmp_path / name)} | changes))

    return make


def run_sharded(settings, tmp_path, processes, *layers):
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / "tests" / "sharded_run.py"), str(path), *layers], cwd=ROOT,
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def losses_of(folder):
    return [{name: row[name] for name in row if name != "samples_per_second"} for row in read_losses(folder)]


def assert_close(found, expected):
    assert len(found) == len(expected) == STEPS
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)


def test_sharded_is_one_process_and_resumes_on_another_number(make, tmp_path):
    """Layers are sharded each by itself; grids and the result hold whole weights."""
    whole = command.train(make(Stage2Settings, "whole"))
    settings = make(Stage2Settings, "sharded")
    assert "2 process(es)" in run_sharded(settings, tmp_path, 2, *LAYERS)
    folder = tmp_path / "sharded"
    expected = losses_of(tmp_path / "whole")
    assert_close(losses_of(folder), expected)
    result = load_file(folder / "model.safetensors")
    for name, weight in load_file(whole).items():  # written in 16 bit
        torch.testing.assert_close(result[name], weight, rtol=1e-2, atol=2e-3)
    with Image.open(folder / "samples" / "step_00000004.png") as grid:
        assert grid.size == (2 * 64, 3 * 64)
    checkpoint = folder / "checkpoints" / "step_00000004"
    assert len(list(checkpoint.rglob("*.distcp"))) == 4  # weights and optimiser of two processes
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoints" / "step_00000006")
    said = run_sharded(settings, tmp_path, 3, *LAYERS)
    assert "3 process(es)" in said and f"from step 4 of {STEPS}" in said
    assert_close(losses_of(folder), expected)
    assert (folder / "model.safetensors").exists()


def test_the_first_stage_can_be_sharded(make, tmp_path):
    """Its temperature is a single number, kept in a range after each step; features are gathered with gradients."""
    command.train(make(Stage1Settings, "whole"))
    run_sharded(make(Stage1Settings, "sharded"), tmp_path, 2)
    assert_close(losses_of(tmp_path / "sharded"), losses_of(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("kind", "file", "sentence"),
    [
        (
            "NO",
            "pytorch_model_fsdp_0/__0_0.distcp",
            "are sharded .FSDP..*accelerate launch --use_fsdp --fsdp_version 2",
        ),
        ("NO", "pytorch_model_fsdp.bin", "are sharded .FSDP..*accelerate launch --use_fsdp --fsdp_version 2"),
        ("FSDP", "model.safetensors", "are whole, and this run shards them.*without --use_fsdp"),
        ("FSDP", "optimizer.bin", "is damaged"),
    ],
)
def test_a_checkpoint_that_this_launch_cannot_read_is_not_called_damaged(make, tmp_path, kind, file, sentence):
    """accelerate misses the file that it would have written itself, whatever else lies there."""
    settings = make(Stage2Settings, "other")
    checkpoint = tmp_path / "other" / "checkpoints" / "step_00000004"
    (checkpoint / file).parent.mkdir(parents=True)
    (checkpoint / file).write_bytes(b"")
    (checkpoint / "settings.yaml").write_text(to_yaml(settings), encoding="utf-8")
    (checkpoint / "progress.json").write_text(json.dumps({"samples": 12, "step": 4}), encoding="utf-8")

    def load_state(path):
        raise FileNotFoundError(path)

    accelerator = SimpleNamespace(distributed_type=kind, load_state=load_state)
    with pytest.raises(SubjectError, match=sentence):
        RunFolder(tmp_path / "other", accelerator, settings, None).resume(12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ema_decay": 0.9}, "running mean needs whole weights.*set ema_decay: 0"),
        ({"optimiser": "muon"}, "Muon needs whole matrices.*set optimiser: adamw"),
    ],
)
def test_what_needs_whole_weights_is_refused(make, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setattr(trainer, "make_accelerator", lambda settings: SimpleNamespace(distributed_type="FSDP"))
    with pytest.raises(ValueError, match=sentence):
        command.train(make(Stage2Settings, "refused", **changes))
    assert not list((tmp_path / "refused").glob("*"))
