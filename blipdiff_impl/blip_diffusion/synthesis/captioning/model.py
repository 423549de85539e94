"""Captions sampled by a captioning model (BLIP, BLIP-2 or GIT) from a local folder, through transformers.

Nucleus sampling (Holtzman et al., The Curious Case of Neural Text Degeneration, section 3.1) with random numbers that
belong to a photo's key, so that a photo gets its captions whatever photos are in the batch with it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....errors import CheckpointError, SubjectError, shown
from ....files import digest_of, read_json
from ....settings import require_in_range
from ....weights.transformers_folder import load_from, load_network, require_all

KINDS = ("blip", "blip-2", "git")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class SamplingSettings:
    """How captions are drawn; the values are those of the author's code, which names no longest caption.

    Attributes:
        samples: captions of a photo.
        top_p: share of probability that is drawn from, the likeliest words first.
        min_tokens, max_tokens: length of a caption in word pieces, beside start and end.
        seed: of all random numbers.
    """

    samples: int = 48
    top_p: float = 0.95
    min_tokens: int = 5
    max_tokens: int = 30
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.top_p <= 1:
            raise SubjectError(f"top_p = {shown(self.top_p)} should be above 0 and at most 1.")
        require_in_range("samples", self.samples, 1, 10_000)
        if not 0 <= self.min_tokens < self.max_tokens <= 200:
            raise SubjectError(
                f"min_tokens = {shown(self.min_tokens)} and max_tokens = {shown(self.max_tokens)} should rise within "
                "0..200."
            )


class Captioner:
    """A captioning model, in half precision on a GPU and in single precision on the CPU.

    Args:
        folder: as transformers stores it: config.json, model*.safetensors, and the processor's files.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder holds another kind of model.
    """

    def __init__(self, folder: Path, device: str = "cpu"):
        self.fingerprint = _fingerprint(folder)
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        self._model, self._processor = _load(folder, dtype)
        self._model.to(device)

    @torch.inference_mode()
    def captions(self, pictures: list[Image.Image], keys: list[str], settings: SamplingSettings) -> list[list[str]]:
        """`settings.samples` captions for each picture; the key of a picture chooses its random numbers."""
        from transformers import LogitsProcessorList

        model = self._model
        inputs = self._processor(images=pictures, return_tensors="pt").to(model.device, model.dtype)
        draw = NucleusDraw(settings.top_p, np.concatenate([random_numbers(key, settings) for key in keys]))
        tokens = model.generate(
            pixel_values=inputs["pixel_values"],
            logits_processor=LogitsProcessorList([draw]),
            do_sample=True,
            num_beams=1,
            num_return_sequences=settings.samples,
            min_new_tokens=settings.min_tokens,
            max_new_tokens=settings.max_tokens,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [texts[start : start + settings.samples] for start in range(0, len(texts), settings.samples)]


class NucleusDraw:
    """Leaves one word of each row, drawn from its nucleus, for the library's sampler to take.

    The library's own draw takes its random numbers from all rows' common source, so a caption would depend on the
    photos beside it.

    Args:
        numbers: uniform in 0..1, `[rows, steps]`.
    """

    def __init__(self, top_p: float, numbers: np.ndarray):
        self._top_p, self._numbers, self._step = top_p, torch.from_numpy(numbers), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[rows, words]` with all but the drawn word at minus infinity."""
        shares, words = torch.sort(scores.float().softmax(-1).double(), dim=-1, descending=True, stable=True)
        reached = shares.cumsum(-1)
        last = (reached - shares < self._top_p).sum(-1, keepdim=True) - 1
        number = self._numbers[:, self._step, None].to(scores.device)
        self._step += 1
        place = torch.searchsorted(reached, number * reached.gather(-1, last), right=True)
        drawn = words.gather(-1, torch.minimum(place, last))
        return torch.full_like(scores, float("-inf")).scatter(-1, drawn, 0.0)


def random_numbers(key: str, settings: SamplingSettings) -> np.ndarray:
    """Uniform in 0..1, `[samples, max_tokens]`, by seed and key."""
    digest = hashlib.sha256(f"{settings.seed}\0{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).random((settings.samples, settings.max_tokens))


def _fingerprint(folder: Path) -> str:
    config = read_json(folder / "config.json")
    if config is None:
        raise CheckpointError(f"{folder} is no folder of a captioning model: it has no config.json.")
    if config.get("model_type") not in KINDS:
        raise CheckpointError(
            f"{folder} holds a model of type {config.get('model_type')!r}, but captions come from {', '.join(KINDS)}."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            f"{folder} has no model.safetensors. Weights in pickle files (.bin) are not read, since they can run "
            "programs; get the model's safetensors files."
        )
    if not any((folder / name).is_file() for name in _VOCABULARIES):  # the library would make an empty one
        raise CheckpointError(
            f"{folder} has no vocabulary ({' or '.join(_VOCABULARIES)}). Get the model's files whole."
        )
    return digest_of(folder / "config.json", *weights)


def _load(folder: Path, dtype: torch.dtype):
    complaint = (
        f"The captioning model in {folder} cannot be loaded: a file is damaged, missing or of another model, or it "
        "needs code of its own, which is never run. Download the model whole."
    )
    processor = load_from(folder, "AutoProcessor", complaint)
    model, report = load_network(folder, "AutoModelForImageTextToText", complaint, use_safetensors=True, dtype=dtype)
    require_all(folder, report)
    return model, processor
