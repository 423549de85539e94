"""Photos to a subject."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.blip_diffusion.refusals import category_refusal
from ..host.schema import supported
from ..sockets import CATEGORY, SubjectEncoderSocket, SubjectSocket


class SubjectEncoder(io.ComfyNode):
    """SUBJECT_ENCODER, photos and a category -> SUBJECT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectEncoder",
            display_name="Subject Encoder",
            category=CATEGORY,
            description="Turns one or several photos of one thing into a subject: 16 words that only a model of this "
            "kind can read.",
            inputs=[
                SubjectEncoderSocket.Input("subject_encoder", tooltip="From Load BLIP-Diffusion Model."),
                io.Image.Input(
                    "images",
                    tooltip="Photos of ONE subject; a batch or list is several photos of it: their mean is taken. "
                    "Best: the thing nearly fills the frame.",
                ),
                io.String.Input(
                    "category",
                    default="dog",
                    tooltip="What the thing is, in a word or two: dog, teapot, running shoe. The encoder looks for "
                    "that.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="White on the subject, one mask for all photos or one for each, of the photos' size. "
                    "Everything else becomes a neutral background. Load Image's mask is the other way round: put "
                    "Invert Mask between.",
                ),
                io.Combo.Input(
                    "fit",
                    options=["crop", "pad", "squash"],
                    default="crop",
                    tooltip="How a photo becomes a square: crop cuts the middle (as the official release), pad adds "
                    "neutral bars, squash ignores the proportions (as diffusers).",
                ),
            ],
            is_input_list=True,
            outputs=[
                SubjectSocket.Output(
                    display_name="SUBJECT", is_output_list=True, tooltip="The subject, for Subject Prompt."
                ),
                io.Image.Output(
                    display_name="IMAGE",
                    is_output_list=True,
                    tooltip="What the encoder saw: square, cut out, at its resolution.",
                ),
            ],
            **supported(
                io.Schema,
                has_intermediate_output=True,
                search_aliases=["reference", "ip adapter", "identity", "character", "style", "blip", "subject"],
            ),
        )

    @classmethod
    def validate_inputs(cls, category="") -> bool | str:
        return category_refusal("category", category)

    @classmethod
    def execute(cls, subject_encoder, images, category, fit="crop", masks=None) -> io.NodeOutput:
        subject = subject_encoder.encode(images, category, masks, fit)
        seen = subject_encoder.see(images, masks, fit)
        return io.NodeOutput(subject, seen, ui=ui.PreviewImage(seen, cls=cls))
