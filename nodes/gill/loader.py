"""Load GILL's learned parts and a language model."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.gill.model_folder import (
    OWN,
    TOY,
    checkpoint_names,
    checkpoint_path,
    language_model_names,
    language_model_path,
)
from ..host.refusals import first_refusal, typed
from ..host.schema import supported
from ..host.weights import WEIGHT_DTYPES
from ..sockets import GILL_CATEGORY, GILLModelSocket

_NONE = "(nothing else in models/gill)"


class GILLLoader(io.ComfyNode):
    """Files of GILL and OPT, CLIP_VISION -> GILL_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        checkpoints, languages = [*checkpoint_names(), _NONE], [*language_model_names(), _NONE]
        return io.Schema(
            node_id="GILLLoader",
            display_name="Load GILL Model",
            category=GILL_CATEGORY,
            description="Loads GILL: a language model that reads pictures and words, answers, and draws through Stable "
            "Diffusion 1.5. The built-in one knows the toy world's things, places and sentences alone and runs at "
            "once. The released weights were never run here, only random ones of their shapes.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoints,
                    default=TOY,
                    tooltip="What GILL has learned. The built-in one is for the built-in toybox of Load BLIP-Diffusion "
                    "Model. Others: pretrained_ckpt.pth.tar with its model_args.json (and decision_model.pth.tar, if "
                    "there is one) in models/gill, or one .safetensors made from them.",
                ),
                io.Combo.Input(
                    "language_model",
                    options=languages,
                    default=OWN,
                    tooltip="The checkpoint's own, where it brings one, as the built-in one does; else the folder of a "
                    "language model in models/gill: facebook/opt-6.7b for the released weights. OPT's licence allows "
                    "research without commercial use only.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="Precision of the language model. 'default' chooses for this machine; OPT-6.7B takes 13 GB "
                    "in bf16 or fp16 and 27 GB in fp32.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-L/14 from Load CLIP Vision, to see pictures with. Not needed for prompts of "
                    "words alone, nor for a checkpoint that brings its own.",
                ),
            ],
            outputs=[
                GILLModelSocket.Output(display_name="GILL_MODEL", tooltip="For GILL Reply and the nodes of retrieval.")
            ],
            **supported(
                io.Schema,
                search_aliases=["gill", "language model", "llm", "opt", "multimodal", "chat", "conversation"],
            ),
        )

    @classmethod
    def validate_inputs(cls, checkpoint=TOY, language_model=OWN) -> bool | str:
        learned, language = typed(checkpoint), typed(language_model)
        return first_refusal(
            ("checkpoint", lambda: learned is None or checkpoint_path(learned)),
            ("language_model", lambda: language is None or language_model_path(language)),
        )

    @classmethod
    def execute(cls, checkpoint=TOY, language_model=OWN, dtype="default", clip_vision=None) -> io.NodeOutput:
        from ..host.gill.loader import load_model

        return io.NodeOutput(load_model(checkpoint, language_model, dtype, clip_vision))
