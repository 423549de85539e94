"""CLIPSeg with random weights: what a folder must hold, that pixels and words are prepared as `transformers` does, and
which photos are refused.

Our confidence and that of the library's own processor and model come from the same network on the same numbers: 1e-5.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessor

from blipdiff_impl.errors import CheckpointError, SubjectError
from blipdiff_impl.pictures.matting import clipseg
from blipdiff_impl.prompts.tokenizers import DATA, _clip_bpe

EXACT = 1e-5
LAYER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}


def tiny_config():
    return CLIPSegConfig(
        text_config=dict(LAYER),
        vision_config={**LAYER, "image_size": 64, "patch_size": 32},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )


def write_tiny_clipseg(folder, seed=0):
    """A CLIPSeg folder as the released one, with random weights."""
    torch.manual_seed(seed)
    CLIPSegForImageSegmentation(tiny_config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clipseg(tmp_path_factory.mktemp("clipseg"))


@pytest.fixture(scope="module")
def network(folder):
    return clipseg.load_clipseg(folder)


@pytest.fixture
def changed(tmp_path):
    """A fresh folder whose tensors can be changed: run(function of the dict)."""
    write_tiny_clipseg(tmp_path)

    def run(change):
        tensors = load_file(tmp_path / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        return tmp_path

    return run


@pytest.fixture(scope="module")
def photo():
    ramp = torch.linspace(0, 1, 90)[None, :, None].expand(70, -1, 3).clone()
    ramp[20:50, 30:60] = torch.tensor([0.9, 0.2, 0.1])
    return ramp


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The library's own, with the vocabulary files of the released folder."""
    files = tmp_path_factory.mktemp("vocabulary")
    (files / "vocab.json").write_text(json.dumps(_clip_bpe().get_vocab()), encoding="utf-8")
    (files / "merges.txt").write_text((DATA / "clip_merges.txt").read_text(encoding="utf-8"), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(files, local_files_only=True, trust_remote_code=False)


def pillow(photo):
    return Image.fromarray((photo * 255).round().to(torch.uint8).numpy())


def released_processor(**more):
    size = {"height": clipseg.SIDE, "width": clipseg.SIDE}
    return ViTImageProcessor(
        size=size, resample=2, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], **more
    )


def test_configuration_and_weights_are_all_it_needs(folder):
    assert {path.name for path in folder.iterdir()} == set(clipseg.FILES)


def test_it_is_loaded_frozen_and_in_evaluation_mode(network):
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_pixels_are_those_of_the_librarys_processor(photo):
    """The library resizes by other rules of rounding; 1.5 grey levels of the smallest deviation are its tolerance."""
    expected = released_processor()(pillow(photo), return_tensors="pt")["pixel_values"]
    found = clipseg.pixels_of(photo)
    assert found.shape == expected.shape == (1, 3, 352, 352)
    assert (found - expected).abs().max() < 1.5 / 255 / 0.224


@pytest.mark.parametrize("category", ["dog", "Running Shoe", "teapot!", "a grey sloth plushie", "café"])
def test_words_are_those_of_the_librarys_tokenizer(tokenizer, category):
    plain = category.lower().replace("!", "")
    assert clipseg.category_ids(category)[0].tolist() == tokenizer(plain)["input_ids"]


def test_confidence_is_the_networks(network, photo, tokenizer):
    """The whole way through the library and Pillow, there and back, but for the library's way to shrink a photo."""
    square = np.array(pillow(photo).resize((352, 352), Image.Resampling.BILINEAR))
    pixels = released_processor(do_resize=False)(square, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = network(**tokenizer("dog", return_tensors="pt"), pixel_values=pixels).logits
    probability = Image.fromarray(torch.sigmoid(logits).reshape(352, 352).numpy())
    expected = np.array(probability.resize((90, 70), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(clipseg.confidence(network, photo, "dog").numpy(), expected, atol=EXACT)


def test_the_category_matters(network, photo):
    dog, teapot = (clipseg.confidence(network, photo, word) for word in ("dog", "teapot"))
    assert not torch.equal(dog, teapot)


@pytest.mark.parametrize("category", ["", "  ", "...", None])
def test_a_category_is_needed(network, photo, category):
    with pytest.raises(SubjectError, match="category"):
        clipseg.confidence(network, photo, category)


def test_a_category_that_is_too_long(network, photo):
    with pytest.raises(SubjectError, match="at most 77"):
        clipseg.confidence(network, photo, "dog " * 100)


@pytest.mark.parametrize("bias", [-20.0, float("nan")])
def test_nothing_of_the_kind_in_the_photo(folder, photo, bias):
    network = clipseg.load_clipseg(folder)
    with torch.no_grad():
        list(network.decoder.transposed_convolution.parameters())[-1].fill_(bias)
        list(network.decoder.transposed_convolution.parameters())[0].zero_()
    with pytest.raises(SubjectError, match="CLIPSeg sees no 'dog'"):
        clipseg.confidence(network, photo, "dog")


@pytest.mark.parametrize("name", clipseg.FILES)
def test_a_missing_file_is_named(tmp_path, name):
    write_tiny_clipseg(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        clipseg.load_clipseg(tmp_path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="config.json and no model.safetensors"):
        clipseg.load_clipseg(tmp_path / "nowhere")


def test_a_missing_weight_is_named(changed):
    name = "decoder.film_add.bias"
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        clipseg.load_clipseg(changed(lambda tensors: tensors.pop(name)))


def test_a_weight_of_another_shape_is_named(changed):
    name = "decoder.film_add.bias"
    with pytest.raises(CheckpointError, match=rf"{name} is \[3\] instead of \[8\]"):
        clipseg.load_clipseg(changed(lambda tensors: tensors.update({name: torch.zeros(3)})))


def test_weights_of_another_network(changed):
    with pytest.raises(CheckpointError, match="and [0-9]+ more"):
        clipseg.load_clipseg(changed(lambda tensors: (tensors.clear(), tensors.update(a=torch.zeros(2)))))


def test_what_older_files_hold_besides_does_not_matter(changed, network, photo):
    more = {"clip.text_model.embeddings.position_ids": torch.arange(77)[None]}
    loaded = clipseg.load_clipseg(changed(lambda tensors: tensors.update(more)))
    assert torch.equal(clipseg.confidence(loaded, photo, "dog"), clipseg.confidence(network, photo, "dog"))


@pytest.mark.parametrize(
    "name, content",
    [
        ("model.safetensors", b"nonsense"),
        ("model.safetensors", b""),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"vision_config": {"hidden_size": "wide"}}'),
        ("config.json", b'{"vision_config": {"hidden_act": "none of these"}}'),
        ("config.json", b"\xff\xfe"),
    ],
)
def test_a_damaged_file(tmp_path, name, content):
    write_tiny_clipseg(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        clipseg.load_clipseg(tmp_path)
