"""What lies outside of the embedded model's world is said, in the log and on the node, and drawn all the same."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hostile_prompts import TOYBOX, Executor
from PIL import Image

from tools.places import ROOT

LOADER = {"class_type": "SubjectModelLoader", "inputs": {"model_name": TOYBOX, "weight_dtype": "fp32"}}


@pytest.fixture(scope="module")
def said():
    """(node, sentence) of every text that was sent to a node."""
    return []


@pytest.fixture(scope="module")
def executor(comfy, said):
    """The host's executor, with the pack's nodes, and a listener where the browser would be."""
    import execution
    import server

    listener = SimpleNamespace(
        send_progress_text=lambda text, node: said.append((node, text)), client_id=None, send_sync=lambda *_: None
    )
    with pytest.MonkeyPatch.context() as patch:
        for node in comfy.pack.NODES:
            patch.setitem(comfy.nodes.NODE_CLASS_MAPPINGS, node.define_schema().node_id, node)
        patch.setattr(server.PromptServer, "instance", listener, raising=False)
        yield Executor(execution)


@pytest.fixture
def logged(caplog):
    """What the log holds, line by line."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def run(executor, said):
    def run_prompt(prompt):
        said.clear()
        assert executor.run(prompt) == []
        return list(said)

    return run_prompt


def sampling(width, height, seed, steps=2):
    """One picture of this size by the loader's MODEL."""
    sampler = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    wires = {"model": ["loader", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0]}
    return {
        "loader": LOADER,
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": "a mug on the beach"}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": height, "batch_size": 1}},
        "sampler": {"class_type": "KSampler", "inputs": sampler | wires},
        "out": {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "notice"}},
    }


def test_a_size_that_the_model_never_saw_is_told_once_with_those_that_work(run, logged):
    (told,) = run(sampling(256, 160, seed=1))
    node, sentence = told
    assert node == "sampler" and "256x160" in sentence and "96x96" in sentence
    assert logged().count(sentence) == 1
    # the node shows it in every run, the log has it
    assert run(sampling(256, 160, seed=2)) == [told]
    assert logged().count(sentence) == 1


@pytest.mark.parametrize("size", [(96, 96), (192, 96), (192, 192)])
def test_sizes_of_the_example_workflows_are_not_told(run, logged, size):
    assert run(sampling(*size, seed=3)) == []
    assert not [line for line in logged() if "pixels" in line]


def encoding(picture, category):
    """The picture through the encoder's node, whose second output is kept so that it runs."""
    inputs = {"subject_encoder": ["loader", 3], "images": ["picture", 0], "category": category, "fit": "crop"}
    return {
        "loader": LOADER,
        "picture": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "encoder": {"class_type": "SubjectEncoder", "inputs": inputs},
        "out": {"class_type": "PreviewImage", "inputs": {"images": ["encoder", 1]}},
    }


@pytest.fixture
def stored(comfy):
    """Store a picture, uint8 [H, W, 3], among the host's inputs; returns its name there."""

    def store(name, pixels):
        Image.fromarray(pixels).save(f"{comfy.folder_paths.get_input_directory()}/{name}")
        return name

    return store


def photograph():
    """What a camera gives: everything shaded, nothing flat."""
    y, x = np.mgrid[0:128, 0:128] / 128
    shade = 0.5 + 0.3 * np.sin(7 * x + 3 * y) * np.cos(5 * y)
    grain = np.random.default_rng(1).normal(0, 0.06, (128, 128, 3))
    return (np.clip(shade[..., None] * [1.0, 0.8, 0.6] + grain, 0, 1) * 255).astype(np.uint8)


def test_a_category_outside_of_the_toy_world_is_told_on_the_encoder(run, logged, stored):
    mug = np.asarray(Image.open(ROOT / "workflows" / "input" / "blipdiffusion_mug.png").convert("RGB"))
    ((node, sentence),) = run(encoding(stored("notice_mug.png", mug), "dog"))
    assert node == "encoder" and "'dog'" in sentence and "twelve" in sentence and "photograph" not in sentence
    assert logged().count(sentence) == 1


def test_a_photograph_is_told_on_the_encoder(run, logged, stored):
    ((node, sentence),) = run(encoding(stored("notice_photo.png", photograph()), "mug"))
    assert node == "encoder" and "photograph" in sentence and "'mug'" not in sentence
    assert logged().count(sentence) == 1


def test_every_example_picture_is_of_the_toy_world(run, logged, stored):
    for path in sorted((ROOT / "workflows" / "input").glob("*.png")):
        kind = next(k for k in ("mug", "house", "robot", "cat") if k in path.stem)
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert run(encoding(stored(path.name, pixels), kind)) == [], path.name
    assert not [line for line in logged() if "twelve" in line]


def test_other_models_say_nothing(comfy, tmp_path, logged):

    from tiny_model import write_tiny_checkpoint

    path = tmp_path / "tiny.safetensors"
    write_tiny_checkpoint(path, seed=3)
    with torch.inference_mode():
        source = comfy.module("nodes.host.blip_diffusion.sources").Source(str(path))
        loaded = comfy.module("nodes.host.blip_diffusion.loader").load_model(source, "fp32")
        loaded.encoder.encode(torch.rand(1, 64, 64, 3), "dog")
    assert not loaded.model.wrappers
    assert not [line for line in logged() if "twelve" in line]
