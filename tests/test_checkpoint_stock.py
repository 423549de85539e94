"""Stock Stable Diffusion weights in a checkpoint are reported; the published numbers are replaced by test ones."""

import dataclasses
import hashlib

import pytest
import torch

from blipdiff_impl.blip_diffusion.checkpoints import convert, open_checkpoint, stock, write_single_file
from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.errors import CheckpointError
from tests.checkpoint_fixtures import SMALL, VOCABULARY, random_parts, save, write_diffusers_folder

NO_SUMS = {part: dataclasses.replace(kind, value=1e9) for part, kind in stock.STOCK_SUMS.items()}


@pytest.fixture(scope="module")
def parts():
    return random_parts()


@pytest.fixture
def folder(tmp_path, parts):
    return write_diffusers_folder(tmp_path / "model", parts)


@pytest.fixture
def small_is_released(monkeypatch):
    """The published sums hold for released sizes only."""
    monkeypatch.setattr(stock, "RELEASED", SMALL)


def sums_of(parts):
    return {
        part: dataclasses.replace(kind, value=stock.weight_sum(parts[part], kind))
        for part, kind in stock.STOCK_SUMS.items()
    }


def file_table(path):
    return {"unet": {path.stat().st_size: hashlib.sha256(path.read_bytes()).hexdigest()}}


def test_file_known_by_its_hash(folder):
    table = file_table(folder / "unet" / "diffusion_pytorch_model.bin")
    (sentence,) = stock.stock_warnings(open_checkpoint(folder), table, NO_SUMS)
    assert "UNet is that of stock Stable Diffusion 1.5 (its file is the published one)" in sentence


def test_other_file_of_the_same_size(folder):
    table = {"unet": dict.fromkeys(file_table(folder / "unet" / "diffusion_pytorch_model.bin")["unet"], "0" * 64)}
    assert stock.stock_warnings(open_checkpoint(folder), table, NO_SUMS) == []


def test_weights_known_by_their_sum(folder, parts, small_is_released):
    sentences = stock.stock_warnings(open_checkpoint(folder), {}, sums_of(parts))
    assert ["UNet" in sentences[0], "text encoder" in sentences[1], len(sentences)] == [True, True, 2]
    assert stock.stock_warnings(open_checkpoint(folder), {}, sums_of(random_parts(seed=1))) == []


def test_sum_survives_half_precision(tmp_path, folder, parts, small_is_released):
    convert(folder, tmp_path / "half.safetensors", torch.float16)
    assert len(stock.stock_warnings(open_checkpoint(tmp_path / "half.safetensors"), {}, sums_of(parts))) == 2


def test_sum_by_hand():
    part = {"a.mlp.fc1.weight": torch.tensor([0.0, 1.0, -1.0, 2.0]), "other": torch.ones(5)}
    assert stock.weight_sum(part, stock.STOCK_SUMS["text_encoder"]) == pytest.approx(0.8807970780 - 0.5)


def test_sums_are_for_released_sizes_only(folder, parts):
    assert stock.RELEASED == RELEASED
    assert stock.stock_warnings(open_checkpoint(folder), {}, sums_of(parts)) == []


def test_outcome_is_stored_in_the_single_file(tmp_path, folder, parts, monkeypatch, small_is_released):
    monkeypatch.setattr(stock.stock_warnings, "__defaults__", ({}, sums_of(parts)))
    convert(folder, tmp_path / "out.safetensors")
    assert len(open_checkpoint(tmp_path / "out.safetensors").warnings) == 2


def test_published_table_is_well_formed():
    for table in stock.STOCK_FILES.values():
        assert all(len(digest) == 64 and int(digest, 16) and size > 10**8 for size, digest in table.items())


def one_file_checkpoint(parts):
    """The sampled tensors as a one-file Stable Diffusion checkpoint names them."""
    prefixes = {"unet": "model.diffusion_model.", "text_encoder": "cond_stage_model.transformer."}
    return {
        prefixes[part] + other: parts[part][name] for part, names in stock._SAMPLES.items() for name, other in names
    }


@pytest.mark.parametrize("kind", ["folder", "16-bit folder", "one file", "component"])
def test_comparison_with_a_named_stock_model(tmp_path, folder, parts, kind):
    halved = {part: {name: t.half() for name, t in tensors.items()} for part, tensors in parts.items()}
    reference = {
        "folder": lambda: write_diffusers_folder(tmp_path / "stock", parts),
        "16-bit folder": lambda: write_diffusers_folder(tmp_path / "stock", halved),
        "one file": lambda: save(one_file_checkpoint(parts), tmp_path / "v1-5.safetensors"),
        "component": lambda: save(parts["unet"], tmp_path / "unet.bin"),
    }[kind]()
    sentences = stock.warnings_against(open_checkpoint(folder), reference)
    assert len(sentences) == (1 if kind == "component" else 2)
    assert all(str(reference) in sentence for sentence in sentences)


def test_comparison_with_another_model(tmp_path, folder):
    other = write_diffusers_folder(tmp_path / "other", random_parts(seed=1))
    assert stock.warnings_against(open_checkpoint(folder), other) == []


def test_comparison_with_something_else(tmp_path, folder):
    save({"x": torch.zeros(1)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="cannot be compared"):
        stock.warnings_against(open_checkpoint(folder), tmp_path / "x.bin")


def test_a_single_file_may_be_the_reference(tmp_path, folder, parts):
    write_single_file(tmp_path / "ours.safetensors", parts, SMALL, VOCABULARY)
    assert len(stock.warnings_against(open_checkpoint(folder), tmp_path / "ours.safetensors")) == 2
