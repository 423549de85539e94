"""Subjects on a MODEL: all that can be known before sampling is computed here, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.ms_diffusion.adapter import MSAdapter
from ....blipdiff_impl.ms_diffusion.auto_layout import AutoLayout
from ....blipdiff_impl.ms_diffusion.box_sheet import box_sheet
from ....blipdiff_impl.ms_diffusion.config import RELEASED
from ....blipdiff_impl.ms_diffusion.subjects import PlacedSubjects, notice
from ..attention import attention_layers
from ..notices import tell
from .adapter import HostAdapter
from .phrases import columns_of, phrase_vectors
from .run import SubjectsInRuns

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP


@dataclass(frozen=True, kw_only=True)
class ApplySettings:
    """What an artist chooses.

    Attributes:
        scale: of all subjects; each one's strength is times that.
        start, end: the part of the run in which the subjects act, 0 to 1, as the host's own nodes count it.
        grounded: whether phrase and box tell the resampler what to look for.
        auto_layout: whether the places where the prompt's nouns look take over from the boxes.
        prompt: for auto layout, the positive prompt.
        threshold: for auto layout, how much a place must look.
        first: for auto layout, the evaluation of the model in which it takes over.
    """

    scale: float = 0.6
    start: float = 0.0
    end: float = 1.0
    grounded: bool = True
    auto_layout: bool = False
    prompt: str = ""
    threshold: float = 0.5
    first: int = 5


def apply_subjects(
    model: ModelPatcher,
    clip: CLIP,
    clip_vision,
    adapter: HostAdapter,
    subjects: PlacedSubjects,
    settings: ApplySettings,
) -> tuple[ModelPatcher, Tensor]:
    """A clone of the MODEL that draws the subjects, and an IMAGE of their boxes.

    Raises:
        SubjectError: a MODEL, CLIP or CLIP_VISION of another kind, no subject, or settings that leave nothing to do.
    """
    placed = subjects.placed
    if not placed:
        raise SubjectError("There is no subject. Connect MS-Diffusion Subject, once for each.")
    _require_range(settings)
    require_fitting(model, adapter.adapter)
    seen_by = clip_vision or adapter.clip_vision
    if seen_by is None:
        raise SubjectError(
            "No clip_vision is connected, and only the built-in adapter brings its own. Connect Load CLIP Vision with "
            "CLIP-ViT-bigG-14-laion2B-39B-b160k, or the encoder that the adapter was trained with."
        )
    phrases = [subject.phrase for subject in placed]
    columns = None
    if settings.auto_layout:
        AutoLayout((), settings.threshold, settings.first)  # refuses what is out of range
        columns = columns_of(clip, settings.prompt, phrases)
    if (sentence := notice(len(placed))) is not None:
        tell(sentence)
    found = adapter.subjects(
        _features(seen_by, [subject.image for subject in placed]),
        phrase_vectors(clip, phrases),
        [subject.box for subject in placed],
        [settings.scale * subject.strength for subject in placed],
        settings.grounded,
        model.model.get_dtype_inference(),
    )
    model = model.clone()
    part = (settings.start, settings.end)
    SubjectsInRuns(found, part, columns, settings.threshold, settings.first).install(model)
    return model, box_sheet(placed)


def require_fitting(model: ModelPatcher, adapter: MSAdapter) -> None:
    """Refuse a MODEL whose cross-attention is not what the adapter was made for.

    Raises:
        SubjectError: says how many layers each has, and of what width.
    """
    there, wanted = _widths(model), {layer.key: layer.width for layer in adapter.layers}
    if there == wanted:
        return
    is_xl = adapter.config.unet == RELEASED.unet
    cure = "a Stable Diffusion XL model" if is_xl else "the MODEL that the adapter was trained for"
    raise SubjectError(
        f"This MODEL ({type(model.model).__name__}) has {_described(there)}; the MS-Diffusion adapter is for a UNet "
        f"with {_described(wanted)}. Connect {cure}, or load another adapter."
    )


def _widths(model: ModelPatcher) -> dict:
    """Width of each cross-attention layer by its place."""
    unet = model.model.diffusion_model
    found = {}
    for kind, number, index in attention_layers(model):
        block = unet.middle_block if kind == "middle" else getattr(unet, f"{kind}_blocks")[number]
        transformers = next(part.transformer_blocks for part in block if hasattr(part, "transformer_blocks"))
        attention = transformers[index].attn2
        found[kind, number, index] = attention.heads * attention.dim_head
    return found


def _described(layers: dict) -> str:
    widths = ", ".join(map(str, sorted(set(layers.values()))))
    return f"{len(layers)} cross-attention layers of width {widths}"


def _features(clip_vision, images: list[Tensor]) -> Tensor:
    """The picture encoder's last states but one, `[subjects, tokens, width]`; pictures are squashed, as in training."""
    found = []
    for image in images:
        states = getattr(clip_vision.encode_image(image, crop=False), "penultimate_hidden_states", None)
        if not isinstance(states, Tensor) or states.ndim != 3:
            raise SubjectError(
                "This CLIP_VISION gives no states of its second-last layer, so it is no CLIP. Load "
                "CLIP-ViT-bigG-14-laion2B-39B-b160k, or the encoder that the adapter was trained with."
            )
        found.append(states.to("cpu", torch.float32))
    return torch.cat(found)


def _require_range(settings: ApplySettings) -> None:
    if not 0 <= settings.start < settings.end <= 1:
        raise SubjectError(
            f"start_percent = {settings.start:g} and end_percent = {settings.end:g} leave no step with the subjects; "
            "choose 0 <= start_percent < end_percent <= 1."
        )
