"""The stage that trains MS-Diffusion adapters on the embedded model: what it imitates, its data, and one short run."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.ms_diffusion.checkpoint import open_adapter
from blipdiff_impl.ms_diffusion.pretraining.base import prompt_ids
from blipdiff_impl.ms_diffusion.pretraining.command import train
from blipdiff_impl.ms_diffusion.pretraining.settings import COLUMNS, MSSettings
from blipdiff_impl.ms_diffusion.pretraining.task import MSTask, jittered
from blipdiff_impl.prompts.rows import compose
from blipdiff_impl.toy_world.world import CATEGORIES, HELD_OUT_SEED, subject_from_seed
from blipdiff_impl.toybox import scene_bank
from blipdiff_impl.toybox.adapter_base import ToyBase
from blipdiff_impl.toybox.adapter_data import ToyScenes, cut_out_render, make_cut_outs, scene_rows
from blipdiff_impl.toybox.train_adapter import DRAWING, IMITATION, open_base, train_ms_diffusion
from blipdiff_impl.training.run_log import read_losses
from blipdiff_impl.training.samples import BrokenSample, Reference, Sample
from blipdiff_impl.training.settings_file import read_settings
from tools.places import ROOT

KINDS = ("mug", "robot")
BOXES = ((0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75))


@pytest.fixture(scope="module")
def base():
    return ToyBase()


class Scenes:
    """Four scenes of two things; what the bank would give, at random."""

    groups = (4,)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        references = tuple(
            Reference(cut_out_render(subject_from_seed(HELD_OUT_SEED + index, kind), rng), kind, box,
                      rng.standard_normal((16, 128), dtype=np.float32))
            for kind, box in zip(KINDS, BOXES, strict=True)
        )  # fmt: skip
        return Sample(
            f"scene {index}", np.zeros((192, 192, 3), np.uint8), ("a mug and a robot on the beach",),
            mask=rng.integers(0, 256, (24, 24), dtype=np.uint8),
            latent=rng.standard_normal((4, 24, 24), dtype=np.float32), references=references,
        )  # fmt: skip


def test_columns_are_those_of_the_text_encoder_in_a_prompt_with_the_subject(base):
    """By the pack's own prompt: `a [subject] mug`, whose vectors stand behind the start and "a"."""
    from blipdiff_impl.blip_diffusion.text import encode_subject

    vectors = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    subject = Subject(vectors, "mug", "f", "a test")
    encoder = base._pipeline.text_encoder
    expected = encode_subject(encoder, compose("a [subject] mug", "mug", "released", 1.0, 1), subject)[:, 2:18]
    found = base.columns(vectors, prompt_ids("mug")[:1])
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_cut_out_fills_its_frame():
    drawn = cut_out_render(subject_from_seed(HELD_OUT_SEED, "robot"), np.random.default_rng(0))
    seen = drawn.max(axis=-1) > 12
    assert drawn.shape == (64, 64, 3) and drawn.dtype == np.uint8
    assert all(seen.any(axis=axis)[[0, -1]].all() for axis in (0, 1)) and not seen[0].all()


def test_crowded_scenes_come_twice_and_one_text_in_three_names_other_things(tmp_path, monkeypatch):
    """A bank of four small scenes: one large thing, one thing, three things, two things."""
    things = [[3, -1, -1], [4, -1, -1], [1, 2, 6], [8, 9, -1]]
    labels = np.array([[1, 0, 1, *things[0]], [1, 1, 0, *things[1]], [3, 2, 0, *things[2]], [2, 3, 0, *things[3]]])
    arrays = {
        "labels": labels, "latents": np.zeros((4, 4, 24, 24)), "cells": np.zeros((4, 3, 24, 24), np.uint8),
        "boxes": np.full((4, 3, 4), 96), "vectors": np.zeros((4, 3, 16, 128)),
        "references": np.zeros((4, 3, 64, 64, 3), np.uint8),
    }  # fmt: skip
    monkeypatch.setattr(scene_bank, "open_shape", lambda name: arrays)
    monkeypatch.setattr(scene_bank, "ready", lambda name: 4)
    monkeypatch.setattr(scene_bank, "FOLDER", tmp_path)
    (tmp_path / "large_things").mkdir()
    np.save(tmp_path / "large_things" / "pictures.npy", arrays["references"])
    rectangle = np.array([16, 30, 56, 64])  # in the square of the bank
    np.save(tmp_path / "large_things" / "boxes.npy", np.broadcast_to(rectangle, (4, 3, 4)))

    assert scene_rows().tolist() == [1, 2, 2, 3]  # of large single things one in four
    scenes = ToyScenes()
    (count,) = scenes.groups
    misnamed = 0
    for index in range(count):
        sample = scenes[index]
        own = [CATEGORIES[kind] for kind in things[scene_rows()[index % 4]] if kind >= 0]
        assert [reference.phrase for reference in sample.references] == own
        assert all(reference.box == tuple(rectangle / 192) for reference in sample.references)
        mask = np.zeros((24, 24), np.uint8)
        mask[2:9, 1:8] = 255  # cells of 8 pixels that the rectangle touches, and one around them
        assert np.array_equal(sample.mask, mask)
        said = [kind for kind in CATEGORIES if f"a {kind} " in f"{sample.captions[0]} ".replace(",", " ")]
        assert len(said) == len(own)
        misnamed += set(said) != set(own)
    assert abs(misnamed - count / 3) <= 2


def test_boxes_are_rectangles_around_what_was_drawn(tmp_path, monkeypatch):
    """Of two scenes; kept beside the cut-outs, in pixels."""
    monkeypatch.setattr(scene_bank, "FOLDER", tmp_path)
    monkeypatch.setattr(scene_bank, "ready", lambda name: 2)
    monkeypatch.setattr(scene_bank, "open_shape", lambda name: {"labels": np.array([[1, 0, 0], [1, 0, 0]])})
    make_cut_outs()
    boxes = np.load(tmp_path / "large_things" / "boxes.npy")
    for index in range(2):
        masks = scene_bank.scene_of("large", index).masks
        for mask, (x0, y0, x1, y1) in zip(masks, boxes[index], strict=False):
            inside = np.zeros_like(mask, bool)
            inside[y0:y1, x0:x1] = True
            assert not (mask[~inside] > 127).any()
            edges = mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1]
            assert all((edge > 127).any() for edge in edges)


def test_jitter_moves_edges_a_little_in_half_of_the_cases():
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.7], [0.0, 0.0, 0.0, 0.0]])
    moved = [jittered(boxes, 0.1, np.random.default_rng(seed)) for seed in range(60)]
    changed = [not torch.equal(each, boxes) for each in moved]
    assert 15 < sum(changed) < 45
    assert all((each[0] - boxes[0]).abs().max() <= 0.1 and torch.equal(each[1], boxes[1]) for each in moved)
    assert torch.equal(jittered(boxes, 0.0, np.random.default_rng(0)), boxes)


def test_both_runs_learn_and_the_second_goes_on_from_the_first(base, tmp_path):
    few = {"batch_size": 4, "steps": 8, "warm_up": 0, "precision": "no", "log_every": 1, "ema_decay": 0.0}
    first = replace(IMITATION, **few, learning_rate=3e-3, out=str(tmp_path / "first"))
    path = train(first, base, Scenes())
    losses = [row["columns"] for row in read_losses(tmp_path / "first")]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]
    before = open_adapter(path).tensors()
    attention = base.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    name = next(each for each in reversed(before) if each.endswith("to_k_ip.weight"))
    assert torch.equal(before[name], attention.to_k.weight.half())  # keys and values are not touched
    second = train(replace(DRAWING, **few, adapter=str(path), out=str(tmp_path / "second")), base, Scenes())
    after = open_adapter(second).tensors()
    assert len(read_losses(tmp_path / "second")) == 8 and not torch.equal(after[name], before[name])


def test_the_example_of_the_columns_stage_runs(base, tmp_path):
    """docs/pretraining.md, for two steps."""
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    (example,) = (each for each in re.findall(r"```yaml\n(.+?)```", page, re.DOTALL) if "loss: columns" in each)
    path = tmp_path / "settings.yaml"
    path.write_text(example, encoding="utf-8")
    settings = read_settings(path, {MSSettings.stage: MSSettings}, ["steps=2", "batch_size=2", f"out={tmp_path}"])
    assert isinstance(settings, MSSettings) and settings.shards == ("toy",)
    open_adapter(train(settings, base, Scenes()))
    assert len(read_losses(tmp_path)) == 1


def test_samples_without_vectors_cannot_be_imitated(base):
    sample = Scenes()[0]
    bare = replace(sample, references=tuple(replace(each, vectors=None) for each in sample.references))
    with pytest.raises(BrokenSample, match="has no subject vectors, which loss = 'columns' imitates"):
        MSTask(IMITATION, base).prepare(bare, np.random.default_rng(0))
    wrong = replace(sample, latent=np.zeros((4, 12, 12), np.float32))
    with pytest.raises(BrokenSample, match=r"the latent is \(4, 12, 12\), not \(4, 24, 24\)"):
        MSTask(replace(DRAWING, adapter=""), base).prepare(wrong, np.random.default_rng(0))


def test_settings_that_cannot_be_used():
    with pytest.raises(SubjectError, match="shards: toy goes with model: toybox; other needs shards of its own"):
        train_ms_diffusion(replace(DRAWING, model="other", vision="v"))
    with pytest.raises(SubjectError, match="Name the picture encoder that belongs to other"):
        open_base("other")
    with pytest.raises(SubjectError, match="loss"):
        replace(DRAWING, loss="other")
    assert IMITATION.loss == COLUMNS
