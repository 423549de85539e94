"""What the image tower sees: equality with the released processors, neutral background, and refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.pictures.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    check_masks,
    check_photos,
    compose,
    fit_square,
    normalise,
)


def photo(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return pixels, torch.from_numpy(pixels).float()[None] / 255


@pytest.mark.parametrize(("height", "width"), [(300, 600), (601, 333), (224, 224), (96, 96), (17, 401)])
def test_crop_equals_the_official_processor(height, width):
    """torchvision's Resize(224, bicubic) and CenterCrop(224) on the 8-bit picture, as the official release does."""
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    pixels, images = photo(height, width)
    released = CenterCrop(224)(Resize(224, InterpolationMode.BICUBIC)(Image.fromarray(pixels)))
    assert torch.equal(fit_square(images, 224)[0], torch.from_numpy(np.asarray(released)) / 255)


def test_squash_equals_the_diffusers_port():
    """A plain bicubic resize to 224 x 224 whatever the aspect ratio."""
    pixels, images = photo(300, 600)
    squashed = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC)
    assert torch.equal(fit_square(images, 224, "squash")[0], torch.from_numpy(np.asarray(squashed)) / 255)


def test_pad_shows_the_whole_photo_on_neutral_ground():
    images = torch.ones(1, 100, 50, 3)
    padded = fit_square(images, 64, "pad")[0]
    assert torch.all(padded[:, 16:48] == 1)
    assert torch.allclose(padded[:, :16], torch.tensor(CLIP_MEAN).expand(64, 16, 3), atol=1 / 255)


def test_normalise_is_clips():
    images = torch.rand(2, 8, 8, 3)
    expected = (images[1, 3, 4, 2] - CLIP_MEAN[2]) / CLIP_STD[2]
    assert torch.isclose(normalise(images)[1, 2, 3, 4], expected)


def test_mask_and_alpha_lay_the_subject_on_neutral_ground():
    images = torch.ones(1, 32, 32, 3)
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    ground = torch.tensor(CLIP_MEAN)
    masked = compose(images, mask)
    assert torch.all(masked[:, :16] == 1) and torch.allclose(masked[:, 16:], ground)
    with_alpha = compose(torch.cat([images, mask[..., None]], dim=-1), None)
    assert torch.equal(with_alpha, masked)
    half = compose(images, mask * 0.5)
    assert torch.allclose(half[:, :16], (1 + ground) / 2)


def test_grey_becomes_three_equal_channels():
    grey = torch.rand(1, 32, 32, 1)
    assert torch.equal(compose(grey, None), grey.expand(-1, -1, -1, 3))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(0, 64, 64, 3), "0 photos"),
        (torch.zeros(200, 16, 16, 3), "200 photos are more than the 64"),
        (torch.zeros(1, 1, 1, 3), "1x1 pixels"),
        (torch.zeros(1, 1, 1, 1).expand(1, 10_000, 10_000, 3), "10000x10000 pixels"),
        (torch.zeros(1, 64, 64, 2), "2 channels"),
        (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
        (torch.full((1, 64, 64, 3), 255.0), "between 255 and 255"),
        (torch.zeros(1, 64, 64, 3, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(64, 64, 3), r"\[64, 64, 3\]"),
        ("photo.png", "str"),
    ],
)
def test_unusable_photos_are_refused_with_their_value(images, words):
    with pytest.raises(SubjectError, match=words):
        check_photos(images)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.ones(1, 32, 32), "32x32 pixels but the photo is 64x64"),
        (torch.ones(3, 64, 64), "3 masks for 2 photos"),
        (torch.zeros(1, 64, 64), "selects nothing"),
        (torch.full((1, 64, 64), float("nan")), "NaN"),
        (torch.ones(64, 64), r"\[64, 64\]"),
    ],
)
def test_unusable_masks_are_refused_with_their_value(masks, words):
    with pytest.raises(SubjectError, match=words):
        check_masks(masks, torch.zeros(2, 64, 64, 3))
