"""The LoRAs that come with the built-in model: one takes its subjects away, one is a style; and that what the model
knows beyond the first shows both on the second."""

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stopping import stop_after

from blipdiff_impl.toy_world.render import render_picture
from blipdiff_impl.toy_world.two_colours import distance_from_style, in_two_colours
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, subject_from_seed
from blipdiff_impl.toybox import train_style
from blipdiff_impl.toybox.training import Clock
from tools.numbers import transplant
from tools.numbers.two_subjects import Toybox

FILES = [train_style.FOLDER / name for name in (train_style.STOCK_FILE, train_style.PRINT_FILE)]


def test_the_files_are_small_and_in_16_bit():
    assert sum(path.stat().st_size for path in FILES) <= 1_500_000
    for path in FILES:
        kinds = {name.rpartition(".")[2] for name in load_file(path)}
        assert kinds == {"weight", "alpha"}
        assert {tensor.dtype for name, tensor in load_file(path).items() if "alpha" not in name} == {torch.float16}


@pytest.mark.parametrize("background", BACKGROUND_NAMES)
def test_the_style_is_told_from_the_world_as_it_is(background):
    rng = np.random.default_rng(4)
    drawn = render_picture(subject_from_seed(3), background, rng)
    styled = in_two_colours(drawn.picture, drawn.mask)
    thing = drawn.mask > 127
    assert distance_from_style(styled, thing) < 0.2 * transplant.IN_STYLE
    assert distance_from_style(drawn.picture, thing) > 1.3 * transplant.IN_STYLE
    whole = drawn.mask == 255
    assert np.array_equal(styled[whole], drawn.picture[whole])


def test_the_host_finds_them_and_takes_every_weight(comfy, caplog):
    """Its loader names each key that it does not know."""
    import folder_paths

    assert {path.name for path in FILES} <= set(folder_paths.get_filename_list("loras"))
    toybox = Toybox(comfy)
    for path in FILES:
        with caplog.at_level(logging.WARNING):
            model, _ = toybox.with_lora(toybox.model, toybox.clip, path.name)
        assert "lora key not loaded" not in caplog.text
        assert len(model.patches) == len(load_file(path)) // 3


def test_a_subject_shows_in_the_style_and_not_without_what_was_added(comfy, monkeypatch):
    """Few and small; `make numbers-transplant` has the numbers."""
    monkeypatch.setattr(transplant, "SIZE", 96)
    found = transplant.measure(comfy, 12)
    assert found["subject_top1"] >= 0.75 and found["style_accuracy"] >= 0.75
    assert found["subject_top1_without"] <= 0.5 and found["style_accuracy_without"] >= 0.75
    assert found["style_accuracy_plain"] == 0 and found["style_accuracy_renderer"] == 1


def test_its_training_resumes_to_the_bit(tmp_path, monkeypatch):
    """Killed in each of its two parts, behind a checkpoint."""
    monkeypatch.setattr(train_style, "PICTURES", 16)
    monkeypatch.setattr(train_style, "CHUNK", 8)
    monkeypatch.setattr(train_style, "SIZES", {96: 4})
    monkeypatch.setattr(Clock, "checkpoint_due", lambda self: True)

    def run(name, stop=None):
        with monkeypatch.context() as patch:
            patch.setattr(train_style, "CACHE", tmp_path / name)
            stop_after(patch, train_style.Studio, "predict", stop)
            train_style.train_style(3, tmp_path / name / "out")
        return [load_file(tmp_path / name / "out" / path.name) for path in FILES]

    whole = run("whole")
    for stop in (7, 4):  # in the third step of the first part (three predictions each), then in the second part
        with pytest.raises(KeyboardInterrupt):
            run("killed", stop)
    resumed = run("killed")
    for one, other in zip(whole, resumed, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
