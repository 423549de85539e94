"""Fine-tuning through real servers: what it learned draws the same picture after saving and a restart of the host."""

import re

import numpy as np
import pytest
from PIL import Image
from tiny_model import write_tiny_checkpoint

from tools.client import Client
from tools.host import running_host

MODEL = "finetune_server.safetensors"
# The tuned weights are stored in 16 bit: about 1e-3 of a change that itself is small; one step of the 255 of a picture.
ROUNDING = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune_server")
    (folder / "models" / "blipdiffusion").mkdir(parents=True)
    (folder / "input").mkdir()
    write_tiny_checkpoint(folder / "models" / "blipdiffusion" / MODEL, seed=81)
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "input" / "finetune.png")
    return folder


def drawing(model, subject, prefix):
    """Nodes that draw a subject with a model."""
    return {
        "prompt": ("SubjectPromptInfix", {
            "clip": ["loader", 1], "subject": subject, "prompt": "on a beach", "category": "", "template": "released",
            "prompt_strength": 1.0, "prompt_reps": 20, "subject_strength": 1.0,
        }),
        "negative": ("CLIPTextEncode", {"clip": ["loader", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "sample": ("KSampler", {
            "model": model, "seed": 3, "steps": 5, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal",
            "positive": ["prompt", 0], "negative": ["negative", 0], "latent_image": ["latent", 0], "denoise": 1.0,
        }),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["loader", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": prefix}),
    }  # fmt: skip


LOADER = {"loader": ("SubjectModelLoader", {"model_name": MODEL, "weight_dtype": "fp32"})}


def finetuning(method, **changes):
    """Nodes from a photo to a tuned MODEL and SUBJECT."""
    inputs = {
        "model": ["loader", 0], "clip": ["loader", 1], "vae": ["loader", 2], "subject": ["encoder", 0],
        "images": ["photo", 0], "method": method, "steps": 3, "learning_rate": 1e-3, "batch_size": 1, "rank": 4,
        "seed": 0, "resolution": 64, "preview_every": 0,
    }  # fmt: skip
    encoder = {"subject_encoder": ["loader", 3], "images": ["photo", 0], "category": "dog", "fit": "crop"}
    return LOADER | {
        "photo": ("LoadImage", {"image": "finetune.png"}),
        "encoder": ("SubjectEncoder", encoder),
        "tune": ("SubjectFinetune", inputs | changes),
    }


def run(client, nodes):
    return client.run_prompt({name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()})


def picture(client, nodes):
    result = run(client, nodes)
    assert (result.status, result.error) == ("success", "")
    (path,) = [path for path in result.pictures if path.parent.name == "output"]
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def saving(method):
    return ("SubjectSave", {
        "subject": ["tune", 1], "model": ["tune", 0], "filename_prefix": f"tuned_{method}",
        "full_tune": "whole", "rank": 8,
    })  # fmt: skip


def test_a_tuned_subject_outlives_the_host(base):
    methods, before = ("full", "lora"), {}
    with running_host(base) as server:
        client = Client(server)
        untuned = picture(client, finetuning("full") | drawing(["loader", 0], ["encoder", 0], "untuned"))
        for method in methods:
            nodes = finetuning(method) | drawing(["tune", 0], ["tune", 1], method) | {"keep": saving(method)}
            before[method] = picture(client, nodes)
            assert np.abs(before[method] - untuned).mean() > 2 * ROUNDING, "tuning changed nothing that one could see"
        assert re.search(r"Fine-tuning \(lora, 3 steps\) in .*; no gradient checkpointing", server.log())
    with running_host(base) as server:
        client = Client(server)
        for method in methods:
            (name,) = (path.name for path in (base / "output" / "subjects").glob(f"tuned_{method}*.safetensors"))
            load = {"load": ("SubjectLoad", {"subject_name": name, "model": ["loader", 0]})}
            found = picture(client, LOADER | load | drawing(["load", 0], ["load", 1], f"{method}_again"))
            assert np.abs(found - before[method]).max() <= ROUNDING
        refused = run(client, finetuning("full", steps=0) | drawing(["tune", 0], ["tune", 1], "no"))
        assert "steps" in refused.error
        bad = run(client, finetuning("full", learning_rate=float("nan")) | drawing(["tune", 0], ["tune", 1], "no"))
        assert "learning_rate = nan" in bad.error
