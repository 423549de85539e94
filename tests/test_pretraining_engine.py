"""The training loop: the same losses after kill -9, on two processes, in parts; and runs that cannot go on."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretraining_fixtures import (
    finish_run,
    kill_run,
    sample_members,
    start_run,
    write_model,
    write_shard,
    write_shards,
)
from safetensors.torch import load_file

from blipdiff_impl.blip_diffusion.pretraining import command
from blipdiff_impl.blip_diffusion.pretraining.settings import Stage1Settings, Stage2Settings
from blipdiff_impl.blip_diffusion.pretraining.sources import open_source
from blipdiff_impl.training.loading import BatchShare
from blipdiff_impl.training.run_log import read_losses
from blipdiff_impl.training.trainer import Trainer

KINDS = {1: Stage1Settings, 2: Stage2Settings}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    return {"model": str(write_model(folder / "tiny.safetensors")), "shards": (write_shards(folder),)}


@pytest.fixture
def make(material, tmp_path):
    """Settings of a short run with a line of losses each step."""

    def make(stage=1, **changes):
        values = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "last_rate": 1e-4, "warm_up": 2, "clip": 1.0,
                  "log_every": 1, "save_every": 2, "seed": 5, "threads": 1}  # fmt: skip
        if stage == 1:
            values |= {"embedding_size": 8, "text_length": 8}
        else:
            values |= {"sample_every": 0, "min_snr": 5.0, "ema_decay": 0.9}
        return KINDS[stage](**(material | values | {"out": str(tmp_path / f"run{stage}")} | changes))

    return make


def losses_of(folder):
    """Losses by step, without times."""
    rows = read_losses(folder)
    return [{name: row[name] for name in row if name not in ("samples_per_second",)} for row in rows]


def run(settings):
    path = command.train(settings)
    return losses_of(path.parent), load_file(path)


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("stage", [1, 2])
def test_killed_and_gone_on_is_the_same_as_unbroken(make, tmp_path, stage):
    """SIGKILL in the middle; dropout on. On one thread sums are always added in the same order: equal to the bit."""
    settings = make(stage, steps=30, save_every=3, dropout=0.1)
    folder = tmp_path / f"run{stage}"
    kill_run(start_run(settings, tmp_path), folder / "checkpoints" / "step_0000000[3-9]")
    made = len(read_losses(folder))
    assert 3 <= made < 30
    assert "from step 0 of" not in finish_run(start_run(settings, tmp_path))
    expected, weights = run(replace(settings, out=str(tmp_path / "unbroken")))
    assert len(expected) == 30
    assert losses_of(folder) == expected
    assert_same_weights(load_file(next(folder.glob("*.safetensors"))), weights)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_are_one_with_the_same_batch(make, tmp_path, stage, accumulation):
    """Dropout is off: each process draws masks of its own. 1e-4: sums of float32 in another order, over six steps.

    Both start from weights with all parts of the gradient alive, so that a wrong gather would show by step 2.
    """
    settings = make(stage, batch_size=8, accumulation=accumulation, dropout=0.0, workers=accumulation - 1)
    output = finish_run(start_run(settings, tmp_path, processes=2))
    assert "2 process(es)" in output
    expected, _ = run(replace(settings, out=str(tmp_path / "one")))
    found = losses_of(tmp_path / f"run{stage}")
    assert len(found) == len(expected) == 6
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)
    assert expected[0] != expected[-1]


def test_parts_of_a_step_are_one_step_in_the_second_stage(make, tmp_path):
    """Its loss is a mean over samples, so parts change nothing but the order of sums."""
    whole, _ = run(make(2, dropout=0.0, out=str(tmp_path / "whole")))
    parts, _ = run(make(2, dropout=0.0, accumulation=4, out=str(tmp_path / "parts")))
    for row, wanted in zip(parts, whole, strict=True):
        assert row == pytest.approx(wanted, abs=1e-4)


def test_reading_processes_change_nothing(make, tmp_path):
    alone, _ = run(make(1, out=str(tmp_path / "alone")))
    helped, _ = run(make(1, workers=2, out=str(tmp_path / "helped")))
    assert helped == alone


@pytest.mark.parametrize("stage, what", [(1, ("contrast", "captioning")), (2, ("noise",))])
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_losses_fall(make, tmp_path, stage, what, optimiser):
    """Twelve samples, again and again: they can be learned by heart."""
    rate = 3e-3 if optimiser == "adamw" else 1e-2
    settings = make(stage, steps=60, batch_size=12, learning_rate=rate, optimiser=optimiser, crop_low=1.0, flip=0.0)
    rows, _ = run(replace(settings, dropout=0.0, save_every=60))
    for name in what:
        first, last = (np.mean([row[name] for row in part]) for part in (rows[:5], rows[-5:]))
        assert last < 0.95 * first, (name, first, last)


def test_a_finished_run_is_not_trained_again(make):
    settings = make(1)
    losses, weights = run(settings)
    again, same = run(settings)
    assert again == losses
    assert_same_weights(same, weights)


def test_only_the_newest_checkpoints_are_kept_whole(make, tmp_path):
    run(make(1, keep=2))
    folder = tmp_path / "run1" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000004", "step_00000006"]


def test_a_half_written_checkpoint_is_passed_over(make, tmp_path):
    settings = make(1)
    losses, _ = run(settings)
    folder = tmp_path / "run1" / "checkpoints"
    (folder / "step_00000006").rename(folder / "step_00000006.partial")
    (folder / "step_00000006.partial" / "model.safetensors").unlink()
    again, _ = run(settings)
    assert again == losses
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("name", ["progress.json", "optimizer.bin", "model.safetensors", "settings.yaml"])
def test_a_damaged_checkpoint_is_named(make, tmp_path, name):
    run(make(1))
    (tmp_path / "run1" / "checkpoints" / "step_00000006" / name).write_bytes(b"\x00damaged")
    with pytest.raises(ValueError, match="step_00000006"):
        command.train(make(1))


def test_a_checkpoint_of_other_settings_is_refused(make):
    run(make(1))
    with pytest.raises(ValueError, match=r"batch_size was 4 and is 6; learning_rate was 0.001 and is 0.5"):
        command.train(make(1, batch_size=6, learning_rate=0.5))
    command.train(make(1, log_every=3, save_every=1, workers=0))  # these may change


def test_a_checkpoint_of_other_data_is_refused(make, tmp_path):
    run(make(1))
    (tmp_path / "more").mkdir()
    with pytest.raises(ValueError, match="trained on 12 samples, but there are 3 now"):
        command.train(make(1, shards=(write_shards(tmp_path / "more", (3,)),)))


@pytest.mark.parametrize("stage, loss", [(1, "contrast"), (2, "noise")])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(make, tmp_path, stage, loss):
    settings = make(stage, save_every=1)
    task = command.make_task(settings)
    batch, seen = task.batch, []

    def broken(raw):
        seen.append(raw)
        made = batch(raw)
        return replace(made, features=made.features * float("nan")) if len(seen) == 3 else made

    task.batch = broken
    with pytest.raises(ValueError, match=f"loss of {loss} is nan in step 3.*newest checkpoint is .*step_00000002"):
        Trainer(task, open_source(settings)).run()
    weights = load_file(tmp_path / f"run{stage}" / "checkpoints" / "step_00000002" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_the_frozen_parts_stay_and_the_trained_ones_move(make):
    settings = make(2, steps=2)
    task = command.make_task(settings)
    parts = {"tower": task.frozen.tower, "vae": task.vae, "model": task.model}
    before = {part: {n: t.clone() for n, t in module.state_dict().items()} for part, module in parts.items()}
    trainer = Trainer(task, open_source(settings))
    trainer.run()
    for part in ("tower", "vae"):
        assert_same_weights(parts[part].state_dict(), before[part])
    moved = {
        name.split(".")[0] for name, t in task.model.state_dict().items() if not torch.equal(t, before["model"][name])
    }
    assert moved == {"qformer", "proj_layer", "image_norm", "text_encoder", "unet"}


def test_sample_grids_are_drawn_without_touching_the_run(make, tmp_path):
    plain, _ = run(make(2, out=str(tmp_path / "plain")))
    settings = make(2, sample_every=3, sample_count=3, sample_steps=2)
    shown, _ = run(settings)
    assert shown == plain
    from PIL import Image

    found = sorted((tmp_path / "run2" / "samples").iterdir())
    assert [path.name for path in found] == ["step_00000003.png", "step_00000006.png"]
    with Image.open(found[0]) as grid:
        assert grid.size == (3 * 64, 3 * 64)


def test_grids_leave_out_what_cannot_be_used(make, tmp_path):
    samples = {f"{i:04d}": sample_members(i) for i in range(4)}
    for index in range(3):
        del samples[f"{index:04d}"]["composite.png"]
    shard = str(write_shard(tmp_path / "a.tar", samples))
    run(make(2, shards=(shard,), steps=2, sample_every=2, sample_count=3, sample_steps=2))
    from PIL import Image

    with Image.open(tmp_path / "run2" / "samples" / "step_00000002.png") as grid:
        assert grid.size == (64, 3 * 64)


def test_the_result_loads_and_draws(make):
    from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline

    pipeline = SubjectPipeline.from_checkpoint(command.train(make(2, steps=2)))
    subject = pipeline.encoder.encode(torch.rand(1, 40, 40, 3), "mug")
    picture = pipeline.generate(subject, "a b", steps=2)
    assert picture.shape == (1, 64, 64, 3) and picture.isfinite().all()


def test_the_second_stage_goes_on_from_the_first(make):
    first = command.train(make(1))
    task = command.make_task(make(2, stage1=str(first)))
    stored = load_file(first)
    name = next(name for name in stored if name.endswith("query_tokens"))
    assert torch.equal(task.model.qformer.query_tokens.detach(), stored[name])


def test_positions_are_shared_out_without_gap_or_double():
    shares = [BatchShare(24, 3, process, 2) for process in range(2)]
    positions = [p for part in range(3) for share in shares for p in share.positions(5, part)]
    assert positions == list(range(120, 144))
    assert list(BatchShare(24, 3).positions(5, 1)) == [p for share in shares for p in share.positions(5, 1)]
    with pytest.raises(ValueError, match="batch_size = 24 cannot be divided among 5 processes.*multiple of 5"):
        BatchShare(24, 1, 0, 5)


@pytest.mark.parametrize("module, settings, sentence", [
    ("accelerate", {}, "pip install accelerate"),
    ("tensorboard", {"tensorboard": True}, "pip install tensorboard"),
])  # fmt: skip
def test_what_is_missing_is_named_with_its_cure(make, monkeypatch, module, settings, sentence):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "tensorboard":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=sentence):
        command.train(make(1, **settings))


def test_lines_after_the_checkpoint_are_cut_from_the_losses(make, tmp_path):
    settings = make(1)
    losses, _ = run(settings)
    path = tmp_path / "run1" / "losses.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 99, "contrast": 0.0}) + "\n" + '{"step": 100, "contr')
    assert run(settings)[0] == losses


def test_tensorboard_gets_every_number_and_the_grids(make, monkeypatch):
    """A writer that remembers stands in for the optional package."""
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append(("open", purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, step, value))

        def add_image(self, name, picture, step, dataformats):
            told.append((name, step, (picture.shape, picture.dtype.name, dataformats)))

        def close(self):
            told.append(("close",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type(sys)("stand_in"))
    sys.modules["torch.utils.tensorboard"].SummaryWriter = Writer
    losses, _ = run(make(2, tensorboard=True, sample_every=6, sample_count=2, sample_steps=2))
    assert told[0] == ("open", 1) and told[-1] == ("close",)
    assert [entry[2] for entry in told if entry[0] == "noise"] == [row["noise"] for row in losses]
    assert ("samples", 6, ((192, 128, 3), "uint8", "HWC")) in told
    assert {entry[0] for entry in told[1:-1]} == {"noise", "learning_rate", "samples_per_second", "samples"}
