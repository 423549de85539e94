"""Load a BLIP-Diffusion checkpoint."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.folders import TOYBOX, model_names, model_path
from ..host.refusals import first_refusal, typed
from ..host.schema import blocked, supported
from ..host.weights import WEIGHT_DTYPES
from ..sockets import CATEGORY, SubjectEncoderSocket, SubjectSocket

_NO_BASE = "(none)"
_NO_SUBJECT = (
    "'{name}' holds no subject of its own: only checkpoints that were fine-tuned on one do. "
    "Make a subject from photos with the Subject Encoder node."
)


class SubjectModelLoader(io.ComfyNode):
    """Checkpoint -> MODEL, CLIP, VAE, SUBJECT_ENCODER and a stored SUBJECT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = model_names()
        return io.Schema(
            node_id="SubjectModelLoader",
            display_name="Load BLIP-Diffusion Model",
            category=CATEGORY,
            description="Loads a BLIP-Diffusion checkpoint: ComfyUI's own MODEL, CLIP and VAE, and the encoder that "
            "turns photos into a subject.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=names,
                    default=TOYBOX,
                    tooltip="The embedded model (a small toy world, works at once), or a checkpoint in "
                    "models/blipdiffusion: a .safetensors or .pth file, or a folder.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="Precision of UNet and text encoder in memory. 'default' lets ComfyUI choose for this "
                    "machine; fp32 is exact and needs twice the memory of fp16 or bf16.",
                ),
                io.Combo.Input(
                    "base_model",
                    options=[_NO_BASE, *names],
                    default=_NO_BASE,
                    optional=True,
                    tooltip="Only for a checkpoint that holds less than a whole model, such as a fine-tuned .pth: the "
                    "model it was made from. Missing parts are taken from there.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The UNet, for KSampler and everything else."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder that understands subjects."),
                io.Vae.Output(display_name="VAE", tooltip="Latents to pictures and back."),
                SubjectEncoderSocket.Output(
                    display_name="SUBJECT_ENCODER", tooltip="Turns photos into a subject, in the Subject Encoder node."
                ),
                SubjectSocket.Output(
                    display_name="SUBJECT",
                    tooltip="The subject that a fine-tuned checkpoint was made for. Empty for all other checkpoints: "
                    "nodes behind it are skipped with a message.",
                ),
            ],
            **supported(io.Schema, search_aliases=["blip", "load subject model", "checkpoint", "toybox"]),
        )

    @classmethod
    def validate_inputs(cls, model_name=TOYBOX, base_model=_NO_BASE) -> bool | str:
        name, base = typed(model_name), typed(base_model)
        return first_refusal(
            ("model_name", lambda: name is None or model_path(name)),
            ("base_model", lambda: base in (None, _NO_BASE) or model_path(base)),
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str, base_model: str = _NO_BASE) -> io.NodeOutput:
        from ..host.blip_diffusion.loader import load_model
        from ..host.blip_diffusion.sources import Source

        base = None if base_model == _NO_BASE else model_path(str(base_model))
        loaded = load_model(Source(model_path(str(model_name)), base), weight_dtype)
        subject = loaded.subject or blocked(_NO_SUBJECT.format(name=model_name))
        return io.NodeOutput(loaded.model, loaded.clip, loaded.vae, loaded.encoder, subject)
