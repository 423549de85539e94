"""What a MODEL's patches make of one of its weights, taken apart: how much is the base, a tuned change, other weights.

The host keeps a list for each weight and works through it: multiply what is there, add something. What is added is a
change (a LoRA, a tuning) or, where models were merged, another model's weight with a list of its own. All of it is
linear, so that the result is a sum, in which the base and each tuning have a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...blipdiff_impl.errors import SubjectError

_NOTHING = 1e-6  # rounding of factors such as 0.3 + 0.7


@dataclass
class Mix:
    """factor * base weight + tuned changes + other weights.

    Attributes:
        tuned: patches with their factors.
        others: weights of other models, as the host keeps them, with their factors.
        left_out: whether there are LoRAs, which are no part of the sum.
    """

    base: float = 0.0
    tuned: list[tuple[float, Any]] = field(default_factory=list)
    others: list[tuple[float, Tensor]] = field(default_factory=list)
    left_out: bool = False

    def scaled(self, factor: float) -> Mix:
        return Mix(
            self.base * factor,
            [(factor * f, patch) for f, patch in self.tuned],
            [(factor * f, weight) for f, weight in self.others],
            self.left_out,
        )

    def plus(self, other: Mix) -> Mix:
        return Mix(
            self.base + other.base,
            _summed(self.tuned + other.tuned),
            _summed(self.others + other.others),
            self.left_out or other.left_out,
        )

    def minus(self, other: Mix) -> Mix:
        return self.plus(other.scaled(-1.0))

    def without_nothing(self) -> Mix:
        """The same without terms whose factors are nothing but rounding."""
        kept = [[(f, term) for f, term in terms if abs(f) > _NOTHING] for terms in (self.tuned, self.others)]
        return Mix(self.base if abs(self.base) > _NOTHING else 0.0, *kept, self.left_out)


def take_apart(entries: Iterable[tuple], base: Tensor, is_tuned: Callable[[Any], bool], name: str) -> Mix:
    """The sum that the host's entries for one weight make.

    LoRAs are left out: whatever adapters and changes are added to the whole of what is there, and are no tuning.

    Args:
        entries: of `ModelPatcher.patches`.
        base: the weight below them.
        is_tuned: whether a patch is a tuning.

    Raises:
        SubjectError: the weight was changed in a way that is no sum.
    """
    return _continued(Mix(1.0), entries, base, is_tuned, name)


def _continued(mix: Mix, entries: Iterable[tuple], base: Tensor, is_tuned, name: str) -> Mix:
    for strength, value, strength_of_model, offset, function in entries:
        added = None
        if isinstance(value, list):
            (start, convert), *inner = value
            first = Mix(1.0) if _same(start, base) else Mix(others=[(1.0, convert(start, inplace=False))])
            added = _continued(first, inner, base, is_tuned, name)
        elif is_tuned(value):
            added = Mix(tuned=[(1.0, value)])
        elif strength_of_model == 1.0 and not _replaces(value):
            mix.left_out = True
            continue
        elif _replaces(value):
            mix, strength, added = Mix(left_out=mix.left_out), 1.0, Mix(others=[(1.0, value[1][0])])
        elif not isinstance(value, WeightAdapterBase):
            added = Mix(others=[(1.0, changes_of(value))])
        if added is None or offset is not None or function is not None:
            raise SubjectError(
                f"The weight {name} of the MODEL was changed after tuning by a node whose work cannot be saved with "
                "the subject. Connect the MODEL from before that node to Save Subject."
            )
        mix = mix.scaled(strength_of_model).plus(added.scaled(strength))
    return mix


def changes_of(patch: Any) -> Tensor:
    """The tensor of a patch that adds one: the host takes ("diff", (change, ...)) and (change,); of a LoRA, its up."""
    if isinstance(patch, LoRAAdapter):
        return patch.weights[0]
    return patch[1][0] if len(patch) == 2 else patch[0]


def _replaces(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and value[0] == "set"


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are one; a model on its device keeps a copy of what its patches changed."""
    if one is other:
        return True
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.to(other.device), other)


def _summed(terms: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    """Terms of the same thing as one."""
    factors: dict[int, float] = {}
    for factor, term in terms:
        factors[id(term)] = factors.get(id(term), 0.0) + factor
    by_id = {id(term): term for _, term in terms}
    return [(factor, by_id[key]) for key, factor in factors.items()]
