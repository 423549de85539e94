"""GILL as a whole: a prompt of words and pictures to a reply, and for each picture in it what conditions the UNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, SubjectError
from ..weights.fingerprint import combine, fingerprint_of
from .checkpoint import open_gill
from .config import GILLConfig
from .decoding import OnToken, decode
from .decoding_settings import DecodingSettings
from .interleaving import Prompt, arrange, count_positions, fit_context
from .language_model import LanguageModel, LanguageSizes, read_sizes
from .parts import LearnedParts
from .replaced_mapper import with_mapper
from .retrieval import TextEmbedding
from .vision import Tower, require_tower


@dataclass(frozen=True, eq=False)
class Reply:
    """What the model says.

    Attributes:
        text: its words, up to the last picture where there is one.
        conditioning: for each picture what stands in for the text encoder's output, `[n, 77, 768]`, float32 on the CPU.
        embedding: for each picture, what retrieval and ranking compare with.
        probabilities: for each picture, those of drawing and of retrieving it; None without classifier.
    """

    text: str
    conditioning: Tensor
    embedding: TextEmbedding
    probabilities: list[list[float]] | None

    @property
    def pictures(self) -> int:
        return len(self.conditioning)


class GILL:
    """Language model, learned parts and picture encoder.

    Args:
        language: a model that has no words of GILL yet.
        parts: learned for it.
        tower: sees pictures; None where no prompt has any.

    Attributes:
        module: the two networks that a host moves together.

    Raises:
        CheckpointError: they do not belong together.
    """

    def __init__(self, language: LanguageModel, parts: LearnedParts, tower: Tower | None = None):
        require_width(language.sizes, parts.config, "The language model")
        language.add_words(parts.rows, parts.config.first_image_token)
        self.language, self.parts, self.tower = language, parts, tower
        self.config = parts.config
        self.module = nn.ModuleList([language, parts])
        self._space = fingerprint_of(
            {name: value for name, value in parts.state_dict().items() if name.startswith(("visual_fc", "ret_text"))}
        )

    @property
    def space(self) -> str:
        """A name for the space in which texts and pictures are compared: of the parts and the picture encoder."""
        return combine([self._space, self.tower.fingerprint if self.tower else ""])

    def reply(
        self,
        prompt: Prompt,
        settings: DecodingSettings,
        *,
        cut: bool = False,
        first_sentence: bool = False,
        on_token: OnToken = lambda done, total: None,
    ) -> Reply:
        """The reply to a prompt.

        Args:
            cut: leave out the oldest positions where there are more than the model reads.
            first_sentence: keep the text up to its first full stop, as published.
            on_token: called after each step.

        Raises:
            SubjectError: too long, pictures without a picture encoder, or one that gives numbers that are not finite.
        """
        with torch.no_grad():
            found = decode(
                self.language,
                self.embeddings(prompt, settings.most_positions, cut),
                settings,
                self.config.image_tokens,
                on_token,
            )
            conditioning, decisions = self.parts.conditioning(found.states), self.parts.decisions(found.states)
            vectors, scale = self.parts.text_embedding(found.states), float(self.parts.logit_scale.exp())
        conditioning = conditioning.float().cpu()
        if not bool(torch.isfinite(conditioning).all()):
            raise SubjectError(
                "The reply's conditioning holds NaN or infinite numbers: the language model's are too large for its "
                "type. Load it in bf16 or fp32."
            )
        return Reply(
            self._text(found.ids, first_sentence),
            conditioning,
            TextEmbedding(vectors.float().cpu(), scale, self.space),
            None if decisions is None else decisions.float().cpu().tolist(),
        )

    @torch.no_grad()
    def embeddings(self, prompt: Prompt, reserved: int = 0, cut: bool = False) -> Tensor:
        """The prompt as the language model reads it, `[1, T, W]`.

        Args:
            reserved: positions that the reply will take.
            cut: as for `reply`.

        Raises:
            SubjectError: as `reply`.
        """
        start, width = self.language.sizes.start, self.config.visual_tokens
        pieces = arrange(prompt.items, self.language.tokenizer.ids, start)
        needed, room = count_positions(pieces, width), self.language.sizes.positions - reserved
        if needed > room:
            if not cut or room < 1 + width:
                raise SubjectError(_too_long(needed, reserved, self.language.sizes.positions))
            pieces = fit_context(pieces, width, room, start)
        parts = [self.language.embed(each) if isinstance(each, list) else self._prefix(each) for each in pieces]
        return torch.cat([each.to(self.language.device, self.language.dtype) for each in parts], 1)

    @torch.no_grad()
    def picture_embeddings(self, pictures: Tensor, squash: bool = False) -> Tensor:
        """Pictures `[B, H, W, 1 | 3 | 4]` in the space of retrieval, `[B, R]` of unit length, float32 on the CPU.

        Args:
            squash: to a square without cutting, as drawn pictures are ranked; else the middle is taken.

        Raises:
            SubjectError: there is no picture encoder, or one that gives numbers that are not finite.
        """
        return self.parts.picture_embedding(self._pooled(pictures, squash)).float().cpu()

    def _prefix(self, picture: Tensor) -> Tensor:
        return self.parts.prefix(self._pooled(picture, False))

    def _pooled(self, pictures: Tensor, squash: bool) -> Tensor:
        pooled = require_tower(self.tower, self.config.vision_width).pooled(pictures, squash)
        if not bool(torch.isfinite(pooled).all()):
            raise SubjectError(
                "The CLIP vision model gave NaN or infinite numbers for a picture. Load it in a wider type."
            )
        return pooled

    def _text(self, ids: tuple[int, ...], first_sentence: bool) -> str:
        """Words up to the last picture, without the tokens of pictures."""
        pictures = set(self.config.image_tokens)
        last = max((place for place, each in enumerate(ids) if each in pictures), default=len(ids) - 1)
        text = self.language.tokenizer.text([each for each in ids[: last + 1] if each not in pictures]).strip()
        sentence, stop, _ = text.partition(".")
        return (sentence + stop).strip() if first_sentence else text


def load_gill(
    path: Path,
    language_folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
    tower: Tower | None = None,
    mapper: Path | None = None,
) -> GILL:
    """A whole model from files, on the CPU; sizes are compared before any weight is read.

    Args:
        path: as `checkpoint.open_gill` takes it.
        language_folder: of transformers, with an OPT of the width that the model was trained for; None for the one that
            the file at `path` brings.
        dtype: of the language model; the learned parts are kept in float32.
        tower: sees pictures; None for the one in the file, or where no prompt has any.
        mapper: a file whose mapper takes the place of the model's own (`replaced_mapper`).

    Raises:
        CheckpointError: a file cannot be used, or they do not belong together.
    """
    opened = open_gill(path)
    if opened.companions is not None and (language_folder is not None or tower is not None):
        raise CheckpointError(
            f"{path.name} brings its own language model and picture encoder and works with no other. Choose no folder "
            "of a language model, and connect no CLIP vision model."
        )
    if tower is not None:
        require_tower(tower, opened.config.vision_width)
    if language_folder is None:
        language, tower = opened.language_model(dtype), tower or opened.picture_encoder()
    else:
        require_width(read_sizes(language_folder), opened.config, f"The language model in {language_folder}")
        language = LanguageModel.from_folder(language_folder, dtype)
    parts = opened.load() if mapper is None else with_mapper(opened.load(), mapper)
    return GILL(language, parts, tower)


def require_width(sizes: LanguageSizes, config: GILLConfig, what: str) -> None:
    """Refuse a language model of another width than that of the learned parts.

    Raises:
        CheckpointError: names both, and what to load.
    """
    if sizes.width != config.language_width:
        name = "OPT-6.7B (facebook/opt-6.7b)" if config.language_width == 4096 else "the OPT it was trained with"
        raise CheckpointError(
            f"{what} is {sizes.width} wide, but this GILL model was trained for one of {config.language_width}. Choose "
            f"{name}."
        )


def _too_long(needed: int, reserved: int, positions: int) -> str:
    return (
        f"The prompt takes {needed} positions and the reply up to {reserved}, together more than the {positions} that "
        "the language model reads. Shorten the conversation, lower max_new_tokens, or have the oldest part left out "
        "(too_long)."
    )
