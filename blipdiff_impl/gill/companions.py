"""The language model and the picture encoder that a file of GILL's can bring along, as small ones do.

Both are transformers' own classes. Of their configurations a file holds numbers only, which are looked at before
anything is built from them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..settings import typed_record
from ..untrusted import DAMAGE, parse_json
from ..weights.shapes import Shapes
from .language_model import LanguageModel, LanguageSizes
from .tokenizer import TextTokenizer
from .vision import ClipVision

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, OPTForCausalLM

LANGUAGE, VISION = "language_model.", "vision_model."
_LARGEST = {"vocab_size": 1 << 20, "num_hidden_layers": 256, "num_attention_heads": 512, "ffn_dim": 1 << 18,
            "intermediate_size": 1 << 18, "cells": 16}  # fmt: skip
_TIED = "lm_head.weight"  # the same numbers as the table of words


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """An OPT, by transformers' names."""

    vocab_size: int = 50272
    hidden_size: int = 4096
    ffn_dim: int = 16384
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    max_position_embeddings: int = 2048

    def __post_init__(self):
        _check(self, "language model", self.hidden_size)

    def build(self) -> OPTForCausalLM:
        """transformers' class of this size, with weights by chance."""
        from transformers import OPTConfig, OPTForCausalLM

        return OPTForCausalLM(OPTConfig(word_embed_proj_dim=self.hidden_size, dropout=0.0, **dataclasses.asdict(self)))


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A CLIP vision model, by transformers' names; `cells` is that of `ClipVision`."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    cells: int = 0

    def __post_init__(self):
        _check(self, "picture encoder", self.hidden_size)
        if self.image_size % self.patch_size:
            raise CheckpointError(
                f"The picture encoder's patches of {self.patch_size} pixels do not divide its pictures of "
                f"{self.image_size}. Choose another file."
            )

    @property
    def width(self) -> int:
        """Of what it says of a picture."""
        return self.hidden_size * (1 + self.cells**2)

    def build(self) -> CLIPVisionModel:
        """transformers' class of this size, with weights by chance."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        sizes: Any = {name: value for name, value in dataclasses.asdict(self).items() if name != "cells"}
        return CLIPVisionModel(CLIPVisionConfig(**sizes))


@dataclass(frozen=True, kw_only=True)
class Companions:
    """Sizes of both."""

    language: LanguageConfig = field(default_factory=LanguageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Companions:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: the text is no such record, or has a size that no such model has.
        """
        try:
            record = parse_json(text)
        except ValueError as error:
            raise CheckpointError(
                f"The sizes of GILL's language model are not valid JSON ({error}). Download the file again."
            ) from error
        return typed_record(cls, record, "sizes of GILL's language model and picture encoder")

    def shapes(self) -> Shapes:
        """Every tensor of both, by their names in the file."""
        with torch.device("meta"):
            networks = {LANGUAGE: self.language.build(), VISION: self.vision.build()}
        return {
            f"{prefix}{name}": tuple(tensor.shape)
            for prefix, network in networks.items()
            for name, tensor in stored(network).items()
        }

    def make_language_model(
        self, tensor: Callable[[str], Tensor], tokenizer: TextTokenizer, dtype: torch.dtype
    ) -> LanguageModel:
        """The language model on the CPU.

        Args:
            tensor: gives one weight by its name in the file.
        """
        sizes = self.language
        if tokenizer.size > sizes.vocab_size:
            raise CheckpointError(
                f"The tokenizer in the file has {tokenizer.size} words, its language model {sizes.vocab_size}. "
                "Download the file again."
            )
        network = _filled(sizes.build().to(dtype), LANGUAGE, tensor)
        positions = LanguageSizes(sizes.hidden_size, sizes.max_position_embeddings, sizes.num_hidden_layers, 2, 2)
        return LanguageModel(network, tokenizer, positions)

    def make_picture_encoder(self, tensor: Callable[[str], Tensor]) -> ClipVision:
        """The picture encoder on the CPU, float32; `tensor` as for the language model."""
        return ClipVision(_filled(self.vision.build(), VISION, tensor), self.vision.cells)


def stored(network: nn.Module) -> dict[str, Tensor]:
    """What a file holds of a network: not what is there twice, nor what is counted and not learned."""
    return {
        name.removeprefix("vision_model."): value
        for name, value in network.state_dict().items()
        if name != _TIED and not name.endswith("position_ids")
    }


def tables_of(text: str) -> TextTokenizer:
    """The tokenizer of a file: `{"vocab": {...}, "merges": ["a b", ...]}`.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        record: Any = parse_json(text)
        return TextTokenizer.from_tables(record["vocab"], record["merges"])
    except DAMAGE as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError("The tokenizer in GILL's file is damaged. Download the file again.") from None


def _filled(network, prefix: str, tensor: Callable[[str], Tensor]):
    """The network with the weights of the file, frozen."""
    with torch.no_grad():
        for name, value in stored(network).items():
            value.copy_(tensor(f"{prefix}{name}"))
    return network.requires_grad_(False).eval()


def _check(config: Any, what: str, width: int) -> None:
    for name, value in dataclasses.asdict(config).items():
        most = _LARGEST.get(name, 1 << 16)
        least = int(name != "cells")
        if not least <= value <= most:
            raise CheckpointError(
                f"GILL's {what} has {name} = {value}; from {least} to {most} is possible. Choose another file."
            )
    if width % config.num_attention_heads:
        raise CheckpointError(
            f"GILL's {what} is {width} wide, which its {config.num_attention_heads} heads do not divide. Choose "
            "another file."
        )
