"""The judge of boxes: what it learns from, how it is trained, and that it reads boxes better than the judge does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stopping import stop_after

from blipdiff_impl.toy_world.world import CATEGORIES, HELD_OUT_SEED
from blipdiff_impl.toybox import box_judge
from blipdiff_impl.toybox.box_judge import bent, crop_around, draw_crops, load_box_judge, train_box_judge
from blipdiff_impl.toybox.judge import Judge, to_input
from blipdiff_impl.toybox.training import Clock


@pytest.fixture(scope="module")
def held_out():
    """Pictures, masks and kinds of about 240 crops."""
    crops = [crop for seed in range(110) for crop in draw_crops(np.random.default_rng((3, seed)), HELD_OUT_SEED)]
    pictures, masks, things = zip(*crops, strict=True)
    return np.stack(pictures), np.stack(masks) > 127, np.array([CATEGORIES.index(t.category) for t in things])


def test_a_box_takes_its_share_of_the_crop_and_the_border_goes_on():
    picture = np.zeros((192, 192, 3), np.uint8)
    picture[40:112, 60:132] = 255
    crop = crop_around(picture, np.array([60.0, 40.0, 132.0, 112.0]))
    side = round(box_judge.FILL * 96)
    assert crop.shape == (96, 96, 3) and abs((crop[48] > 127).all(-1).sum() - side) <= 1
    at_the_border = crop_around(picture + 7, np.array([0.0, 0.0, 40.0, 40.0]))
    assert (at_the_border[:10, :10] == 7).all()


def test_masks_are_those_of_one_thing_each(held_out):
    _, masks, kinds = held_out
    shares = masks.mean((1, 2))
    assert 0.1 < shares.min() and shares.max() < 0.75
    assert len(np.unique(kinds)) == len(CATEGORIES)


def test_things_stay_as_they_are_on_another_ground(monkeypatch):
    monkeypatch.setattr(box_judge, "MIXED_SHARE", 0.0)
    plain = draw_crops(np.random.default_rng(4))
    monkeypatch.setattr(box_judge, "MIXED_SHARE", 1.0)
    mixed = draw_crops(np.random.default_rng(4))
    whole = plain[0][1] == 255
    assert len(plain) == len(mixed) and plain[0][2] == mixed[0][2]
    assert np.abs(plain[0][0][whole].mean(0) - mixed[0][0][whole].mean(0)).max() < 40
    assert np.abs(plain[0][0][~whole].astype(int) - mixed[0][0][~whole]).mean() > 5


def test_bending_takes_the_mask_along(held_out):
    pictures, masks, _ = held_out
    seen, found = bent_crops(pictures, masks)
    assert seen.shape == pictures.shape and not np.array_equal(seen, pictures)
    black = pictures * masks[..., None]  # what is not black is the thing, wherever it went
    alone, found = bent_crops(black, masks)
    assert ((alone.max(-1) > 40) & ~found).mean() < 0.02
    assert 0.5 < found.mean() / masks.mean() < 1.5


def bent_crops(pictures, masks):
    given = to_input(pictures), torch.from_numpy(masks)[:, None].float()
    seen, found = bent(*given, np.random.default_rng(8))
    return ((seen.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy(), found[:, 0].numpy() > 0.5


def test_it_reads_boxes_better_than_the_judge(held_out):
    """Things that neither has seen, bent and beside their box as a model draws them; neither is told what is there."""
    pictures, masks, kinds = held_out
    bent_pictures, bent_masks = bent_crops(pictures, masks)
    found, by_judge = load_box_judge().look_at(bent_pictures), Judge.load().look_at(bent_pictures)
    right, right_by_judge = (found.category == kinds).mean(), (by_judge.category == kinds).mean()
    assert right >= 0.95 and right > right_by_judge + 0.1
    assert (load_box_judge().look_at(pictures).category == kinds).mean() >= 0.97

    def overlap(seen):
        return ((seen & bent_masks).sum((1, 2)) / (seen | bent_masks).sum((1, 2))).mean()

    assert overlap(found.mask) >= 0.85 and overlap(found.mask) > overlap(by_judge.mask)


def test_it_resumes_to_the_bit(tmp_path, monkeypatch):
    """Killed behind a checkpoint."""
    monkeypatch.setattr(Clock, "checkpoint_due", lambda self: True)

    def run(name, stop=None):
        monkeypatch.setattr(box_judge, "CHECKPOINT", tmp_path / f"{name}.pt")
        with monkeypatch.context() as patch:
            stop_after(patch, box_judge, "spoil", stop)
            train_box_judge(3, batch=4, path=tmp_path / f"{name}.safetensors")
        return load_file(tmp_path / f"{name}.safetensors")

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("killed", stop=2)
    assert not (tmp_path / "killed.safetensors").exists()
    resumed = run("killed")
    assert whole.keys() == resumed.keys() == Judge.load().network.state_dict().keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
