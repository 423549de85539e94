"""Scenes of several things: where they are, what is said of them, and what the UNet is shown while it learns them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hostile_prompts import TOYBOX

from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.prompts.tokenizers import CLIP_END, clip_ids
from blipdiff_impl.toy_world.render import PICTURE_SIZE, render_picture
from blipdiff_impl.toy_world.scenes import draw_boxes, halves_boxes, render_scene, scene_row, scene_text, word_column
from blipdiff_impl.toy_world.world import CATEGORIES, subject_from_seed
from blipdiff_impl.toybox.box_judge import load_box_judge
from blipdiff_impl.toybox.judge import Judge
from blipdiff_impl.toybox.scene_numbers import kinds_found, make_scene_trials, rendered_scene, two_areas
from blipdiff_impl.toybox.train_scenes import Prompt, RegionAttention, conditions, draw_prompt, region


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_large_picture_is_the_small_one_grown():
    """Half as large it differs from the small one at edges only; both are drawn from the same chances."""
    for seed in range(6):
        subject = subject_from_seed(seed)
        small = render_picture(subject, "beach", rng(seed)).picture.astype(float)
        large = render_picture(subject, "beach", rng(seed), size=2 * PICTURE_SIZE).picture
        halved = large.reshape(PICTURE_SIZE, 2, PICTURE_SIZE, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - halved).mean() < 6
        assert np.median(np.abs(small - halved)) <= 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_boxes_lie_inside_and_apart(count):
    for seed in range(30):
        boxes = draw_boxes(count, 192, 192, rng(seed))
        assert len(boxes) == count
        for x0, y0, x1, y1 in boxes:
            assert 0 <= x0 < x1 <= 192 and 0 <= y0 < y1 <= 192 and x1 - x0 == y1 - y0
        for a, b in combinations(boxes, 2):
            common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            assert common <= 0.05 * min((a[2] - a[0]) ** 2, (b[2] - b[0]) ** 2)


def test_things_are_drawn_in_their_boxes():
    subjects, boxes = [subject_from_seed(1), subject_from_seed(2)], halves_boxes(96, rng(1))
    scene = render_scene(subjects, boxes, "night", (192, 96), rng(2))
    assert scene.picture.shape == (96, 192, 3) and scene.masks.shape == (2, 96, 192)
    for mask, (x0, y0, x1, y1) in zip(scene.masks, boxes, strict=True):
        inside = mask[y0:y1, x0:x1]
        assert inside.sum() == mask.sum() and 0.2 < (inside > 127).mean() < 1


def test_scenes_in_words():
    assert scene_text(["mug", "robot"], "on the beach", False, False) == "a mug and a robot on the beach"
    assert scene_text(["mug", "robot", "cat"], "at night", True, False) == "a mug, a robot and a cat at night"
    assert scene_text(["mug", "robot"], "at night", True, True) == "at night, a mug and a robot"


def test_vectors_stand_before_their_words():
    kinds = ["mug", "robot", "mug"]
    text = scene_text(kinds, "at night", False, False)
    row = scene_row(text, kinds, (0, 2))
    assert len(row.ids) == 77 and row.places[1] == -1
    (mug,) = clip_ids("mug")
    for place in (row.places[0], row.places[2]):
        assert (row.ids[place : place + 16] == CLIP_END).all() and row.ids[place + 16] == mug
        assert row.ids[place - 1] == clip_ids("a")[0]
    left = [i for i in row.ids[1:] if i != CLIP_END]
    assert left == clip_ids(text)
    plain = scene_row(text, kinds, ())
    assert plain.ids[word_column(plain, "mug", 1)] == mug and word_column(plain, "mug", 1) > word_column(
        plain, "mug", 0
    )


def test_prompts_of_scenes_cover_all_ways():
    drawn = [draw_prompt(["mug", "robot"], "night", np.random.default_rng((4, i))) for i in range(400)]
    regions = [p for p in drawn if p.columns]
    rows = [p for p in drawn if p.places and not p.columns]
    empty = [p for p in drawn if (p.rows[0][1:] == CLIP_END).all()]
    assert 0.4 < len(regions) / 400 < 0.6 and 0.1 < len(rows) / 400 < 0.2 and 0.06 < len(empty) / 400 < 0.14
    for prompt in regions:
        assert sorted(thing for *_, thing in prompt.columns) == [0, 1] == sorted(t for _, t in prompt.owners)
        for column, thing in prompt.owners:
            assert prompt.rows[0][column] == clip_ids(("mug", "robot")[thing])[0]


def test_a_region_is_its_box():
    box = np.array([3.0, 6.0, 9.0, 12.0])
    mask = region(box, (24, 12), soft=0.0)
    assert mask.shape == (12, 24) and mask.sum() == 36 and mask[6:12, 3:9].min() == 1
    soft = region(box, (24, 12), soft=2.0)
    assert 0 < soft[8, 2] < 1 and soft[8, 6] == 1 and soft[8, 0] == 0


@pytest.fixture(scope="module")
def pipeline():
    return SubjectPipeline.from_checkpoint("toybox")


@torch.inference_mode()
def test_attention_of_training_is_the_usual_one_where_all_is_seen(pipeline):
    x, context, t = torch.randn(2, 4, 12, 24), torch.randn(2, 77, 128), torch.tensor([3, 700])
    expected = pipeline.unet(x, t, context).sample
    usual, attention = pipeline.unet.attn_processors, RegionAttention()
    pipeline.unet.set_attn_processor(attention)
    try:
        # what is behind the prompt is seen nowhere
        owner = torch.cat([torch.zeros(2, 77, dtype=torch.int64), torch.full((2, 51), 4)], dim=1)
        attention.look(owner, torch.rand(2, 3, 12, 24))
        found = pipeline.unet(x, t, torch.cat([context, torch.randn(2, 51, 128)], dim=1)).sample
    finally:
        pipeline.unet.set_attn_processor(usual)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_training_shows_the_unet_what_the_scene_node_shows_it(comfy, pipeline):
    """Same columns, each seen in the same places."""
    call = lambda name, *inputs, **named: comfy.node(name).execute(*inputs, **named).result  # noqa: E731
    model, clip, _, encoder, _ = call("SubjectModelLoader", TOYBOX, "fp32")
    kinds, pictures = ["mug", "robot"], torch.rand(2, 64, 64, 3)
    subjects = [encoder.encode(pictures[i : i + 1], kind) for i, kind in enumerate(kinds)]
    masks = torch.zeros(2, 192, 192)
    masks[0, 16:96, 8:88] = 1
    masks[1, 100:172, 104:176] = 1
    prompt = "a {a} and a {b} on the beach"
    inputs = {"mask_a": masks[:1], "mask_b": masks[1:], "model": model, "soft_edge": 0}
    (entry, *_), _ = call("SubjectScene", clip, prompt, *subjects, **inputs)
    plain = scene_row("a mug and a robot on the beach", kinds, ())
    own = [scene_row("a mug and a robot on the beach", kinds, (i,)) for i in range(2)]
    drawn = Prompt(
        [plain.ids, own[0].ids, own[1].ids],
        [(i + 1, own[i].places[i], i) for i in range(2)],
        [(i + 1, own[i].places[i], 17, i) for i in range(2)],
        [(word_column(plain, kind, 0), i) for i, kind in enumerate(kinds)],
    )
    vectors = torch.zeros(1, 3, 16, 128)
    vectors[0, :2] = torch.cat([subject.embeddings for subject in subjects])
    context, owner = conditions(pipeline.text_encoder, [drawn], vectors)
    shown, options = entry
    used = owner[0] < 4
    assert used.sum() == 77 + 34
    assert (context[0, used] - shown[0, : used.sum()]).abs().max() < 1e-4
    attention, cells = RegionAttention(), torch.zeros(1, 3, 24, 24)
    cells[0, :2] = torch.nn.functional.avg_pool2d(masks[None], 8)[0]
    attention.look(owner, cells)
    regions = options[comfy.module("nodes.host.regions").REGIONS_KEY]
    for side in (12, 6):
        expected = regions.bias((side, side), (24, 24))[0, :, : used.sum()]
        assert torch.equal(attention._bias(side * side)[0, 0, :, used].exp(), expected.exp())


def test_two_things_that_touch_are_told_apart():
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[5:17, 5:17] = True
    mask[16:30, 16:30] = True
    first, second = two_areas(mask)
    assert first[20:28, 20:28].all() and second[6:14, 6:14].all() and not (first & second).any()
    assert (first | second).sum() == mask.sum()
    assert two_areas(torch.zeros(40, 40, dtype=torch.bool)) == []


def test_the_judge_of_scenes_finds_what_is_there_and_not_what_is_not():
    trials = make_scene_trials(12)
    pictures = np.stack([rendered_scene(trial, i).picture for i, trial in enumerate(trials)])
    named = [tuple(s.category for s in trial.subjects) for trial in trials]
    others = [tuple(CATEGORIES[(CATEGORIES.index(kind) + 4) % 12] for kind in kinds) for kinds in named]
    judges = Judge.load(), load_box_judge()
    assert kinds_found(*judges, pictures, named).mean() >= 0.9
    assert kinds_found(*judges, pictures, others).mean() <= 0.4
