"""The image branch of cross-attention: each place looks at the tokens of the subjects whose boxes cover it, in one
softmax over all of them, and at nothing where none does (docs/method.md 13.5).

The branch is added to what the text gave. Where it has nothing to say the text's numbers go through as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.boxes import Box, box_masks, box_tensor, boxes_in_area
from ..attention.probabilities import split_heads
from ..attention.regions import HIDDEN
from ..errors import SubjectError
from ..settings import require_in_range
from .layers import LayerKey

_STRONGEST = 10.0
Part = tuple[tuple[int, int], tuple[int, int, int, int]]


class KeysAndValues(nn.Module):
    """The projections of one layer; names are those of the released file."""

    def __init__(self, context_width: int, width: int):
        super().__init__()
        self.to_k_ip = nn.Linear(context_width, width, bias=False)
        self.to_v_ip = nn.Linear(context_width, width, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, tokens, width]` of tokens `[B, tokens, context width]`."""
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


@dataclass(frozen=True, eq=False)
class Coverage:
    """Which tokens are seen from which places of one layer.

    Attributes:
        seen: bool `[B or 1, places, 1]`, where a subject of a strength other than 0 is seen.
        bias: added to the scores, `[B or 1, 1, places, tokens]`, 0 or `HIDDEN`; None where all that is seen sees all.
    """

    seen: Tensor
    bias: Tensor | None

    def to(self, device: torch.device) -> Coverage:
        """The same on another device."""
        return Coverage(self.seen.to(device), None if self.bias is None else self.bias.to(device))


def coverage(
    masks: Tensor, tokens: int, strengths: Tensor | None = None, dtype=torch.float32, look: bool = True
) -> Coverage | None:
    """From masks of the subjects to what `add_subjects` takes; None where nothing is seen anywhere.

    Args:
        masks: bool `[subjects, places]`, or `[B, subjects, places]` where pictures of a batch differ.
        tokens: of each subject.
        strengths: `[subjects]`; places that only subjects of strength 0 cover are left alone. None means 1 for all.
        dtype: of the queries that will come.
        look: whether to read the masks for a shorter way, which waits for the device that they are on.
    """
    masks = masks if masks.ndim == 3 else masks[None]
    acting = masks if strengths is None else masks & (strengths != 0).to(masks.device)[:, None]
    seen = acting.any(dim=1)
    if look and not seen.any():
        return None
    bias = None
    if not look or not (masks.all(dim=1) | ~seen).all():
        hidden = torch.zeros(masks.shape, dtype=dtype, device=masks.device).masked_fill(~masks, HIDDEN)
        bias = hidden.transpose(1, 2).repeat_interleave(tokens, dim=-1)[:, None]
    return Coverage(seen[..., None], bias)


def add_subjects(text: Tensor, q: Tensor, k: Tensor, v: Tensor, covered: Coverage | None, heads: int) -> Tensor:
    """What a layer gives out with the subjects in it, before its output projection.

    Places that see no subject keep the text's numbers to the last bit; without coverage `text` itself comes back.

    Args:
        text: what attention to the text gave, `[B, places, heads * dim]`; not changed.
        q: the layer's queries, of the same shape.
        k, v: of all subjects' tokens, `[B or 1, tokens, heads * dim]`, values times the strength of their subject.
        covered: of this layer.
    """
    if covered is None:
        return text
    q, k, v = (split_heads(each.to(q.dtype).expand(len(q), -1, -1), heads) for each in (q, k, v))
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=covered.bias).transpose(1, 2).flatten(2)
    return torch.where(covered.seen, text + found, text)


def scaled(values: Tensor, strengths: Tensor) -> Tensor:
    """Values `[B, subjects * tokens, width]`, each times the strength of its subject.

    Strength acts after the softmax, so scaling the values is the same as scaling the probabilities.

    Args:
        strengths: `[subjects]`.
    """
    return values * strengths.to(values).repeat_interleave(values.shape[1] // len(strengths))[:, None]


def checked_strengths(strengths: Sequence[float]) -> Tensor:
    """Strengths of the subjects as float32 `[subjects]`.

    Raises:
        SubjectError: one is not from 0 to 10, or not finite.
    """
    for number, strength in enumerate(strengths, 1):
        require_in_range(f"strength of subject {number}", strength, 0, _STRONGEST)
    return torch.tensor(list(strengths), dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Subjects:
    """All that sampling needs of the subjects, made once, so that the projections can stay behind. With the released
    sizes a subject takes 5 MB in 16 bit.

    A hook on a layer takes what attention to the text gave, and puts the rows of the positive prompt through `add`;
    those of the negative prompt stay as they are.

    Attributes:
        layers: keys `[1, subjects * tokens, width]` and scaled values of the same shape, by the layer's place.
        boxes: of the subjects.
        strengths: `[subjects]`.
        tokens: of each subject.
    """

    layers: Mapping[LayerKey, tuple[Tensor, Tensor]]
    boxes: tuple[Box, ...]
    strengths: Tensor
    tokens: int
    _covered: dict = field(default_factory=dict)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Subjects:
        """The same subjects elsewhere; what each size of layer sees is made again there."""
        moved = {key: (k.to(device, dtype), v.to(device, dtype)) for key, (k, v) in self.layers.items()}
        return Subjects(moved, self.boxes, self.strengths.to(device), self.tokens)

    def coverage(self, grid: tuple[int, int], like: Tensor, part: Part | None = None) -> Coverage | None:
        """What a layer sees by the boxes; made once for each size, kept with the subjects.

        Args:
            grid: (height, width) of the layer's places.
            like: gives type and device, such as the layer's queries.
            part: of the picture, where not all of it is looked at: (height, width) of the whole latent, and (height,
                width, top, left) of the part in its cells.
        """
        key = (grid, part, like.dtype, like.device)
        if key not in self._covered:
            boxes = box_tensor(self.boxes)
            if part is not None:
                boxes = boxes_in_area(boxes, *part)
            covered = coverage(box_masks(boxes, grid), self.tokens, self.strengths.cpu(), like.dtype)
            self._covered[key] = None if covered is None else covered.to(like.device)
        return self._covered[key]

    def coverage_of(self, masks: Tensor, like: Tensor) -> Coverage | None:
        """The same from masks of another source, `[subjects, places]` or `[B, subjects, places]`, whose values are not
        read: they may have been made a moment ago."""
        return coverage(masks, self.tokens, self.strengths, like.dtype, look=False)

    def add(self, text: Tensor, q: Tensor, layer: LayerKey, covered: Coverage | None, heads: int) -> Tensor:
        """`add_subjects` with the keys and values of one layer.

        Raises:
            SubjectError: the adapter has no such layer, or another width there.
        """
        if layer not in self.layers:
            place = " ".join(map(str, layer))
            raise SubjectError(f"The adapter has nothing for the attention layer {place}; it is for another UNet.")
        k, v = self.layers[layer]
        if k.shape[-1] != q.shape[-1]:
            raise SubjectError(
                f"The attention layer {' '.join(map(str, layer))} is {q.shape[-1]} wide, the adapter's {k.shape[-1]}: "
                "it is for another UNet."
            )
        return add_subjects(text, q, k, v, covered, heads)
