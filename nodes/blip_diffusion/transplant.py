"""Subjects in anyone's Stable Diffusion 1.5 checkpoint."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.schema import supported
from ..sockets import CATEGORY


class SubjectTransplant(io.ComfyNode):
    """Any MODEL and CLIP, those of the subject model, and stock ones -> MODEL and CLIP that understand subjects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectTransplant",
            display_name="Subjects in My Checkpoint",
            category=CATEGORY,
            description="Makes your own Stable Diffusion 1.5 checkpoint understand subjects: what the subject model "
            "learned beyond stock Stable Diffusion 1.5 is added to it. Your files stay as they are.",
            inputs=[
                io.Model.Input("model", tooltip="Of your checkpoint, LoRAs included."),
                io.Clip.Input("clip", tooltip="Of your checkpoint."),
                io.Model.Input("subject_model", tooltip="From Load BLIP-Diffusion Model."),
                io.Clip.Input("subject_clip", tooltip="From Load BLIP-Diffusion Model."),
                io.Model.Input(
                    "base_model", tooltip="Stock Stable Diffusion 1.5, which the subject model was trained from."
                ),
                io.Clip.Input("base_clip", tooltip="Of stock Stable Diffusion 1.5."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="How much is added: 1 all of it. Less keeps more of your checkpoint's style.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="Your model, for the sampler."),
                io.Clip.Output(display_name="CLIP", tooltip="Your CLIP, for Subject Prompt and other prompts."),
            ],
            **supported(io.Schema, search_aliases=["my checkpoint", "merge", "transplant", "style"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, subject_model, subject_clip, base_model, base_clip, strength=1.0) -> io.NodeOutput:
        from ..host.blip_diffusion.transplant import transplant

        return io.NodeOutput(*transplant(model, clip, subject_model, subject_clip, base_model, base_clip, strength))
