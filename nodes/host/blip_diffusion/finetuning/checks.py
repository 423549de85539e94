"""Whether a MODEL, a CLIP and a SUBJECT can be fine-tuned together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_base import ModelType

from .....blipdiff_impl.blip_diffusion.subject import Subject
from .....blipdiff_impl.errors import SubjectError
from .....blipdiff_impl.stable_diffusion.noise import TRAIN_TIMESTEPS
from ...notices import tell
from ..marks import ENCODER_OF_CLIP

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

_TRAINABLE = (torch.float32, torch.float16, torch.bfloat16)
_ADVICE = "Fine-tuning needs a MODEL of the Stable Diffusion 1.5 family, as Load BLIP-Diffusion Model gives it."


def require_trainable(model: ModelPatcher) -> None:
    """Refuse other architectures, other ways of prediction, and weights that gradients cannot move.

    Raises:
        SubjectError: says what the MODEL is instead.
    """
    unet, config = model.model.diffusion_model, model.model.model_config.unet_config
    kind = type(model.model.model_config).__name__
    if not isinstance(unet, UNetModel) or config.get("adm_in_channels") is not None:
        raise SubjectError(f"This MODEL ({kind}) is not one of Stable Diffusion 1.5. {_ADVICE}")
    if config["in_channels"] != 4:
        raise SubjectError(
            f"This MODEL takes {config['in_channels']} latent channels: it is made for inpainting or editing. {_ADVICE}"
        )
    if model.model.model_type != ModelType.EPS:
        raise SubjectError(f"This MODEL predicts {model.model.model_type.name}, not noise. {_ADVICE}")
    if len(getattr(model.get_model_object("model_sampling"), "sigmas", ())) != TRAIN_TIMESTEPS:
        raise SubjectError(f"This MODEL has no table of {TRAIN_TIMESTEPS} noise levels. {_ADVICE}")
    _require_floats(model)


def require_fitting(model: ModelPatcher, clip: CLIP, subject: Subject) -> None:
    """Refuse a subject that is several, has no category, or is of another width than CLIP or MODEL.

    Raises:
        SubjectError: names both numbers.
    """
    if len(subject) != 1:
        raise SubjectError(
            f"Fine-tuning learns one subject, but this batch holds {len(subject)}. Several photos of one subject go "
            "into one Subject Encoder as a batch."
        )
    if not subject.category.strip():
        raise SubjectError(
            "The subject does not say what it is, so there is no caption to train with. Encode it from photos with "
            "Subject Encoder, where its category is named."
        )
    if kinds := sorted(clip.tokenize("").keys() - {"l"}):
        raise SubjectError(f"This CLIP also has the text encoder {', '.join(kinds)}, so it is not of SD1.5. {_ADVICE}")
    width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().embedding_dim
    reads = model.model.model_config.unet_config["context_dim"]
    if not subject.width == width == reads:
        raise SubjectError(
            f"The subject's vectors have width {subject.width}, the CLIP {width}, and the MODEL reads {reads}. Use the "
            "MODEL and CLIP of the model whose encoder made the subject."
        )
    if getattr(clip.cond_stage_model, ENCODER_OF_CLIP, None) != subject.encoder_fingerprint:
        tell(
            f"The subject ({subject.category}) was made by the encoder of another model than this CLIP; it may be "
            "learned less well."
        )


def _require_floats(model: ModelPatcher) -> None:
    for key, tensor in model.model_state_dict("diffusion_model.").items():
        if tensor.dtype not in _TRAINABLE or type(tensor).__name__ == "QuantizedTensor":
            raise SubjectError(
                f"This MODEL is quantised ({key} is {str(tensor.dtype).removeprefix('torch.')}); such weights cannot "
                "be trained. Load it with weight_dtype default, fp16, bf16 or fp32."
            )
