"""Auto layout: after some steps the places where the prompt's own words look take over from the boxes (docs/method.md
13.7)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ..attention.probabilities import column_means
from ..settings import require_in_range

_LEVEL = 1e-5  # added to a map's range, so that one without ups and downs covers nothing


class AutoLayout:
    """Running means of the subjects' attention maps, layer by layer, over the evaluations of one run.

    Args:
        columns: of each subject's phrase in the prompt, as `phrase_columns` finds them.
        threshold: how far up between its lowest and highest value a place must look to be covered, 0 to 1.
        first: the evaluation of the UNet, from 1, in which the maps take over.

    Raises:
        SubjectError: a setting out of range.
    """

    def __init__(self, columns: Sequence[Sequence[int]], threshold: float = 0.5, first: int = 5):
        require_in_range("threshold", threshold, 0, 1)
        require_in_range("start_step", first, 1)
        self._columns, self._threshold, self._first = columns, threshold, first
        self._means: dict[Hashable, tuple[Tensor, int]] = {}

    def begin(self) -> None:
        """A new run: forget the maps of the last one."""
        self._means.clear()

    def masks(
        self, layer: Hashable, q: Tensor, k: Tensor, heads: int, period: int, bias: Tensor | None = None
    ) -> Tensor | None:
        """Take in one evaluation of a layer; what its subjects cover then.

        Args:
            layer: whose mean it is; anything that tells the layers (and the prompts of one run) apart.
            q: `[B, places, heads * dim]`.
            k: of the text, `[B, keys, heads * dim]`.
            period: keys after which the prompt repeats.
            bias: what is added to the text's scores, `[B, places, keys]`.

        Returns:
            bool `[B, subjects, places]`; None as long as the boxes hold.
        """
        found = column_means(q, k, heads, self._columns, period, bias)
        mean, count = self._means.get(layer, (found, 0))
        mean, count = mean + (found - mean) / (count + 1), count + 1
        self._means[layer] = (mean, count)
        return above(mean, self._threshold) if count >= self._first else None


def above(maps: Tensor, threshold: float) -> Tensor:
    """Where maps `[..., places]` are above a share of the way from their lowest to their highest value, as bool."""
    low, high = maps.amin(dim=-1, keepdim=True), maps.amax(dim=-1, keepdim=True)
    return (maps - low) / (high - low + _LEVEL) > threshold
