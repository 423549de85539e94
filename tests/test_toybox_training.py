"""The commands that go on from the embedded model: bank, UNet, decoder, and the file that they end in; a few steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
from blipdiff_impl.toy_world import render
from blipdiff_impl.toybox import scene_bank, train_decoder, train_scenes
from blipdiff_impl.toybox.scene_bank import Shape


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of its own with a bank of a few scenes of each shape, on one ground for each place."""
    monkeypatch.setattr(render, "BANK_PER_BACKGROUND", 1)
    render._bank.cache_clear()
    monkeypatch.setattr(scene_bank, "FOLDER", tmp_path / "scenes")
    monkeypatch.setattr(scene_bank, "CHUNK", 4)
    sizes = {"large": (192, 192), "small": (96, 96), "wide": (192, 96)}
    shapes = {name: Shape(size, 4, 1, seed) for seed, (name, size) in enumerate(sizes.items())}
    monkeypatch.setattr(scene_bank, "SHAPES", shapes)
    monkeypatch.setattr(train_scenes, "CHECKPOINT", tmp_path / "scenes.pt")
    monkeypatch.setattr(train_decoder, "CHECKPOINT", tmp_path / "large_decoder.pt")
    scene_bank.make_scene_bank()
    yield tmp_path
    render._bank.cache_clear()


class Clock:
    """Time that passes with the checks for a checkpoint, one for each step: a test cannot wait for minutes."""

    def __init__(self, spent=0.0):
        self.spent = spent

    def checkpoint_due(self):
        self.spent += 60
        return True


def test_training_goes_on_where_it_stopped_and_ends_in_the_file(folder, monkeypatch):
    from blipdiff_impl.toybox import export, training

    monkeypatch.setattr(training, "Clock", Clock)
    for train, checkpoint, options in (
        (train_scenes.train_scenes, train_scenes.CHECKPOINT, {"seed": 11, "large": 2, "small": 2}),
        (train_decoder.train_decoder, train_decoder.CHECKPOINT, {"large": 1, "small": 1}),
    ):
        train(1, **options)
        assert torch.load(checkpoint, weights_only=True)["optimiser"]["steps"] == 1
        train(3, **options)
        state = torch.load(checkpoint, weights_only=True)
        assert state["optimiser"]["steps"] == 3 and state["spent"] == 180
        assert all(torch.isfinite(tensor).all() for tensor in state["optimiser"]["average"].values())
    monkeypatch.setattr(export, "DECODER_CHECKPOINT", train_decoder.CHECKPOINT)
    export.renew(folder / "new.safetensors")
    old, new = open_checkpoint("toybox"), open_checkpoint(folder / "new.safetensors")
    assert new.config == old.config and new.vocabulary == old.vocabulary
    for part in ("subject_encoder", "text_encoder"):
        assert new.fingerprint(part) == old.fingerprint(part)
    assert new.fingerprint("unet") != old.fingerprint("unet")
    changed = {name for name, tensor in new.part("vae").items() if not torch.equal(tensor, old.part("vae")[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_an_interrupted_bank_goes_on_and_holds_what_an_uninterrupted_one_does(folder, monkeypatch):
    whole = {name: np.array(array) for name, array in scene_bank.open_shape("small").items()}
    assert scene_bank.ready("small") == 4
    (scene_bank.FOLDER / "small" / "ready.txt").write_text("2")
    for array in ("latents", "vectors", "boxes"):
        np.load(scene_bank.FOLDER / "small" / f"{array}.npy", mmap_mode="r+")[2:] = 0
    scene_bank.make_scene_bank()
    again = scene_bank.open_shape("small")
    for name, array in whole.items():
        assert np.allclose(array.astype(np.float32), again[name].astype(np.float32), atol=5e-3), name
    things = again["labels"][:, 0]
    assert ((things >= 1) & (things <= 3)).all()
