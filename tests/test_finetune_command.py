"""`python -m blipdiff_impl finetune`, run as a user would: photos of mixed sizes in, one file out."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_model import CONFIG, WIDTH, write_tiny_checkpoint

from blipdiff_impl.blip_diffusion.finetuning import command
from blipdiff_impl.blip_diffusion.finetuning.tuner import Learned
from blipdiff_impl.blip_diffusion.subject_file import read_subject
from blipdiff_impl.stable_diffusion.base_fingerprint import base_fingerprint
from blipdiff_impl.training.lora import Factors


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "tiny.safetensors"
    return path, write_tiny_checkpoint(path, seed=61)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, size in enumerate([(64, 64), (90, 70), (70, 120)]):
        pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{index}.{'jpg' if index else 'PNG'}")
    return folder


@pytest.fixture
def run(checkpoint, photos, tmp_path):
    def run(*arguments, out="my_dog.safetensors"):
        import argparse

        parser = argparse.ArgumentParser()
        command.add_commands(parser.add_subparsers())
        fixed = ["finetune", "--images", str(photos), "--category", "dog", "--out", str(tmp_path / out)]
        fixed += ["--checkpoint", str(checkpoint[0]), "--steps", "2", "--learning-rate", "1e-4"]
        options = parser.parse_args([*fixed, *arguments])
        options.run(options)
        return tmp_path / out

    return run


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_folder_of_photos_becomes_one_file(run, checkpoint, method):
    saved = read_subject(run("--method", method, "--rank", "2"))
    assert saved.subject.category == "dog" and saved.subject.embeddings.shape == (1, 16, WIDTH)
    assert (saved.tuned.steps, saved.tuned.method) == (2, method)
    assert saved.tuned.base_fingerprint == base_fingerprint(checkpoint[1]["unet"])
    kinds = {name.partition(".")[2] for name in saved.tuned.tensors}
    assert kinds == ({"diff", "diff_b"} if method == "full" else {"lora_up.weight", "lora_down.weight", "alpha"})
    if method == "full":
        assert len(saved.tuned.tensors) == len(checkpoint[1]["unet"])
    assert any(tensor.abs().max() > 0 for tensor in saved.tuned.tensors.values())


def test_vectors_alone_become_an_embedding(run):
    """A small file with one tensor, as textual inversion has it."""
    path = run("--method", "vectors")
    saved = read_subject(path)
    assert saved.tuned is None and "2 steps of vectors" in saved.subject.source
    assert list(load_file(path)) == ["clip_l"] and path.stat().st_size < 16 * WIDTH * 4 + 2000


def test_a_full_tune_can_be_stored_at_low_rank(run):
    tensors = read_subject(run("--save-rank", "2")).tuned.tensors
    whole = read_subject(run(out="whole.safetensors")).tuned.tensors
    assert sum(tensor.numel() for tensor in tensors.values()) < 0.3 * sum(tensor.numel() for tensor in whole.values())
    name = max(whole, key=lambda name: whole[name].numel()).removesuffix(".diff")
    up, down = (tensors[f"{name}.lora_{part}.weight"].float().flatten(1) for part in ("up", "down"))
    change = whole[f"{name}.diff"].float().flatten(1)
    best = torch.linalg.svdvals(change)[2:].norm()  # Eckart and Young: what any product of rank 2 leaves at least
    assert best * 0.99 <= (up @ down - change).norm() <= best * 1.1


def test_masks_flips_means_and_class_pictures_are_taken(run, photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for photo in photos.iterdir():
        with Image.open(photo) as picture:
            Image.new("L", picture.size, 255).save(masks / f"{photo.stem}.png")
    options = ["--masks", str(masks), "--background-weight", "0.2", "--flip", "--ema-decay", "0.9"]
    assert read_subject(run(*options, "--class-images", str(photos), "--seed", "3")).tuned.steps == 2


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--images", "nowhere"], "no photo.*nowhere"),
        (["--steps", "0"], "steps = 0"),
        (["--learning-rate", "nan"], "learning_rate = nan"),
        (["--resolution", "30"], "resolution = 30"),
        (["--masks", "nowhere"], "no mask in nowhere for photo0, photo1, photo2"),
        (["--category", " "], "category is empty"),
        (["--out", "subject.ckpt"], "should end in .safetensors"),
    ],
)
def test_bad_arguments_end_in_a_sentence(run, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(*arguments)


def test_a_damaged_photo_is_named(run, photos):
    (photos / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        run()


def test_a_file_that_exists_is_kept_and_told_before_training(run, tmp_path, monkeypatch):
    existing = tmp_path / "my_dog.safetensors"
    existing.write_bytes(b"mine")
    monkeypatch.setattr(command, "_read_folder", lambda folder: pytest.fail("it began"))
    with pytest.raises(ValueError, match="exists already.*--overwrite"):
        run()
    assert existing.read_bytes() == b"mine"


def test_gentle_changes_are_not_rounded_away():
    """A change of 1e-7 has hardly a digit in 16 bit."""
    before = {"conv_in.weight": torch.randn(4, 4, 3, 3), "conv_in.bias": torch.randn(4)}
    weights = {name: tensor.double() + 1e-7 * torch.rand(tensor.shape) for name, tensor in before.items()}
    learned = Learned(torch.zeros(1, 16, 8), weights, {}, 1)
    stored = command.tuned_weights(learned, {n: t.double() for n, t in before.items()}, "full").tensors
    change = weights["conv_in.weight"] - before["conv_in.weight"].double()
    assert (stored["lora_unet_conv_in.diff"] - change).norm() <= 1e-3 * change.norm()


def test_factors_keep_their_scale():
    factors = Factors(torch.randn(6, 2), torch.randn(2, 5), alpha=4.0)
    learned = Learned(torch.zeros(1, 16, 8), {}, {"mid_block.attentions.0.to_q": factors}, 1)
    tensors = command.tuned_weights(learned, {}, "lora").tensors
    name = "lora_unet_mid_block_attentions_0_to_q"
    up, down = tensors[f"{name}.lora_up.weight"].float(), tensors[f"{name}.lora_down.weight"].float()
    found = tensors[f"{name}.alpha"] / len(down) * up @ down
    torch.testing.assert_close(found, 2 * factors.up @ factors.down, rtol=1e-2, atol=1e-2)


def test_the_saved_picture_size_is_the_default(run, monkeypatch):
    sides = []
    monkeypatch.setattr(command, "check_resolution", lambda side: sides.append(side))
    run()
    assert sides == [CONFIG.picture_size]
