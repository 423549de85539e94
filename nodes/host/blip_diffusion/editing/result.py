"""The outcome of an edit: both branches apart, the mask, and a picture whose background is the original's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .....blipdiff_impl.errors import SubjectError
from .....blipdiff_impl.pictures.preprocess import as_rgb
from .....blipdiff_impl.stable_diffusion.config import VAE_FACTOR
from .prompts import EDIT_KEY


def split_result(model, samples: dict) -> tuple[dict, dict, Tensor]:
    """LATENT of the sources, LATENT of the edits, and the MASK `[N, H, W]` in pixels that their runs used.

    Raises:
        SubjectError: a MODEL that edits nothing, or samples of another run.
    """
    editor = model.get_attachment(EDIT_KEY)
    if editor is None:
        raise SubjectError("This MODEL does not edit. Connect the MODEL of Edit with Subject, here and to the sampler.")
    masks = editor.masks_of(samples["samples"])
    if not masks or any(mask is None for mask in masks):
        raise SubjectError(
            "These samples are not from a run of this MODEL: another MODEL or another positive prompt made them, they "
            "were changed after sampling, or their record is gone. Connect all four outputs of Edit with Subject to "
            "one sampler, and that sampler's own LATENT here. If they are, change its seed, so that it samples again."
        )
    kept = {key: value for key, value in samples.items() if key not in ("samples", "batch_index", "noise_mask")}
    sources, edits = ({**kept, "samples": samples["samples"][part::2]} for part in (0, 1))
    return sources, edits, F.interpolate(torch.stack(masks), scale_factor=VAE_FACTOR, mode="nearest")[:, 0]


def edited_picture(vae, sources: dict, edits: dict, mask: Tensor, original: Tensor | None, exact: bool, feather: int):
    """The edits as IMAGE `[N, H, W, 3]`.

    Args:
        original: the picture that was edited, `[N or 1, H, W, 3]`; None takes the decoded source.
        exact: outside the mask give the original's pixels, unchanged.
        feather: pixels over which the edit fades in from the mask's border inwards.

    Raises:
        SubjectError: an original of another size.
    """
    edited = vae.decode(edits["samples"]).float()
    if not exact:
        return edited
    ground = vae.decode(sources["samples"]).float() if original is None else _fitted(original, edited)
    alpha = inner_feather(mask, feather)[..., None].to(edited)
    return torch.where(alpha > 0, ground + alpha * (edited - ground), ground)


def inner_feather(mask: Tensor, width: int) -> Tensor:
    """The mask `[N, H, W]` rising from 0 at its border to its full value `width` pixels inside; 0 where it was 0."""
    if width <= 0:
        return mask
    shrink = (width + 1) // 2
    inside = -_pooled(-mask, shrink, F.max_pool2d)
    return torch.minimum(_pooled(inside, width // 2, F.avg_pool2d), mask)


def _pooled(mask: Tensor, radius: int, pool) -> Tensor:
    """Pooling over squares; what lies past the picture's edge continues its edge."""
    padded = F.pad(mask[:, None], (radius,) * 4, mode="replicate")
    return pool(padded, 2 * radius + 1, stride=1)[:, 0]


def _fitted(original: Tensor, edited: Tensor) -> Tensor:
    """The original cut as VAE Encode cuts it: the middle, to multiples of 8 pixels."""
    original = as_rgb(original, "The original").to(edited)
    height, width = edited.shape[1:3]
    if len(original) not in (1, len(edited)):
        raise SubjectError(f"There are {len(original)} originals for {len(edited)} edits; connect one, or as many.")
    spare = [have - need for have, need in zip(original.shape[1:3], (height, width), strict=True)]
    if not all(0 <= each < VAE_FACTOR for each in spare):
        raise SubjectError(
            f"The original is {original.shape[2]}x{original.shape[1]} pixels, the edit {width}x{height}. Connect the "
            "picture that was encoded, at the size it was encoded in."
        )
    top, left = (each // 2 for each in spare)
    return original[:, top : top + height, left : left + width].expand(len(edited), -1, -1, -1)
