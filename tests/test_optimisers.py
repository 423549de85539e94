"""Muon's update: all directions of the gradient with the same length, however unlike they are."""

import pytest
import torch

from blipdiff_impl.training.optimisers import orthogonalise


@pytest.mark.parametrize("shape", [(48, 48), (48, 200), (200, 48)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_no_direction_runs_away(shape, decay):
    """Gradients of trained networks have a few large singular values and a long tail of small ones."""
    torch.manual_seed(0)
    short = min(shape)
    left = torch.linalg.qr(torch.randn(shape[0], short))[0]
    right = torch.linalg.qr(torch.randn(shape[1], short))[0]
    sizes = torch.arange(1, short + 1).float() ** -decay
    matrices = torch.stack([left * sizes @ right.mT * scale for scale in (1e-6, 1.0, 1e3)])
    lengths = torch.linalg.svdvals(orthogonalise(matrices))
    # the quintic's values lie between 0.68 and 1.21 once it has taken hold
    assert 0.6 < lengths[:, 0].min() and lengths.max() < 1.3
    # five rounds lift what is at least a hundredth of the norm
    assert lengths[:, sizes > 0.02 * sizes.norm()].min() > 0.6


def test_directions_are_kept():
    torch.manual_seed(1)
    matrix = torch.randn(24, 60)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (
        torch.nn.functional.cosine_similarity(orthogonalise(matrix[None])[0].flatten(), (left @ right).flatten(), 0)
        > 0.97
    )
