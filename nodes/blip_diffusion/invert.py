"""An existing picture made ready for editing."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.blip_diffusion.editing.inversion import METHODS, SCHEDULERS, invert_latent
from ..host.blip_diffusion.refusals import category_refusal
from ..host.schema import supported
from ..sockets import CATEGORY


class SubjectInvert(io.ComfyNode):
    """MODEL, CLIP and an encoded picture -> LATENT of the noise that regenerates it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectInvert",
            display_name="Invert Picture",
            category=CATEGORY,
            description="Finds the noise from which the model regenerates an existing picture, for Edit with Subject. "
            "Sample the edit with the same steps and scheduler.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample the edit."),
                io.Clip.Input("clip", tooltip="The CLIP of the same model."),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode."),
                io.String.Input("source_category", default="cat", tooltip="The thing that will be replaced."),
                io.String.Input(
                    "prompt", multiline=True, default="sitting on a sofa",
                    tooltip="The rest of the picture: the same text as in Edit with Subject.",
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="The sampler must take as many. The release uses 50."
                ),
                io.Combo.Input(
                    "scheduler", options=SCHEDULERS, default="normal", optional=True,
                    tooltip="The sampler must use the same.",
                ),
                io.Combo.Input(
                    "method", options=list(METHODS), default=METHODS[0], optional=True,
                    tooltip="fixed point: comes back to the picture more closely. DDIM: as in the release, and faster.",
                ),
                io.Int.Input(
                    "iterations", default=4, min=1, max=50, optional=True, **supported(io.Int.Input, advanced=True),
                    tooltip="Repetitions in each step of 'fixed point'; it ends earlier once nothing changes.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="For Edit with Subject. With noise off, a sampler makes the picture again from it.",
                )
            ],
            **supported(io.Schema, search_aliases=["ddim inversion", "invert", "unsample", "noise"]),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, source_category="") -> bool | str:
        return category_refusal("source_category", source_category)

    @classmethod
    def execute(
        cls, model, clip, latent, source_category, prompt, steps, scheduler="normal", method=METHODS[0], iterations=4
    ) -> io.NodeOutput:
        return io.NodeOutput(
            invert_latent(
                model,
                clip,
                latent,
                source_category=source_category,
                prompt=prompt,
                steps=steps,
                scheduler=scheduler,
                method=method,
                repeat=iterations,
            )
        )
