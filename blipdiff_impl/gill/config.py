"""Sizes of GILL's learned parts; the defaults are those of the released ones (docs/method.md 14.3, 14.4)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import CheckpointError, shown
from ..settings import typed_record
from ..untrusted import parse_json

_LARGEST = 1 << 16
_LIMITS = {"encoder_layers": 64, "decoder_layers": 64, "heads": 256, "queries": 1024}
IMAGE_TOKENS = 8
# What the published model_args.json says of the parts that have one form only.
_ONE_FORM = {
    "text_fc_mode": "gill_mapper",
    "ret_text_fc_mode": "linear",
    "text_emb_layers": [-1],
    "share_ret_gen": True,
    "num_tokens": IMAGE_TOKENS,
}


@dataclass(frozen=True, kw_only=True)
class MapperConfig:
    """The encoder and decoder between language model and text space.

    Attributes:
        width: of its tokens.
        heads: of its attention.
        encoder_layers, decoder_layers: how many of each.
        feed_forward: width inside its feed-forward layers.
        queries: positions that come out, those of a row of the text encoder.
        output_width: width of what comes out, that of the text encoder.
    """

    width: int = 512
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 4
    feed_forward: int = 2048
    queries: int = 77
    output_width: int = 768


@dataclass(frozen=True, kw_only=True)
class GILLConfig:
    """All learned parts.

    Attributes:
        language_width: of the language model's word embeddings and last states.
        vision_width: of the picture encoder's pooled output.
        visual_tokens: positions that a picture takes in the prompt.
        retrieval_width: of the space in which texts and pictures are compared.
        first_image_token: the id of [IMG0]; the seven others follow.
        decision: whether a classifier says if a picture should be drawn or retrieved.
        text_encoder: fingerprint of the text encoder that the mapper imitates; "" for Stable Diffusion 1.5's.
    """

    language_width: int = 4096
    vision_width: int = 1024
    visual_tokens: int = 4
    retrieval_width: int = 256
    first_image_token: int = 50266
    decision: bool = False
    text_encoder: str = ""
    mapper: MapperConfig = field(default_factory=MapperConfig)

    def __post_init__(self):
        """Refuse sizes that no such model has, before anything is built from them.

        Raises:
            CheckpointError: names the size and its limits.
        """
        for name, value in dataclasses.asdict(self.mapper).items():
            _require(f"mapper.{name}", value, 1, _LIMITS.get(name, _LARGEST))
        if self.mapper.width % self.mapper.heads:
            raise CheckpointError(
                f"GILL's mapper.width is {self.mapper.width}, which its {self.mapper.heads} heads do not divide. "
                "Choose another file."
            )
        for name in ("language_width", "vision_width", "retrieval_width"):
            _require(name, getattr(self, name), 1, _LARGEST)
        _require("visual_tokens", self.visual_tokens, 1, 64)
        _require("first_image_token", self.first_image_token, 1, 1 << 20)

    @property
    def image_tokens(self) -> tuple[int, ...]:
        """The ids of [IMG0] to [IMG7]."""
        return tuple(range(self.first_image_token, self.first_image_token + IMAGE_TOKENS))

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> GILLConfig:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: the text is no JSON object, has a field that this version does not know, or a size that
                no such model has.
        """
        try:
            record = parse_json(text)
        except ValueError as error:
            raise CheckpointError(
                f"GILL's configuration is not valid JSON ({error}). Convert the file again."
            ) from error
        return typed_record(cls, record, "configuration of GILL")


def apply_model_args(config: GILLConfig, args: Mapping[str, object], where: str) -> GILLConfig:
    """The sizes that a file's tensors have, with what only `model_args.json` says of them.

    Args:
        config: sizes read off the tensors.
        args: the published record beside them.
        where: its file, for messages.

    Raises:
        CheckpointError: the record is of a model of another form, or of other sizes than the tensors.
    """
    sizes = {
        "n_visual_tokens": config.visual_tokens,
        "ret_emb_dim": config.retrieval_width,
        "gen_emb_dim": config.mapper.output_width,
        "num_clip_tokens": config.mapper.queries,
    }
    for name, due in (_ONE_FORM | sizes).items():
        found = args.get(name, due)
        if found != due or type(found) is not type(due):
            raise CheckpointError(
                f"{where} says {name} = {shown(found)}, but the weights beside it have {shown(due)}. Take both files "
                "from one download."
            )
    ids = args.get("gen_token_idx", list(config.image_tokens))
    first = _first_of_a_run(ids)
    if first is None or args.get("retrieval_token_idx", ids) != ids:
        raise CheckpointError(
            f"{where} says gen_token_idx = {shown(ids)}; {IMAGE_TOKENS} ids that follow each other are due, and the "
            "same as retrieval_token_idx. Download it again."
        )
    return dataclasses.replace(config, first_image_token=first)


def _first_of_a_run(ids: object) -> int | None:
    """The first of eight ids that follow each other."""
    if not isinstance(ids, list) or len(ids) != IMAGE_TOKENS or any(type(each) is not int for each in ids):
        return None
    return ids[0] if ids == list(range(ids[0], ids[0] + IMAGE_TOKENS)) else None


def _require(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise CheckpointError(f"GILL's {name} is {value}; from {low} to {high} is possible. Choose another file.")


RELEASED = GILLConfig()
