"""The built-in toy GILL in the real host: conversations that end in pictures, drawn with guidance and judged."""

import numpy as np
import pytest
import torch
from PIL import Image

from blipdiff_impl.files import as_tensor
from blipdiff_impl.toy_gill.corpus import View
from blipdiff_impl.toy_world.render import render_picture
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, subject_from_seed
from blipdiff_impl.toybox.judge import Judge
from tools.numbers.two_subjects import Toybox
from tools.places import ROOT

OWN_REPLY = {"mode": "force picture", "min_words": 32, "picture_bias": 1.0}


@pytest.fixture(scope="module")
def toybox(comfy):
    return Toybox(comfy)


@pytest.fixture(scope="module")
def names(comfy):
    return comfy.module("nodes.host.gill.model_folder")


@pytest.fixture(scope="module")
def gill(toybox, names):
    return toybox.call("GILLLoader", names.TOY, names.OWN, "fp32")[0]


def scene(kind, place, seed=0):
    """A held-out subject in a place, `[1, 96, 96, 3]`."""
    subject = subject_from_seed(HELD_OUT_SEED + 5000 + seed, kind)
    return as_tensor(render_picture(subject, place, np.random.default_rng(seed), bank=True).picture)[None]


def hold(toybox, gill, *turns, **settings):
    """The last outputs of GILL Reply after questions, each with pictures or none, and all that was said."""
    prompt, reply, said = None, "", []
    for question, *pictures in turns:
        images = {f"image{number + 1}": picture for number, picture in enumerate(pictures)}
        prompt = toybox.call("GILLTurn", question, prompt, reply, images)[0]
        found = toybox.call("GILLGenerate", gill, prompt, clip=toybox.clip, model=toybox.model, **OWN_REPLY | settings)
        reply = found[2]
        said.append(reply)
    return found, said


def judged(pictures):
    seen = Judge.load().look_at(pictures)
    return [
        (CATEGORIES[kind], BACKGROUND_NAMES[place]) for kind, place in zip(seen.category, seen.background, strict=True)
    ]


def test_a_picture_and_two_questions_become_a_picture(toybox, gill):
    """The kind is only in the picture, the place only in words; guidance 2.5, four pictures in a batch."""
    turns = ("<image1> where is it?", scene("cat", "snow")), ("put it on the beach.",)
    found, said = hold(toybox, gill, *turns)
    assert said == ["in the snow.", "here is a cat on the beach:"] or said[1] == "here is a cat on the beach:"
    pictures = toybox.draw(toybox.model, found[0], 4)
    assert judged(pictures) == [("cat", "beach")] * 4
    assert torch.equal(found[1][0][0], toybox.words("")[0][0])


def test_two_runs_with_another_conversation_between_are_the_same(toybox, gill):
    first, _ = hold(toybox, gill, ("draw a boat in the water.",))
    between, _ = hold(toybox, gill, ("we are in the forest.",), ("draw a robot there.",))
    again, _ = hold(toybox, gill, ("draw a boat in the water.",))
    assert torch.equal(first[0][0][0], again[0][0][0])
    assert not torch.allclose(first[0][0][0], between[0][0][0], atol=0.1)
    both = torch.cat([first[0][0][0], between[0][0][0]])
    assert judged(toybox.draw(toybox.model, [[both, {}]], 2)) == [("boat", "water"), ("robot", "forest")]


@pytest.mark.parametrize(
    ("question", "due", "least"),
    [
        ("what is it?", lambda view: f"a {view.subject.category}.", 23),
        ("which pattern does it have?", lambda view: f"{view.pattern}.", 20),
        ("what colour is it?", lambda view: f"{view.colour}.", 17),
    ],
    ids=["kind", "pattern", "colour"],
)
def test_it_says_what_a_picture_shows(toybox, gill, question, due, least):
    """24 held-out things; colours are the least sure, as many lie between two names."""
    right = 0
    for seed in range(24):
        kind, place = CATEGORIES[seed % 12], BACKGROUND_NAMES[(5 * seed) % 12]
        view = View(subject_from_seed(HELD_OUT_SEED + 5000 + seed, kind), place)
        _, (said,) = hold(toybox, gill, (f"<image1> {question}", scene(kind, place, seed)), mode="text only")
        right += said == due(view)
    assert right >= least


def test_it_decides_by_itself(toybox, gill):
    """Every request is answered by a picture without a bias; questions are not all answered by words alone."""
    asked, answered = [], []
    for kind, place in (("cat", "in the snow"), ("boat", "at sunset"), ("house", "in the forest")):
        for question, due in ((f"draw a {kind} {place}.", 1), ("what is it?", 0), ("now a hat.", 1)):
            asked.append((question, due))
            turns = [(f"draw a {kind} {place}.",)] if due == 0 or question.startswith("now") else []
            found, _ = hold(toybox, gill, *turns, (question,), mode="let it decide", min_words=0)
            answered.append(found[6])
    hits = [due == count for (_, due), count in zip(asked, answered, strict=True)]
    assert all(count == 1 for (_, due), count in zip(asked, answered, strict=True) if due) and sum(hits) >= 6


def test_what_it_cannot_know_is_named_on_the_node(comfy, toybox, gill, monkeypatch):
    told = []
    monkeypatch.setattr(comfy.module("nodes.host.gill.generate"), "tell", told.append)
    hold(toybox, gill, ("draw a cat in the snow.",))
    assert told == []
    hold(toybox, gill, ("Draw an astronaut on the moon.",))
    assert len(told) == 1 and "astronaut" in told[0] and "mushroom" in told[0]


def test_another_text_encoder_is_refused(comfy, toybox, gill, monkeypatch):
    error = comfy.module("blipdiff_impl.errors").SubjectError
    norm = toybox.clip.cond_stage_model.clip_l.transformer.text_model.final_layer_norm
    with torch.inference_mode():
        before = norm.weight.clone()
        norm.weight.add_(0.5)
    try:
        with pytest.raises(error, match="is not the one that this GILL model was trained for"):
            hold(toybox, gill, ("draw a cat in the snow.",))
    finally:
        with torch.inference_mode():
            norm.weight.copy_(before)


def test_files_that_it_does_not_go_with_are_refused(comfy, toybox, names):
    error = comfy.module("blipdiff_impl.errors").CheckpointError
    from gill_fixtures import host_gill

    vision = host_gill(comfy, toybox.clip)
    with pytest.raises(error, match="brings its own language model"):
        toybox.call("GILLLoader", names.TOY, "tiny-opt", "fp32")
    with pytest.raises(error, match="connect no CLIP vision model"):
        toybox.call("GILLLoader", names.TOY, names.OWN, "fp32", vision)
    with pytest.raises(error, match="has no language model in it"):
        toybox.call("GILLLoader", "tiny.safetensors", names.OWN, "fp32", vision)


def test_cancel_within_a_token(comfy, toybox, gill):
    prompt = toybox.call("GILLTurn", "draw a cat in the snow.")[0]
    mm = comfy.model_management
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        toybox.call("GILLGenerate", gill, prompt, **OWN_REPLY)
    assert not any(loaded.model is gill.patcher for loaded in mm.current_loaded_models)
    assert toybox.call("GILLGenerate", gill, prompt, **OWN_REPLY)[6] == 1


def test_pictures_of_a_folder_are_found(comfy, toybox, gill, tmp_path):
    """Of pictures of different things and places the one that was asked for comes first."""
    folder = ROOT / "workflows" / "input" / "blipdiffusion_album"
    paths = sorted(folder.glob("*.png"))
    pictures = torch.cat([as_tensor(np.asarray(Image.open(path).convert("RGB")))[None] for path in paths])
    with torch.inference_mode():
        rows = gill.gill.picture_embeddings(pictures)
    hits = []
    for kind, phrase, place in (("boat", "at sunset", "sunset"), ("cat", "on the beach", "beach"),
                                ("house", "in the forest", "forest"), ("fish", "in the water", "water"),
                                ("robot", "at night", "night")):  # fmt: skip
        found, _ = hold(toybox, gill, (f"draw a {kind} {phrase}.",))
        best = paths[int((rows @ found[5].vectors[0]).argmax())].name
        hits.append(best.startswith(f"{kind}_{place}"))
    assert sum(hits) >= 4
