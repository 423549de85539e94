"""A reply of GILL in the host: text, and what conditions Stable Diffusion for each picture (docs/method.md 14.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.gill.config import GILLConfig
from ....blipdiff_impl.gill.decoding_settings import DECIDE, DecodingSettings
from ....blipdiff_impl.gill.interleaving import Prompt
from ....blipdiff_impl.gill.pipeline import GILL
from ....blipdiff_impl.gill.retrieval import TextEmbedding, decision
from ....blipdiff_impl.gill.text_encoder import text_encoder_fingerprint
from ....blipdiff_impl.settings import require_one_of
from ....blipdiff_impl.toy_world.limits import words_notice
from ..notices import tell
from ..prompt_rows import Conditioning, require_stable_diffusion
from ..session import Progress
from .loader import HostGILL
from .options import CUT, FULL, REFUSE, REPLIES, SENTENCE, TOO_LONG

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP


@dataclass(frozen=True, eq=False)
class Answer:
    """What the node gives out.

    Attributes:
        conditioning, embedding: None where the reply has no picture.
        negative: the text encoder's output for the empty text; None without CLIP.
        choice: "gen", "ret" or "none", with its probability.
        pictures: how many the reply has.
    """

    conditioning: Conditioning | None
    negative: Conditioning | None
    reply: str
    choice: str
    probability: float
    embedding: TextEmbedding | None
    pictures: int


def answer(
    model: HostGILL,
    prompt: Prompt,
    settings: DecodingSettings,
    *,
    reply: str = FULL,
    too_long: str = REFUSE,
    clip: CLIP | None = None,
    diffusion_model: ModelPatcher | None = None,
) -> Answer:
    """The reply, with a bar that advances word by word; the networks leave the device before anything is drawn.

    Args:
        clip, diffusion_model: of the model that will draw, where they are known: refused if they do not fit.

    Raises:
        SubjectError: models that do not fit, or a prompt that cannot be answered.
    """
    require_one_of("reply", reply, REPLIES)
    require_one_of("too_long", too_long, TOO_LONG)
    config = model.gill.config
    if clip is not None:
        require_text_encoder(clip, config)
    if diffusion_model is not None:
        require_unet(diffusion_model, config)
    if model.of_toy_world and (notice := words_notice(unknown_words(model.gill, prompt))):
        tell(notice)
    progress = Progress(settings.max_new_tokens)
    with model.on_device() as gill:
        found = gill.reply(
            prompt, settings, cut=too_long == CUT, first_sentence=reply == SENTENCE, on_token=progress.report
        )
    negative = None if clip is None else clip.encode_from_tokens_scheduled(clip.tokenize(""))
    if not found.pictures:
        if settings.mode == DECIDE:  # a blocked output is explained once; a second Run comes from the cache, in silence
            tell("No picture in this reply: what is behind CONDITIONING draws nothing.", logged=False)
        return Answer(None, negative, found.text, "none", 0.0, None, 0)
    choice, probability = decision(found.probabilities[0] if found.probabilities else None)
    # Nodes that mix conditionings of several models look for a pooled output, which Stable Diffusion 1.5 has none of.
    pooled = torch.zeros(found.pictures, config.mapper.output_width)
    conditioning = [[found.conditioning, {"pooled_output": pooled}]]
    return Answer(conditioning, negative, found.text, choice, probability, found.embedding, found.pictures)


def unknown_words(gill: GILL, prompt: Prompt) -> list[str]:
    """Words of the prompt that the language model reads in pieces, each once."""
    texts = [item for item in prompt.items if isinstance(item, str)]
    return list(dict.fromkeys(word for text in texts for word in gill.language.tokenizer.words_in_pieces(text)))


def require_text_encoder(clip: CLIP, config: GILLConfig) -> None:
    """Refuse a CLIP whose output the mapper does not imitate.

    Raises:
        SubjectError: it is of another kind or width, or another one of the same size.
    """
    require_stable_diffusion(clip, _cure(config))
    text_model = clip.cond_stage_model.clip_l.transformer.text_model
    width = text_model.embeddings.token_embedding.weight.shape[1]
    if width != config.mapper.output_width:
        raise SubjectError(
            f"This CLIP is {width} wide, but this GILL model speaks the language of one that is "
            f"{config.mapper.output_width} wide. {_cure(config)}"
        )
    if config.text_encoder and text_encoder_fingerprint(text_model.state_dict()) != config.text_encoder:
        raise SubjectError(
            "This CLIP is not the one that this GILL model was trained for, though it has its size: pictures would "
            f"show anything. {_cure(config)}"
        )


def require_unet(model: ModelPatcher, config: GILLConfig) -> None:
    """Refuse a MODEL that reads text of another width.

    Raises:
        SubjectError: names both widths.
    """
    width = model.model.model_config.unet_config.get("context_dim")
    if width != config.mapper.output_width:
        name = {1024: " (a Stable Diffusion 2 is)", 2048: " (an SDXL is)"}.get(width, "")
        reads = f"reads text that is {width} wide{name}" if width else "is of another family than Stable Diffusion 1.5"
        raise SubjectError(
            f"This MODEL {reads}, but this GILL model gives {config.mapper.output_width}. {_cure(config)}"
        )


def _cure(config: GILLConfig) -> str:
    if config.mapper.output_width == 768:
        return "Use a Stable Diffusion 1.5 model that has kept its text encoder."
    return "Use the model that it was trained for."
