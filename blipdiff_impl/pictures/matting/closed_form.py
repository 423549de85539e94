"""Closed-form matting (Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting), solved only where
the trimap leaves something open.

PyMatting makes the matting Laplacian and runs conjugate gradients. This file cuts the problem down to the unknown
pixels, and preconditions it with what the method itself assumes: that alpha is an affine function of colour within a
small piece of the picture. On one such function for each block of pixels the system is small and is solved exactly;
what remains is local and goes quickly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .library import load_pymatting
from .trimap import surroundings

# Relative residual at which the iteration ends. Alpha is then within 1e-3 of the converged one on average.
TOLERANCE = 2e-4
BLOCK = 8  # pixels a side of a piece with one affine function; 6 and 12 take longer in all
WINDOW_REACH = 2  # two pixels that far apart still share a 3x3 window


def solve_alpha(photo: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Alpha `[H, W]`, float64 in 0..1.

    Args:
        photo: `[H, W, 3]` in 0..1.
        trimap: `[H, W]`: 0 background, 1 subject, anything between is decided here.

    Raises:
        SubjectError: PyMatting is not installed.
    """
    unknown = (trimap > 0) & (trimap < 1)
    alpha = np.array(trimap, dtype=np.float64)
    if not unknown.any():
        return alpha
    # What counts is the unknown pixels and all that share a window with one.
    box = surroundings(unknown, WINDOW_REACH)
    photo, unknown = np.asarray(photo[box], dtype=np.float64), unknown[box]
    system, right = _linear_system(photo, trimap[box], unknown)
    # Without the absolute bound a system that is solved by zero (unknown pixels beside background only) divides 0 by 0.
    solution = load_pymatting().cg(system, right, rtol=TOLERANCE, atol=1e-12, M=_preconditioner(system, photo, unknown))
    alpha[box][unknown] = solution.clip(0, 1)
    return alpha


def _linear_system(photo: np.ndarray, trimap: np.ndarray, unknown: np.ndarray):
    """`L_UU` (CSR) and `-L_UK alpha_K` of the matting Laplacian L, for unknown pixels U and known ones K."""
    free = unknown.ravel()
    rows = load_pymatting().cf_laplacian(photo, is_known=~free)[free]
    right = -(rows[:, ~free] @ trimap.ravel()[~free].astype(np.float64))
    system = rows[:, free]
    system.eliminate_zeros()  # places that the picture's border cuts off
    return system, right


def _preconditioner(system, photo: np.ndarray, unknown: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Two-level additive Schwarz: `r -> D^-1 r + P (P^T A P)^-1 P^T r`, symmetric and positive definite."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import splu

    basis = _affine_in_colour(photo[unknown], _blocks(unknown))
    restrict = basis.T.tocsr()
    coarse = restrict @ (system @ basis)
    # Blocks of one colour have no slope; a little on the diagonal keeps their rows from being empty.
    coarse = coarse + diags(1e-6 * coarse.diagonal() + 1e-10)
    factors = splu(coarse.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    jacobi = 1 / system.diagonal()
    return lambda residual: jacobi * residual + basis @ factors.solve(restrict @ residual)


def _blocks(unknown: np.ndarray) -> np.ndarray:
    """For each unknown pixel the number of its block, 0.. without gaps."""
    y, x = np.nonzero(unknown)
    across = -(-unknown.shape[1] // BLOCK)
    return np.unique((y // BLOCK) * across + x // BLOCK, return_inverse=True)[1].ravel()


def _affine_in_colour(colours: np.ndarray, blocks: np.ndarray):
    """`P`, sparse `[pixels, 4 x blocks]`: in each block the constant and the three colours less their mean."""
    from scipy.sparse import csr_matrix

    pixels = len(blocks)
    sizes = np.bincount(blocks)
    means = np.stack([np.bincount(blocks, colours[:, channel]) for channel in range(3)], axis=1) / sizes[:, None]
    values = np.concatenate([np.ones((pixels, 1)), colours - means[blocks]], axis=1)
    columns = 4 * blocks[:, None] + np.arange(4)
    starts = np.arange(0, 4 * pixels + 1, 4)
    return csr_matrix((values.ravel(), columns.ravel(), starts), shape=(pixels, 4 * len(sizes)))
