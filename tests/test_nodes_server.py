"""The nodes through the real server: what an artist reads when something is wrong, and that the next prompt runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import CONFIG, WIDTH, write_tiny_checkpoint

TOYBOX = "toybox (built in, toy world only)"


@pytest.fixture(scope="module")
def models(host):
    """The model folder of the running host, with a tiny checkpoint in it."""
    folder = Path(host.base_dir) / "models" / "blipdiffusion"
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_checkpoint(folder / "server_tiny.safetensors", seed=31)
    return folder


@pytest.fixture(scope="module")
def photo(host):
    """Name of a photo in the host's input folder."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8))
    picture.save(Path(host.base_dir) / "input" / "server.png")
    return "server.png"


def graph(photo, model="server_tiny.safetensors", **changes):
    """API prompt from a photo to a saved picture; `changes` are `node__input=value`."""
    prompt = {
        "loader": ("SubjectModelLoader", {"model_name": model, "weight_dtype": "default"}),
        "photo": ("LoadImage", {"image": photo}),
        "encoder": (
            "SubjectEncoder",
            {"subject_encoder": ["loader", 3], "images": ["photo", 0], "category": "dog", "fit": "crop"},
        ),
        "prompt": (
            "SubjectPromptInfix",
            {
                "clip": ["loader", 1], "subject": ["encoder", 0], "prompt": "on a beach", "category": "",
                "template": "released", "prompt_strength": 1.0, "prompt_reps": 20, "subject_strength": 1.0,
            },
        ),
        "negative": ("CLIPTextEncode", {"clip": ["loader", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "schedule": ("SubjectSchedulePNDM", {"model": ["loader", 0], "steps": 4, "denoise": 1.0}),
        "sampler": ("SubjectSamplerPNDM", {}),
        "sample": (
            "SamplerCustom",
            {
                "model": ["loader", 0], "add_noise": True, "noise_seed": 1, "cfg": 4.0, "positive": ["prompt", 0],
                "negative": ["negative", 0], "sampler": ["sampler", 0], "sigmas": ["schedule", 0],
                "latent_image": ["latent", 0],
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["loader", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "nodes_server"}),
    }  # fmt: skip
    prompt = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in prompt.items()}
    for change, value in changes.items():
        node, _, name = change.partition("__")
        prompt[node]["inputs"][name] = value
    return prompt


def require_picture(host, photo):
    """A prompt without fault runs to its picture."""
    result = host.run_prompt(graph(photo))
    assert (result.status, result.error) == ("success", "")
    saved = [path for path in result.pictures if path.parent.name == "output"]
    with Image.open(saved[0]) as picture:
        assert picture.size == (64, 64)
    return result


def test_photo_to_picture(host, models, photo):
    result = require_picture(host, photo)
    assert result.outputs["encoder"]["images"][0]["type"] == "temp"  # the node shows what the encoder saw


def test_a_subject_is_encoded_once(host, models, photo):
    """A second prompt with another text takes the subject from the host's cache: its node is not run again."""
    require_picture(host, photo)
    ran = []
    host.run_prompt(graph(photo, prompt__prompt="in the snow"), on_progress=lambda node, done, total: ran.append(node))
    assert "sample" in ran and "encoder" not in ran and "loader" not in ran


def add_image(prompt, name, size):
    """A plain picture of another size as a node."""
    inputs = {"width": size[0], "height": size[1], "batch_size": 1, "color": 0}
    prompt[name] = {"class_type": "EmptyImage", "inputs": inputs}


def bad_graphs(photo):
    """What is wrong -> (prompt, the sentence)."""
    tall, dot = graph(photo, encoder__images=["picture", 0]), graph(photo, encoder__images=["picture", 0])
    add_image(tall, "picture", (64, 10_000))
    add_image(dot, "picture", (1, 1))
    many = graph(photo, encoder__images=["many", 0])
    many["many"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["photo", 0], "amount": 200}}
    masked = graph(photo, encoder__masks=["mask", 0])
    masked["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 48}}
    other = graph(photo, prompt__clip=["toybox", 1])
    other["toybox"] = {"class_type": "SubjectModelLoader", "inputs": {"model_name": TOYBOX, "weight_dtype": "default"}}
    return {
        "empty category": (graph(photo, encoder__category=" "), "category is empty"),
        "200 photos": (many, "200 photos"),
        "10,000 pixels": (tall, "64x10000"),
        "1 pixel": (dot, "1x1"),
        "mask of another size": (masked, "32x48.*96x80"),
        "clip of another width": (other, f"width {WIDTH}, but this CLIP has width"),
        "truncated checkpoint": (graph(photo, "server_cut.safetensors"), "server_cut.safetensors"),
        "another model's file": (graph(photo, "server_lora.safetensors"), "server_lora.safetensors"),
        "no such checkpoint": (graph(photo, "nowhere.safetensors"), "no checkpoint 'nowhere.safetensors'.*server_tiny"),
        "fine-tuned file alone": (graph(photo, "server_tuned.pth"), "base_model"),
    }


@pytest.fixture(scope="module")
def bad_files(models):
    from checkpoint_fixtures import fine_tuned_state
    from safetensors.torch import save_file
    from tiny_model import random_parts

    whole = (models / "server_tiny.safetensors").read_bytes()
    (models / "server_cut.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"lora_unet_down.weight": torch.zeros(4, 4)}, models / "server_lora.safetensors")
    vectors = torch.randn(1, CONFIG.qformer.num_query_tokens, WIDTH)
    torch.save(fine_tuned_state({"unet": random_parts()["unet"]}, vectors), models / "server_tuned.pth")
    return vectors


@pytest.mark.parametrize("fault", list(bad_graphs("photo.png")))
def test_bad_input_ends_in_a_sentence_and_the_next_prompt_runs(host, models, bad_files, photo, fault):
    prompt, sentence = bad_graphs(photo)[fault]
    result = host.run_prompt(prompt)
    assert result.status in ("error", "rejected")
    assert re.search(sentence, result.error, re.DOTALL), result.error
    assert "Traceback" not in result.error and "\n  File" not in result.error
    require_picture(host, photo)


def test_the_subject_of_a_fine_tuned_file_needs_no_photo(host, models, bad_files, photo):
    prompt = graph(photo, "server_tuned.pth", loader__base_model="server_tiny.safetensors",
                   prompt__subject=["loader", 4], prompt__category="dog")  # fmt: skip
    del prompt["photo"], prompt["encoder"]
    result = host.run_prompt(prompt)
    assert (result.status, result.error) == ("success", "") and result.pictures


def test_the_empty_subject_output_skips_what_is_behind_it_with_a_sentence(host, models, photo):
    prompt = graph(photo, prompt__subject=["loader", 4])
    result = host.run_prompt(prompt)
    assert "server_tiny.safetensors" in result.error and "Subject Encoder" in result.error
    assert not result.pictures
    require_picture(host, photo)


def test_node_help_is_served(host):
    import json
    import urllib.request

    extensions = json.load(urllib.request.urlopen(f"{host.url}/workflow_templates"))
    (folder,) = [name for name, names in extensions.items() if "zero_shot" in names]
    page = urllib.request.urlopen(f"{host.url}/extensions/{folder}/docs/SubjectEncoder.md").read().decode()
    assert page.startswith("# Subject Encoder")


def test_the_host_reports_that_the_pack_was_imported(host):
    (line,) = [line for line in host.log().splitlines() if re.search(r"seconds.*blip-diffusion-subjects", line)]
    assert "IMPORT FAILED" not in line
