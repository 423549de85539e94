"""Folders of tiny DINO and CLIP models with random weights, as transformers stores them, and a toy benchmark."""

import json

import numpy as np
import torch
from PIL import Image

from blipdiff_impl.toy_world.render import render_picture, render_reference
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, subject_from_seed

SIDE, PATCH, WIDTH = 32, 8, 24
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}


def write_judges(folder):
    """`dino/` and `clip/` in the folder; returns both models."""
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    torch.manual_seed(5)
    dino = ViTModel(ViTConfig(image_size=SIDE, patch_size=PATCH, **SMALL), add_pooling_layer=False)
    vision = {"image_size": SIDE, "patch_size": PATCH, **SMALL}
    text = {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407, "bos_token_id": 49406, **SMALL}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=WIDTH))
    for model, name in ((dino, "dino"), (clip, "clip")):
        for parameter in model.parameters():  # the initial weights hardly tell pictures apart
            torch.nn.init.normal_(parameter, std=0.3)
        model.eval().save_pretrained(folder / name)
    return dino, clip


def write_benchmark(folder, subjects=2, photos=2):
    """Toy subjects with photos, and a listing with two prompts; returns their names."""
    entries = {}
    for number in range(subjects):
        subject, name = subject_from_seed(900 + number), f"toy_{number}"
        entries[name] = {"category": subject.category, "prompts": "object"}
        (folder / name).mkdir(parents=True)
        for photo in range(photos):
            rng = np.random.default_rng((number, photo))
            Image.fromarray(render_reference(subject, rng).picture).save(folder / name / f"{photo:02d}.png")
    listing = {"prompts": {"object": ["a {} in the snow", "a red {}"]}, "subjects": entries}
    (folder / "benchmark.json").write_text(json.dumps(listing))
    return list(entries)


def write_pictures(folder, names, prompts=2, images=2):
    """Renders named as a run of pictures."""
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        subject = subject_from_seed(900 + index)
        for number in range(prompts):
            for image in range(images):
                rng = np.random.default_rng((index, number, image, 7))
                drawn = render_picture(subject, BACKGROUND_NAMES[number], rng).picture
                Image.fromarray(drawn).save(folder / name / f"{number:02d}_{image}.png")
