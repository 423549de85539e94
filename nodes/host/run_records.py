"""What the runs of a sampler leave behind for later nodes: masks of edits, attention maps.

One store for the whole pack. A record belongs to one picture of a run, or one pair of an edit, and is found by the
digest of the samples that came out. So neither the MODEL that made it nor the batch that it came in has to last: the
host gives up MODELs first when memory is short, runs whole lists in a node before the next one starts, and cuts and
joins batches.

A record stays for as long as the LATENT that the sampler gave, or that it was looked up with. Copies of a LATENT cannot
be followed, so the last records stay in any case, up to a number of bytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import comfy.model_management as mm
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LIMIT = 128 * 2**20  # bytes of records that stay whatever becomes of their LATENTs


class _Record:
    """A value, and the bytes that it takes."""

    def __init__(self, value: Any, size: int):
        self.value, self.size = value, size


class RunRecords:
    """Values by the samples that belong to them.

    Args:
        limit: bytes of the records that stay although no LATENT is known to be theirs.
    """

    def __init__(self, limit: int = LIMIT):
        self._limit = limit
        self._all: WeakValueDictionary[tuple[Hashable, str], _Record] = WeakValueDictionary()
        self._of_latents = WeakTensorKeyDictionary()
        self._recent: OrderedDict[_Record, None] = OrderedDict()

    def keep(self, names: Sequence[Hashable], values: Sequence[tuple[Any, int]], outcomes: Sequence[Tensor]) -> None:
        """Remember what a run left.

        Args:
            names: under which it can be asked for.
            values: for each part of the samples, a value and its size in bytes.
            outcomes: what came out, `[len(values) * n, ...]` each: the samples, and others that stand for the run.
        """
        records = [_Record(*each) for each in values]
        for outcome in outcomes:
            for record, digest in zip(records, _digests(outcome, len(records)), strict=True):
                for name in names:
                    self._all[name, digest] = record
            self._hold(outcome, records)
        for record in records:
            self._recent[record] = None
        self._forget(len(records))

    def find(self, names: Sequence[Hashable], samples: Tensor, together: int = 1) -> list[Any]:
        """The value of each part of these samples, None where there is none.

        Args:
            names: the first under which there is a value counts.
            together: samples in a part; nothing is found where it does not divide them.
        """
        if samples.ndim == 0 or len(samples) % together:
            return []
        digests = _digests(samples, len(samples) // together)
        found = [next(filter(None, (self._all.get((name, digest)) for name in names)), None) for digest in digests]
        self._hold(samples, [record for record in found if record is not None])
        return [None if record is None else record.value for record in found]

    def _hold(self, samples: Tensor, records: list[_Record]) -> None:
        """Keep the records for as long as this tensor lives."""
        if records:
            # A set, because a viewer may ask over and over.
            self._of_latents.setdefault(samples, set()).update(records)

    def _forget(self, newest: int) -> None:
        """Drop the oldest until the rest fits; what the last run left stays however large it is."""
        size = sum(record.size for record in self._recent)
        while size > self._limit and len(self._recent) > newest:
            oldest, _ = self._recent.popitem(last=False)
            size -= oldest.size


def run_to_the_end(executor, arguments: tuple, named: dict) -> tuple[Tensor, list[Tensor]]:
    """Let a sampler run inside a wrapper of the host's OUTER_SAMPLE.

    Returns:
        The samples, and what the host may hand on in their stead: the last predicted picture, in the VAE's scale, which
        SamplerCustomAdvanced gives as `denoised_output`.
    """
    place = 5  # of the callback among the host's arguments
    callback = named.get("callback") if len(arguments) <= place else arguments[place]
    if callback is None:
        return executor(*arguments, **named), []
    last = []

    def remember(step, x0, *others):
        last[:] = [x0]
        return callback(step, x0, *others)

    if len(arguments) <= place:
        named = {**named, "callback": remember}
    else:
        arguments = (*arguments[:place], remember, *arguments[place + 1 :])
    samples = executor(*arguments, **named)
    model = executor.class_obj.model_patcher.model
    return samples, [model.process_latent_out(x0.cpu()) for x0 in last if len(x0) == len(samples)]


def _digests(samples: Tensor, parts: int) -> list[str]:
    """SHA-256 of each part of the samples as the host's nodes hand them on."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    data = samples.detach().to("cpu", dtype).to(torch.float32)
    return [hashlib.sha256(part.contiguous().numpy()).hexdigest() for part in data.tensor_split(parts)] if parts else []


RECORDS = RunRecords()  # the pack's
