"""Trimaps, closed-form alpha and foreground colours against PyMatting's own solver and against properties that must
hold; the tool's stand-in segmenter.

Alpha of a solve that stops at a relative residual of 2e-4 lies within 1e-3 of the converged one on average (the pack
promises 0.01 on photos); where the trimap is known it is the trimap, to the bit.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from pymatting import cf_laplacian, estimate_alpha_cf, estimate_foreground_ml
from scipy.sparse import diags
from scipy.sparse.linalg import spsolve

from blipdiff_impl.errors import SubjectError
from blipdiff_impl.pictures.matting import closed_form, library
from blipdiff_impl.pictures.matting.closed_form import solve_alpha
from blipdiff_impl.pictures.matting.matte import GROUNDS, Matte, matte, on_ground
from blipdiff_impl.pictures.matting.trimap import surroundings, trimap_from_confidence, trimap_from_mask
from tools.make_matte_sheet import photos_of, read_photo, rough_mask
from tools.places import ROOT

SOLVED = 1e-3  # mean absolute difference of alpha
PROMISED = 1e-2


def disc(height, width, radius, centre=(0.5, 0.5)):
    """Coverage of a soft disc, 0..1."""
    y, x = np.mgrid[:height, :width]
    return np.clip(radius - np.hypot(y - centre[0] * height, x - centre[1] * width), -2, 2) / 4 + 0.5


def two_coloured(height, width, radius, seed=0):
    """A red disc that shades to violet on a green ground with a gradient, and its true alpha."""
    alpha = disc(height, width, radius)
    ramp = np.linspace(0, 1, width)[None, :, None]
    subject = np.array([0.9, 0.1, 0.1]) + ramp * np.array([-0.2, 0.05, 0.5])
    ground = np.array([0.1, 0.7, 0.2]) + ramp * np.array([0.1, -0.3, 0.1])
    noise = 0.005 * np.random.default_rng(seed).standard_normal((height, width, 3))
    photo = alpha[..., None] * subject + (1 - alpha[..., None]) * ground + noise
    return photo.clip(0, 1), alpha


def noisy(height, width, seed=0):
    """A photo without any structure that helps."""
    return np.random.default_rng(seed).uniform(0, 1, (height, width, 3))


def band(alpha, reach=0.06):
    return trimap_from_mask(torch.from_numpy(alpha), reach).double().numpy()


def tensors(photo, trimap):
    return torch.from_numpy(photo).float(), torch.from_numpy(trimap).float()


@pytest.mark.parametrize("height, width", [(96, 128), (131, 77), (40, 41)])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.4), (1.0, 1.0)])
def test_alpha_is_that_of_the_whole_picture(height, width, centre):
    """Subjects in the middle, at a border and in a corner, so that the part looked at is cut off by the border."""
    photo, _ = two_coloured(height, width, min(height, width) / 3)
    trimap = band(disc(height, width, min(height, width) / 3, centre))
    expected = estimate_alpha_cf(photo, trimap, cg_kwargs={"rtol": 1e-9})
    found = solve_alpha(photo, trimap)
    assert np.abs(found - expected).mean() < SOLVED
    known = (trimap == 0) | (trimap == 1)
    assert np.array_equal(found[known], trimap[known])


def test_the_system_is_that_of_the_whole_picture():
    """To rounding: the part of the picture that is looked at holds every window that has a say."""
    photo, trimap = noisy(40, 50), band(disc(40, 50, 12, (0.3, 0.4)))
    unknown = (trimap > 0) & (trimap < 1)
    box = surroundings(unknown, closed_form.WINDOW_REACH)
    assert trimap[box].size < trimap.size / 2
    system, right = closed_form._linear_system(photo[box], trimap[box], unknown[box])
    whole = cf_laplacian(photo).tocsr()
    free = unknown.ravel()
    np.testing.assert_allclose(system.toarray(), whole[free][:, free].toarray(), atol=1e-9)
    np.testing.assert_allclose(right, -(whole[free][:, ~free] @ trimap.ravel()[~free]), atol=1e-9)


def test_a_noisy_picture_is_solved_to_the_tolerance():
    """Against a direct solver; noise is what the affine functions of the preconditioner describe worst."""
    photo, trimap = noisy(60, 60), band(disc(60, 60, 18))
    free = ((trimap > 0) & (trimap < 1)).ravel()
    whole = cf_laplacian(photo).tocsr()
    exact = spsolve(whole[free][:, free].tocsc(), -(whole[free][:, ~free] @ trimap.ravel()[~free]))
    assert exact.min() < 0 or exact.max() > 1  # the equations know no limits
    found = solve_alpha(photo, trimap)
    assert 0 <= found.min() and found.max() <= 1
    assert np.abs(found.ravel()[free] - exact.clip(0, 1)).mean() < SOLVED


def test_the_preconditioner_is_symmetric_and_positive():
    photo, trimap = noisy(30, 34), band(disc(30, 34, 9))
    unknown = (trimap > 0) & (trimap < 1)
    box = surroundings(unknown, closed_form.WINDOW_REACH)
    system, _ = closed_form._linear_system(photo[box], trimap[box], unknown[box])
    apply = closed_form._preconditioner(system, photo[box], unknown[box])
    matrix = np.stack([apply(row) for row in np.eye(system.shape[0])])
    scale = np.abs(matrix).max()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-8 * scale)
    assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0


def test_it_needs_a_fraction_of_jacobis_steps():
    from pymatting import cg

    photo, alpha = two_coloured(128, 128, 40)
    trimap = band(alpha, 0.1)
    unknown = (trimap > 0) & (trimap < 1)
    system, right = closed_form._linear_system(photo, trimap, unknown)

    def steps(preconditioner):
        count = [0]

        def counted(*_):
            count[0] += 1

        cg(system, right, rtol=closed_form.TOLERANCE, M=preconditioner, callback=counted)
        return count[0]

    ours = steps(closed_form._preconditioner(system, photo, unknown))
    assert 0 < ours < steps(diags(1 / system.diagonal())) / 4


def test_the_true_alpha_is_found():
    """On a picture made for it: two colours that vary slowly, which is all that the method assumes."""
    photo, alpha = two_coloured(96, 96, 30)
    found = solve_alpha(photo, band(alpha))
    assert np.abs(found - alpha).mean() < 0.01
    assert np.abs(found - alpha).max() < 0.15


@pytest.mark.parametrize("photo", [np.full((24, 24, 3), 0.4), np.zeros((24, 24, 3)), np.ones((24, 24, 3))])
def test_a_picture_of_one_colour_gives_a_smooth_alpha(photo):
    trimap = np.zeros((24, 24))
    trimap[:, 8:16], trimap[:, 16:] = 0.5, 1
    found = solve_alpha(photo, trimap)
    assert np.isfinite(found).all() and found.min() == 0 and found.max() == 1
    assert (np.diff(found, axis=1) > -0.02).all()  # rises from the background to the subject


def test_unknown_pixels_beside_background_only_are_background():
    trimap = np.zeros((30, 30))
    trimap[4:8, 4:8] = 0.5
    found = solve_alpha(noisy(30, 30), trimap)
    assert np.array_equal(found, np.zeros((30, 30)))


def test_without_unknown_pixels_alpha_is_the_trimap():
    photo, alpha = two_coloured(20, 20, 6)
    hard = (alpha > 0.5).astype(float)
    assert np.array_equal(matte(*tensors(photo, hard)).alpha.numpy(), hard.astype(np.float32))


@pytest.mark.parametrize("height, width", [(3, 3), (3, 9), (8, 8)])
def test_tiny_pictures(height, width):
    trimap = np.full((height, width), 0.5)
    trimap[:, 0], trimap[:, -1] = 0, 1
    matted = matte(*tensors(noisy(height, width), trimap))
    assert matted.alpha.shape == (height, width) and matted.foreground.shape == (height, width, 3)
    assert torch.isfinite(matted.alpha).all() and torch.isfinite(matted.foreground).all()


def test_the_foreground_is_pymattings_and_free_of_the_ground():
    photo, alpha = two_coloured(96, 96, 30)
    matted = matte(*tensors(photo, band(alpha)))
    expected = estimate_foreground_ml(photo, matted.alpha.double().numpy())
    np.testing.assert_allclose(matted.foreground.numpy(), expected.clip(0, 1), atol=1e-5)
    edge = (alpha > 0.3) & (alpha < 0.7)
    green = matted.foreground.numpy()[..., 1][edge]
    assert (
        green.mean() < 0.2 < photo[..., 1][edge].mean()
    )  # the subject's green is 0.1 to 0.15, the ground's 0.4 to 0.7


def test_the_ground_of_the_cut_out():
    alpha = torch.tensor([[0.0, 0.5, 1.0]])
    matted = Matte(alpha, torch.full((1, 3, 3), 0.2))
    assert torch.equal(on_ground(matted, "none"), matted.foreground)
    for ground in ("white", "black", "neutral"):
        cut = on_ground(matted, ground)
        colour = torch.tensor(GROUNDS[ground])
        torch.testing.assert_close(cut[0, 0], colour)
        torch.testing.assert_close(cut[0, 1], (colour + 0.2) / 2)
        torch.testing.assert_close(cut[0, 2], torch.full((3,), 0.2))
    with pytest.raises(SubjectError, match="ground = 'blue'.*neutral, white"):
        on_ground(matted, "blue")


def test_a_large_photo_is_matted_at_the_working_size():
    photo, alpha = two_coloured(200, 320, 70)
    trimap = band(alpha)
    large, small = (matte(*tensors(photo, trimap), working_side=side).alpha for side in (320, 96))
    assert small.shape == (200, 320)
    assert 1e-4 < (large - small).abs().mean() < 0.02
    known = torch.from_numpy((trimap == 0) | (trimap == 1))
    assert torch.equal(small[known], torch.from_numpy(trimap).float()[known])


def test_the_working_size_bounds_what_is_solved(monkeypatch):
    seen = []
    solve = closed_form.solve_alpha
    monkeypatch.setattr(
        "blipdiff_impl.pictures.matting.matte.solve_alpha",
        lambda photo, trimap: seen.append(photo.shape) or solve(photo, trimap),
    )
    photo, alpha = two_coloured(100, 400, 30)
    matte(*tensors(photo, band(alpha)), working_side=128)
    assert seen == [(32, 128, 3)]


def test_the_inputs_are_left_as_they_were():
    photo, alpha = two_coloured(40, 40, 12)
    photo, trimap = tensors(photo, band(alpha))
    before = photo.clone(), trimap.clone()
    matte(photo, trimap)
    assert torch.equal(photo, before[0]) and torch.equal(trimap, before[1])


def test_confidence_is_stretched_before_the_thresholds():
    confidence = torch.tensor([[0.2, 0.23, 0.24], [0.35, 0.43, 0.6]])
    assert trimap_from_confidence(confidence).tolist() == [[0, 0, 0], [0.5, 0.5, 1]]
    assert trimap_from_confidence(3 * confidence - 1).tolist() == [[0, 0, 0], [0.5, 0.5, 1]]
    assert trimap_from_confidence(confidence, 0.5, 0.3).tolist() == [[0, 0, 0], [0.5, 1, 1]]


def test_the_default_thresholds_are_the_authors():
    """Grey levels above 120, 60 to 120 and below of the viridis picture: about 0.58 and 0.12 of the map."""
    confidence = torch.linspace(0, 1, 1001)[None]
    trimap = trimap_from_confidence(confidence)
    assert confidence[trimap == 0].max() == pytest.approx(0.12, abs=0.005)
    assert confidence[trimap == 1].min() == pytest.approx(0.58, abs=0.005)


def test_the_band_around_a_mask_grows_with_the_picture():
    for side in (100, 400):
        mask = torch.zeros(side, side)
        mask[:, : side // 2] = 1
        row = trimap_from_mask(mask, 0.05)[side // 2]
        assert int((row == 0.5).sum()) == 2 * side // 20
        assert row[0] == 1 and row[-1] == 0  # the picture's own border is no border of the subject


def test_a_thin_subject_keeps_a_core():
    mask = torch.zeros(100, 100)
    mask[48:51] = 1
    trimap = trimap_from_mask(mask, 0.2)
    assert (trimap == 1).any() and (trimap[mask == 0] < 1).all()
    ground = trimap_from_mask(1 - mask, 0.2)
    assert (ground == 0).any()


def test_small_pieces_keep_a_core_and_specks_do_not():
    mask = torch.zeros(200, 200)
    mask[20:180, 20:180] = 1
    mask[96:104, 96:104] = 0  # the hole in a handle
    mask[40, 40] = 0
    mask[5, 190] = 1
    trimap = trimap_from_mask(mask, 0.05)  # 10 pixels to each side
    assert trimap[100, 100] == 0
    assert trimap[40, 40] == 0.5 and trimap[5, 190] == 0.5
    assert trimap[100, 60] == 1 and trimap[3, 3] == 0


def test_a_single_pixel_is_a_subject():
    mask = torch.zeros(9, 9)
    mask[4, 4] = 1
    assert trimap_from_mask(mask)[4, 4] == 1


@pytest.mark.parametrize(
    "mask, sentence",
    [
        (torch.zeros(8, 8), "no pixel of the rough mask is above 0.5"),
        (torch.full((8, 8), 0.5), "highest is 0.5"),
        (torch.full((8, 8), float("nan")), "no pixel"),
        (torch.ones(8, 8), "covers the whole picture"),
    ],
)
def test_masks_that_say_nothing(mask, sentence):
    with pytest.raises(SubjectError, match=sentence):
        trimap_from_mask(mask)


@pytest.mark.parametrize(
    "confidence, thresholds, sentence",
    [
        (torch.full((8, 8), 0.3), (), "confidence is 0.3 everywhere"),
        (torch.tensor([[0.0, float("nan"), 1.0]]), (), "No foreground"),
        (torch.rand(8, 8), (0.2, 0.4), "0.2 and background_threshold 0.4"),
        (torch.rand(8, 8), (0.4, 0.4), "larger one"),
        (torch.rand(8, 8), (1.5, 0.4), "0..1"),
        (torch.rand(8, 8), (0.4, -0.1), "0..1"),
    ],
)
def test_confidence_that_says_nothing(confidence, thresholds, sentence):
    with pytest.raises(SubjectError, match=sentence):
        trimap_from_confidence(confidence, *thresholds)


def some_trimap(**values):
    trimap = torch.full((8, 8), 0.5)
    trimap[0], trimap[-1] = values.get("top", 0), values.get("bottom", 1)
    return trimap


@pytest.mark.parametrize(
    "photo, trimap, sentence",
    [
        (torch.rand(8, 8, 3), some_trimap(bottom=0), "no sure foreground"),
        (torch.rand(8, 8, 3), some_trimap(top=1), "no sure background"),
        (torch.rand(8, 8, 3), torch.full((8, 8), 0.5), "no sure foreground"),
        (torch.rand(8, 8, 3), some_trimap(top=float("nan")), "finite floats"),
        (torch.rand(8, 8, 3), some_trimap().to(torch.uint8), "torch.uint8"),
        (torch.rand(8, 9, 3), some_trimap(), r"\[8, 9, 3\].*\[8, 8\]"),
        (torch.rand(8, 8, 4), some_trimap(), "sizes must agree"),
        (torch.rand(8, 8), some_trimap(), "sizes must agree"),
        (torch.full((8, 8, 3), float("nan")), some_trimap(), "NaN"),
        (torch.rand(2, 8, 3), some_trimap()[:2], "8x2 pixels.*at least 3"),
        (torch.rand(0, 0, 3), torch.rand(0, 0), "at least 3"),
    ],
)
def test_what_cannot_be_matted(photo, trimap, sentence):
    with pytest.raises(SubjectError, match=sentence):
        matte(photo, trimap)


def test_without_pymatting_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(SubjectError, match="pip install pymatting"):
        library.load_pymatting()
    with pytest.raises(SubjectError, match="pip install pymatting"):
        matte(torch.rand(8, 8, 3), some_trimap())


def test_real_photos_come_out_as_from_the_whole_picture(dreambench):
    for path in photos_of(dreambench)[::7]:
        photo = read_photo(path, 192)
        trimap = trimap_from_mask(rough_mask(photo))
        photo, trimap = photo.double().numpy(), trimap.double().numpy()
        assert np.abs(solve_alpha(photo, trimap) - estimate_alpha_cf(photo, trimap)).mean() < PROMISED


def test_the_tools_stand_in_finds_the_thing_in_its_box():
    photo, alpha = two_coloured(160, 200, 40)
    found = rough_mask(torch.from_numpy(photo).float(), (0.25, 0.2, 0.75, 0.8)).numpy() > 0.5
    truth = alpha > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.85


def test_loading_the_library_leaves_pytorchs_threads_alone():
    """numba sets its number of threads for PyTorch too; seen in a process of its own, as numba does it once."""
    code = (
        "import torch; from blipdiff_impl.pictures.matting.library import load_pymatting; "
        "before = torch.get_num_threads(); load_pymatting(); print(before, torch.get_num_threads())"
    )
    threads = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=threads, cwd=ROOT, capture_output=True, check=True).stdout.split() == [
        b"1",
        b"1",
    ]
