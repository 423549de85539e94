"""A file of GILL's that brings its language model and picture encoder, and one that has another mapper."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from gill_fixtures import SMALL, opt_folder, photo, random_parts, tiny_clip, with_mapper
from safetensors import safe_open
from safetensors.torch import save_file

from blipdiff_impl.__main__ import main
from blipdiff_impl.errors import CheckpointError
from blipdiff_impl.gill.checkpoint import open_gill, save_gill, save_whole_gill
from blipdiff_impl.gill.companions import Companions, LanguageConfig, VisionConfig
from blipdiff_impl.gill.decoding_settings import DecodingSettings
from blipdiff_impl.gill.interleaving import parse_prompt
from blipdiff_impl.gill.language_model import LanguageModel
from blipdiff_impl.gill.pipeline import load_gill
from blipdiff_impl.gill.replaced_mapper import save_mapper
from blipdiff_impl.gill.replaced_mapper import with_mapper as replaced
from blipdiff_impl.gill.vision import ClipVision

LANGUAGE = LanguageConfig(
    vocab_size=300, hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
)
SIGHT = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 28, "patch_size": 7}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    opt_folder(folder / "opt")
    tiny_clip().save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def make(folders):
    """Writes a whole file, with cells or without; its path."""

    def make(cells=0, dtype=torch.float32):
        path = folders / f"whole_{cells}_{str(dtype)[6:]}.safetensors"
        vision = ClipVision.from_folder(folders / "clip", cells=cells)
        parts = random_parts(config=parts_config(cells))
        companions = Companions(language=LANGUAGE, vision=VisionConfig(**SIGHT, cells=cells))
        language = LanguageModel.from_folder(folders / "opt")
        save_whole_gill(parts, language, vision, companions, path, dtype, overwrite=True)
        return path

    return make


def parts_config(cells):
    return dataclasses.replace(SMALL, vision_width=20 * (1 + cells**2))


def reply(gill):
    prompt = parse_prompt("<image1> a cat", {1: photo()})
    return gill.reply(prompt, DecodingSettings(mode="force picture", min_words=5))


@pytest.mark.parametrize("cells", [0, 2])
def test_a_whole_file_answers_as_its_parts_do(make, folders, cells):
    whole = load_gill(make(cells))
    save_gill(random_parts(config=parts_config(cells)), folders / "parts.safetensors", torch.float32, overwrite=True)
    tower = ClipVision.from_folder(folders / "clip", cells=cells)
    apart = load_gill(folders / "parts.safetensors", folders / "opt", tower=tower)
    first, second = reply(whole), reply(apart)
    assert first.text == second.text and whole.space == apart.space
    # Mapped from a file, tensors lie otherwise in memory, and the last bit of a product may differ.
    assert torch.allclose(first.conditioning, second.conditioning, atol=1e-5)
    assert torch.allclose(first.embedding.vectors, second.embedding.vectors, atol=1e-5)


def test_cells_are_means_of_patches(folders):
    """Against a loop over the patches, in the order left to right, top to bottom."""
    plain, cells = (ClipVision.from_folder(folders / "clip", cells=n) for n in (0, 2))
    picture = photo(3, 28, 28)
    found = cells.pooled(picture)[0]
    assert cells.width == 100 and torch.equal(found[:20], plain.pooled(picture)[0])
    from blipdiff_impl.pictures.preprocess import fit_square, normalise

    with torch.no_grad():
        states = plain.network(pixel_values=normalise(fit_square(picture, 28))).last_hidden_state
        inner = getattr(plain.network, "vision_model", plain.network)
        patches = inner.post_layernorm(states[0, 1:])
    for row in range(2):
        for column in range(2):
            own = [patches[4 * y + x] for y in (2 * row, 2 * row + 1) for x in (2 * column, 2 * column + 1)]
            place = 20 * (1 + 2 * row + column)
            assert torch.allclose(found[place : place + 20], torch.stack(own).mean(0), atol=1e-5)


def test_it_works_with_no_other_networks(make, folders):
    with pytest.raises(CheckpointError, match="brings its own language model"):
        load_gill(make(), folders / "opt")
    with pytest.raises(CheckpointError, match="connect no CLIP vision model"):
        load_gill(make(), tower=ClipVision.from_folder(folders / "clip"))
    save_gill(random_parts(), folders / "bare.safetensors", torch.float32, overwrite=True)
    with pytest.raises(CheckpointError, match="has no language model in it"):
        load_gill(folders / "bare.safetensors")


def test_convert_and_inspect_keep_all(make, folders, capsys):
    target = folders / "converted.safetensors"
    target.unlink(missing_ok=True)
    assert main(["convert", str(make()), str(target), "--dtype", "float16"]) == 0
    assert main(["inspect", str(target)]) == 0
    shown = capsys.readouterr().out
    assert "language model" in shown and "picture encoder" in shown
    assert reply(load_gill(target)).pictures == 1


def rewritten(path, target, drop=(), **metadata):
    """The file with other metadata and without some tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name not in drop}
        about = file.metadata() | metadata
    save_file(tensors, target, {name: value for name, value in about.items() if value})
    return target


SIZES = {"language": {"vocab_size": 300, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2,
                      "num_attention_heads": 4, "max_position_embeddings": 64},
         "vision": {**SIGHT, "cells": 0}}  # fmt: skip


@pytest.mark.parametrize("changed, said", [
    ({"language": {"num_attention_heads": 5}}, "heads do not divide"),
    ({"language": {"num_hidden_layers": 100_000}}, "num_hidden_layers = 100000"),
    ({"language": {"num_hidden_layers": 3}}, "missing"), ({"language": {"hidden_size": 48}}, "other widths"),
    ({"vision": {"patch_size": 5}}, "do not divide"), ({"vision": {"cells": 17}}, "from 0 to 16"),
    ({"vision": {"cells": 1}}, "other widths"), ({"language": {"activation": "__import__"}}, "does not know"),
    ({"language": {"vocab_size": 200}}, "of another shape"), ({"vision": {"hidden_size": "20"}}, "should be like"),
])  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_before_anything_is_built(make, tmp_path, changed, said):
    sizes = {name: SIZES[name] | changed.get(name, {}) for name in SIZES}
    path = rewritten(make(), tmp_path / "changed.safetensors", companions=json.dumps(sizes))
    with pytest.raises(CheckpointError, match=said):
        open_gill(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"vocab": {}}', '{"vocab": {"a": 0}, "merges": [["a", "b"]]}',
                                  '{"vocab": {"a": "x"}, "merges": []}'])  # fmt: skip
def test_a_damaged_tokenizer_is_refused(make, tmp_path, text):
    path = rewritten(make(), tmp_path / "changed.safetensors", tokenizer=text)
    with pytest.raises(CheckpointError, match="tokenizer in GILL's file is damaged"):
        load_gill(path)


def test_weights_that_are_missing_or_not_finite_are_named(make, tmp_path):
    name = "language_model.model.decoder.layers.1.fc1.weight"
    with pytest.raises(CheckpointError, match=r"layers\.1\.fc1\.weight"):
        open_gill(rewritten(make(), tmp_path / "less.safetensors", drop=(name,)))
    with safe_open(make(), framework="pt") as file:
        tensors, about = {each: file.get_tensor(each) for each in file.keys()}, file.metadata()
    tensors[name][0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors", about)
    with pytest.raises(CheckpointError, match=r"layers\.1\.fc1\.weight.*NaN"):
        load_gill(tmp_path / "nan.safetensors")


# --- another mapper


def beside(parts, seed=9):
    """The same parts with a mapper of their own."""
    other = random_parts(seed, parts.config)
    other.load_state_dict(
        {name: value for name, value in parts.state_dict().items() if "gen_text" not in name}, strict=False
    )
    return other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_another_mapper_changes_what_is_drawn_and_nothing_else(make, tmp_path, dtype):
    """Trained with float32 parts it goes with those that are stored in float16 too."""
    other = beside(random_parts(config=parts_config(0)))
    save_mapper(tmp_path / "other.safetensors", other, torch.float32)
    path = make(dtype=dtype)
    plain, changed = load_gill(path), load_gill(path, mapper=tmp_path / "other.safetensors")
    first, second = reply(plain), reply(changed)
    assert first.text == second.text and torch.equal(first.embedding.vectors, second.embedding.vectors)
    assert not torch.allclose(first.conditioning, second.conditioning, atol=1e-2)
    states = torch.randn(1, 8, 24)
    due = other.gen_text_hidden_fcs[0](states, changed.parts.rows)
    assert torch.equal(changed.parts.conditioning(states), due)


def test_a_mapper_that_does_not_fit_is_refused(make, tmp_path):
    wide = with_mapper(feed_forward=30)
    save_mapper(tmp_path / "wide.safetensors", random_parts(config=wide), torch.float32)
    with pytest.raises(CheckpointError, match="other sizes than the model's own"):
        replaced(random_parts(), tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match="no mapper of GILL's"):
        replaced(random_parts(), make())
    save_mapper(tmp_path / "own.safetensors", random_parts(), torch.float32)
    with safe_open(tmp_path / "own.safetensors", framework="pt") as file:
        tensors, about = {each: file.get_tensor(each) for each in file.keys()}, file.metadata()
    tensors["model.bias"][:] = torch.inf
    save_file(tensors, tmp_path / "inf.safetensors", about)
    with pytest.raises(CheckpointError, match=r"model\.bias"):
        replaced(random_parts(), Path(tmp_path / "inf.safetensors"))


def test_a_mapper_of_another_gill_is_refused(tmp_path):
    """Of the same sizes, but it would read states of other tokens, or speak to another text encoder."""
    path = tmp_path / "mapper.safetensors"
    save_mapper(path, random_parts(), torch.float16)
    with pytest.raises(CheckpointError, match=r"was trained with other rows of \[IMG0\] to \[IMG7\] than this GILL"):
        replaced(random_parts(seed=5), path)
    speaks = dataclasses.replace(SMALL, text_encoder="0123456789abcdef")
    with pytest.raises(CheckpointError, match="another text encoder .*Stable Diffusion 1.5's instead of 01234567"):
        replaced(random_parts(config=speaks), path)
    bare = rewritten(path, tmp_path / "bare.safetensors", image_tokens="")
    with pytest.raises(CheckpointError, match="it names none instead of"):
        replaced(random_parts(), bare)
