"""Lists in a graph with GILL, as the host's folder loaders give them: each entry is a conversation of its own."""

import numpy as np
import pytest
from PIL import Image

from blipdiff_impl.toy_world.render import render_picture
from blipdiff_impl.toy_world.world import HELD_OUT_SEED, subject_from_seed

PLACES = {"cat": "snow", "boat": "grass"}
DRAWN = {"cat": "<image1> the same at night.", "boat": "<image1> the same in the snow."}
ANSWERED = {"boat": "<image1> what is it?"}  # in words, without a picture
FOLDERS = {"gill_list": DRAWN, "gill_cat": {"cat": DRAWN["cat"]}, "gill_boat": {"boat": DRAWN["boat"]},
           "gill_mixed": DRAWN | ANSWERED}  # fmt: skip
DECIDES = {"mode": "let it decide", "max_new_tokens": 32, "min_words": 0, "picture_bias": 1.0, "temperature": 0.0,
           "top_p": 1.0, "seed": 0, "max_pictures": 1, "reply": "full", "too_long": "refuse"}  # fmt: skip


@pytest.fixture(scope="module")
def folders(host):
    """Things in their places, each with what is asked about it in a text file of its name."""
    for name, asked in FOLDERS.items():
        folder = host.base_dir / "input" / name
        folder.mkdir()
        for kind, text in asked.items():
            subject = subject_from_seed(HELD_OUT_SEED + 8000, kind)
            picture = render_picture(subject, PLACES[kind], np.random.default_rng(0), bank=True).picture
            Image.fromarray(picture).save(folder / f"{kind}.png")
            (folder / f"{kind}.txt").write_text(text)


def talk(folder):
    """Up to the reply to each question of a folder."""
    return {
        "drawing": {"class_type": "SubjectModelLoader", "inputs": {
            "model_name": "toybox (built in, toy world only)", "weight_dtype": "default"}},
        "gill": {"class_type": "GILLLoader", "inputs": {
            "checkpoint": "toy GILL (built in, toy world only)", "language_model": "(the checkpoint's own)",
            "dtype": "default"}},
        "asked": {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": folder}},
        "turn": {"class_type": "GILLTurn", "inputs": {"text": ["asked", 1], "images.image1": ["asked", 0]}},
        "reply": {"class_type": "GILLGenerate", "inputs": {
            "gill_model": ["gill", 0], "prompt": ["turn", 0], "clip": ["drawing", 1]} | DECIDES},
        "said": {"class_type": "PreviewAny", "inputs": {"source": ["reply", 2]}},
    }  # fmt: skip


def drawn(host, folder):
    """The result, its pictures, and what was said."""
    wires = {"model": ["drawing", 0], "positive": ["reply", 0], "negative": ["reply", 1], "latent_image": ["latent", 0]}
    sampling = {"seed": 3, "steps": 4, "cfg": 2.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    result = host.run_prompt(talk(folder) | {
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 96, "batch_size": 2}},
        "sampler": {"class_type": "KSampler", "inputs": sampling | wires},
        "pixels": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["drawing", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["pixels", 0], "filename_prefix": folder}},
    })  # fmt: skip
    saved = [np.asarray(Image.open(path)) for path in result.pictures if path.name.startswith(folder)]
    return result, saved, result.outputs["said"]["text"]


def in_order(pictures):
    """Pictures in an order of their own: the host goes through a folder in that of the file system."""
    return sorted(picture.tobytes() for picture in pictures)


def test_a_list_of_questions_is_that_many_conversations(host, folders):
    """Guidance 2.5, two pictures of each."""
    together, pictures, said = drawn(host, "gill_list")
    assert together.status == "success" and not together.error
    alone = [drawn(host, name) for name in ("gill_cat", "gill_boat")]
    assert sorted(said) == sorted(text for _, _, words in alone for text in words) and len(set(said)) == 2
    assert in_order(pictures) == in_order(picture for _, saved, _ in alone for picture in saved)
    assert len(set(in_order(pictures))) == 4


def test_what_has_no_picture_in_a_list_stops_nothing_else(host, folders):
    """The entry that is answered in words is left out with a sentence; a second Run gives the same pictures."""
    _, cat, said = drawn(host, "gill_cat")
    first, *_ = runs = [drawn(host, "gill_mixed") for _ in range(2)]
    assert "no picture" in first[0].error and "force picture" in first[0].error
    for _, pictures, both in runs:
        assert in_order(pictures) == in_order(cat)
        assert set(said) < set(both) and len(both) == 2


def test_pictures_that_were_found_are_one_subject(host, folders):
    """GILL Retrieve gives a list, which Encode Subject takes as several photos of one thing."""
    result = host.run_prompt(talk("gill_cat") | {
        "index": {"class_type": "GILLIndex", "inputs": {"gill_model": ["gill", 0], "folder": "gill_list"}},
        "found": {"class_type": "GILLRetrieve", "inputs": {
            "index": ["index", 0], "embedding": ["reply", 5], "most": 2, "which": 1}},
        "names": {"class_type": "PreviewAny", "inputs": {"source": ["found", 1]}},
        "subject": {"class_type": "SubjectEncoder", "inputs": {
            "subject_encoder": ["drawing", 3], "images": ["found", 0], "category": "cat", "fit": "crop"}},
        "kept": {"class_type": "SubjectSave", "inputs": {
            "subject": ["subject", 0], "filename_prefix": "found", "full_tune": "whole", "rank": 64}},
    })  # fmt: skip
    assert result.status == "success", result.error
    assert result.outputs["names"]["text"] == ["cat.png\nboat.png"]
    assert len(result.outputs["subject"]["images"]) == 2  # what the encoder saw, photo by photo
