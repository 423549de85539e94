"""Reference pictures cut out of their photos."""

import pytest
import torch

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.ms_diffusion.references import cut_out

PHOTO = 0.1 + 0.8 * torch.rand(1, 40, 60, 3, generator=torch.manual_seed(0))


def mask():
    mask = torch.zeros(1, 40, 60)
    mask[:, 10:30, 20:50] = 1
    mask[:, 10:15, 20:25] = 0
    return mask


def test_on_black_and_cut_to_the_mask():
    found = cut_out(PHOTO, mask())
    assert found.shape == (1, 20, 30, 3)
    assert not found[:, :5, :5].any()
    assert torch.equal(found[:, 5:, 5:], PHOTO[:, 15:30, 25:50])


def test_alpha_cuts_out_too():
    with_alpha = torch.cat([PHOTO, mask()[..., None]], -1)
    assert torch.equal(cut_out(with_alpha, None), cut_out(PHOTO, mask()))
    half = torch.zeros(1, 40, 60)
    half[:, :, :35] = 1
    assert cut_out(with_alpha, half).shape == (1, 20, 15, 3)


def test_without_a_mask_it_is_the_photo():
    assert torch.equal(cut_out(PHOTO, None), PHOTO)
    assert cut_out(PHOTO[..., :1], None).shape == PHOTO.shape


@pytest.mark.parametrize("image, given, said", [
    (PHOTO.expand(3, -1, -1, -1), None, "one reference picture, but 3 came in"),
    (PHOTO[:, :1, :1], None, "1x1 pixels, too small"),
    (PHOTO * float("nan"), None, "NaN"),
    (PHOTO, mask()[:, :20], "The mask is 60x20 pixels but the photo is 60x40"),
    (PHOTO, mask() * 0, "selects nothing"),
    (PHOTO, mask() * float("nan"), "NaN"),
    (PHOTO, mask() * 0.4, "nothing in it is above a half"),
])  # fmt: skip
def test_what_cannot_be_used(image, given, said):
    with pytest.raises(SubjectError, match=said):
        cut_out(image, given)
