"""Several subjects, each in its box, on a MODEL."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.schema import supported
from ..sockets import MS_CATEGORY, MSAdapterSocket, MSSubjectsSocket


class MSDiffusionApply(io.ComfyNode):
    """MODEL and MS_SUBJECTS -> MODEL that draws them, and an IMAGE of the boxes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDiffusionApply",
            display_name="Apply MS-Diffusion",
            category=MS_CATEGORY,
            description="Several subjects in one picture, each in its own box. Sample with the MODEL that comes out; "
            "prompt, negative prompt and latent stay as they are, and name the subjects in the prompt.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Stable Diffusion XL model for the released adapter, the embedded model for the built-in "
                    "one. It stays as it is.",
                ),
                io.Clip.Input("clip", tooltip="The CLIP of that model: it reads the phrases of the subjects."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Sees the photos: for the released adapter CLIP-ViT-bigG-14-laion2B-39B-b160k. The "
                    "built-in adapter has its own: leave it open.",
                ),
                MSAdapterSocket.Input("ms_adapter", tooltip="From Load MS-Diffusion."),
                MSSubjectsSocket.Input("subjects", tooltip="From the last MS-Diffusion Subject."),
                io.Float.Input(
                    "scale", default=0.6, min=0.0, max=5.0, step=0.05,
                    tooltip="How strong the subjects are beside the prompt. 0.6 is the authors' advice; higher is more "
                    "alike and follows the prompt less. 0 is the MODEL as it was.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in the run the subjects begin to act; 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in the run the subjects cease to act; 1 is the last step.",
                ),
                io.Boolean.Input(
                    "grounding", default=True,
                    tooltip="On: phrase and box tell which thing of the photo is meant and where it goes. Off: learned "
                    "queries look at the whole photo; the boxes still say where it is seen.",
                ),
                io.Boolean.Input(
                    "auto_layout", default=False,
                    tooltip="On: after some steps the places where the picture looks at each phrase take over from the "
                    "boxes. For things that belong together; needs the prompt below.",
                ),
                io.String.Input(
                    "prompt", default="", multiline=True, optional=True,
                    tooltip="For auto_layout: the positive prompt, the same text as in the sampled one. Each phrase "
                    "must be in it.",
                ),
                io.Float.Input(
                    "threshold", default=0.5, min=0.0, max=1.0, step=0.01, optional=True,
                    tooltip="For auto_layout: how much a place must look at the phrase, from the least (0) to the most "
                    "(1) of the picture. Lower makes the region larger.",
                ),
                io.Int.Input(
                    "start_step", default=5, min=1, max=1000, optional=True,
                    tooltip="For auto_layout: the evaluation of the model from which on the boxes are replaced. "
                    "Samplers of second order evaluate twice a step.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="For the sampler."),
                io.Image.Output(
                    display_name="IMAGE", tooltip="The boxes with their photos and phrases, on the first one's canvas."
                ),
            ],
            **supported(
                io.Schema,
                has_intermediate_output=True,
                search_aliases=["ms diffusion", "msdiffusion", "multi subject", "several subjects", "ip adapter"],
            ),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, ms_adapter, subjects, scale, start_percent, end_percent, grounding, auto_layout,
        clip_vision=None, prompt="", threshold=0.5, start_step=5,
    ) -> io.NodeOutput:  # fmt: skip
        from ..host.ms_diffusion.apply import ApplySettings, apply_subjects

        settings = ApplySettings(
            scale=scale, start=start_percent, end=end_percent, grounded=grounding, auto_layout=auto_layout,
            prompt=prompt, threshold=threshold, first=start_step,
        )  # fmt: skip
        patched, boxes = apply_subjects(model, clip, clip_vision, ms_adapter, subjects, settings)
        return io.NodeOutput(patched, boxes, ui=ui.PreviewImage(boxes, cls=cls))
