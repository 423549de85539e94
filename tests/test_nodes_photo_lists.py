"""Photos as a list, as the host's own folder loader gives them: several photos of one subject, whatever their sizes."""

import numpy as np
import pytest
from PIL import Image

from blipdiff_impl.blip_diffusion.subject_file import read_subject

SIZES = [(96, 64), (64, 64), (60, 120)]


@pytest.fixture(scope="module")
def folder(host):
    """Photos of three sizes in a folder of the host's inputs, and masks for them in another one."""
    for name in ("list_photos", "list_masks", "list_one_size"):
        (host.base_dir / "input" / name).mkdir()
    for number, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(host.base_dir / "input" / "list_photos" / f"{number}.png")
        Image.fromarray(pixels).resize((64, 64)).save(host.base_dir / "input" / "list_one_size" / f"{number}.png")
        mask = np.zeros((height, width, 3), np.uint8)
        mask[height // 4 : -height // 4, width // 4 : -width // 4] = 255
        Image.fromarray(mask).save(host.base_dir / "input" / "list_masks" / f"{number}.png")
    return "list_photos"


def model():
    return {"class_type": "SubjectModelLoader", "inputs": {
        "model_name": "toybox (built in, toy world only)", "weight_dtype": "default"}}  # fmt: skip


def from_folder(name):
    return {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": name}}


def encoder(**more):
    inputs = {"subject_encoder": ["model", 3], "images": ["photos", 0], "category": "dog", "fit": "crop"}
    return {"class_type": "SubjectEncoder", "inputs": inputs | more}


def save(prefix):
    return {"class_type": "SubjectSave", "inputs": {
        "subject": ["subject", 0], "filename_prefix": prefix, "full_tune": "whole", "rank": 64}}  # fmt: skip


def mask_list():
    return {"masks": {"class_type": "ImageToMask", "inputs": {"image": ["mask_photos", 0], "channel": "red"}},
            "mask_photos": from_folder("list_masks")}  # fmt: skip


def saved(host, prefix):
    return [read_subject(path) for path in sorted((host.base_dir / "output" / "subjects").glob(f"{prefix}*"))]


def test_a_list_of_photos_of_any_size_is_one_subject(host, folder):
    graph = {"model": model(), "photos": from_folder(folder), "subject": encoder(), "save": save("list_one")}
    result = host.run_prompt(graph)
    assert result.status == "success", result.error
    assert len(result.outputs["subject"]["images"]) == 3  # what the encoder saw, photo by photo
    (one,) = saved(host, "list_one")
    assert one.subject.source.startswith("3 photos")


def test_a_list_is_the_batch_of_the_same_photos(host, folder):
    photos = [f"photo{number}" for number in range(3)]
    loaded = {
        name: {"class_type": "LoadImage", "inputs": {"image": f"list_one_size/{number}.png"}}
        for number, name in enumerate(photos)
    }
    batch = {
        "class_type": "BatchImagesNode",
        "inputs": {f"images.image{i}": [name, 0] for i, name in enumerate(photos)},
    }
    in_list = {"model": model(), "photos": from_folder("list_one_size"), "subject": encoder(), "save": save("list_a")}
    as_batch = {"model": model(), **loaded, "photos": batch, "subject": encoder(), "save": save("list_b")}
    for graph in (in_list, as_batch):
        result = host.run_prompt(graph)
        assert result.status == "success", result.error
    (a,), (b,) = saved(host, "list_a"), saved(host, "list_b")
    assert (a.subject.embeddings - b.subject.embeddings).abs().max() < 1e-5


def test_masks_come_as_a_list_too(host, folder):
    graph = {"model": model(), "photos": from_folder(folder), **mask_list(),
             "subject": encoder(masks=["masks", 0]), "save": save("list_masked")}  # fmt: skip
    result = host.run_prompt(graph)
    assert result.status == "success", result.error
    (masked,) = saved(host, "list_masked")
    plain = {**graph, "subject": encoder(), "save": save("list_unmasked")}
    host.run_prompt(plain)
    (unmasked,) = saved(host, "list_unmasked")
    assert (masked.subject.embeddings - unmasked.subject.embeddings).abs().max() > 1e-3


def test_one_mask_of_one_photos_size_does_not_fit_the_others(host, folder):
    mask = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 96, "height": 64}}
    graph = {"model": model(), "photos": from_folder(folder), "mask": mask, "subject": encoder(masks=["mask", 0]),
             "save": save("list_never")}  # fmt: skip
    result = host.run_prompt(graph)
    assert result.failed_node == "SubjectEncoder" and "of 3: The mask is 96x64" in result.error


def test_one_training_learns_the_whole_list(host, folder):
    tuning = {"class_type": "SubjectFinetune", "inputs": {
        "model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2], "subject": ["one", 0],
        "images": ["photos", 0], "masks": ["masks", 0], "method": "lora", "steps": 2, "learning_rate": 1e-4,
        "batch_size": 3, "rank": 2, "seed": 0, "preview_every": 0, "background_weight": 0.5}}  # fmt: skip
    graph = {"model": model(), "photos": from_folder(folder), **mask_list(), "one": encoder(),
             "subject": tuning, "save": save("list_tuned")}  # fmt: skip
    graph["save"]["inputs"] |= {"subject": ["subject", 1], "model": ["subject", 0]}
    result = host.run_prompt(graph)
    assert result.status == "success", result.error
    assert len(result.outputs["subject"]["images"]) == 1  # one curve
    (tuned,) = saved(host, "list_tuned")
    assert tuned.tuned.steps == 2 and tuned.subject.source.startswith("3 photos")


def test_a_list_of_photos_is_cut_out_each_in_its_size(host, folder):
    matte = {"class_type": "SubjectMatte", "inputs": {
        "images": ["photos", 0], "category": "", "segmenter": "(none: connect a mask)", "foreground_threshold": 0.576,
        "background_threshold": 0.1, "ground": "neutral", "masks": ["masks", 0]}}  # fmt: skip
    graph = {"model": model(), "photos": from_folder(folder), **mask_list(), "cut": matte,
             "subject": encoder(images=["cut", 0], masks=["cut", 1]), "save": save("list_cut")}  # fmt: skip
    result = host.run_prompt(graph)
    assert result.status == "success", result.error
    shown = [host.base_dir / "temp" / one["filename"] for one in result.outputs["cut"]["images"]]
    assert sorted(Image.open(path).size for path in shown) == sorted(SIZES)
    (one,) = saved(host, "list_cut")
    assert one.subject.source.startswith("3 photos")


def test_several_values_on_another_input_give_several_subjects(host, folder):
    """As ever: a list of subjects, one for each category; each is of all photos."""
    words = {"class_type": "CreateList", "inputs": {"inputs.input0": ["dog", 0], "inputs.input1": ["cat", 0]}}
    text = {name: {"class_type": "PrimitiveString", "inputs": {"value": name}} for name in ("dog", "cat")}
    graph = {"model": model(), "photos": from_folder(folder), **text, "words": words,
             "subject": encoder(category=["words", 0]), "save": save("list_two")}  # fmt: skip
    result = host.run_prompt(graph)
    assert result.status == "success", result.error
    subjects = [one.subject for one in saved(host, "list_two")]
    assert sorted(subject.category for subject in subjects) == ["cat", "dog"]
    assert all(subject.source.startswith("3 photos") for subject in subjects)
