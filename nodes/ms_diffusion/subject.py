"""One subject of several, and its box."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.ms_diffusion.subject import add_subject, chosen_box, phrase_refusal
from ..host.schema import supported
from ..sockets import MS_CATEGORY, MSSubjectsSocket


class MSDiffusionSubject(io.ComfyNode):
    """A reference picture, a phrase and a box -> MS_SUBJECTS, together with those before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDiffusionSubject",
            display_name="MS-Diffusion Subject",
            category=MS_CATEGORY,
            description="One subject: its picture, what the prompt calls it, and the box where it should be. Connect "
            "one to the next for several; the last one goes to Apply MS-Diffusion.",
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="One photo of the subject. Best: cut out, on black, nearly filling the frame, and about as "
                    "wide as high.",
                ),
                io.String.Input(
                    "phrase",
                    default="dog",
                    tooltip="What the subject is called, with the prompt's own words: dog, teddy bear.",
                ),
                *_edges(),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="How strong this subject is, times the scale of Apply MS-Diffusion. About 0.6 for a scene "
                    "that fills the picture behind the others; 0 leaves it out.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White on the subject, of the photo's size: it is cut out and put on black. Load Image's "
                    "mask is the other way round: put Invert Mask between.",
                ),
                io.BoundingBox.Input(
                    "box",
                    optional=True,
                    force_input=True,
                    tooltip="The box in pixels, from Bounding Box, Create Bounding Boxes or a detector; takes the "
                    "place of the four numbers.",
                ),
                io.Mask.Input(
                    "box_mask",
                    optional=True,
                    tooltip="The box as a mask of the picture to be: the tight rectangle around what is white; takes "
                    "the place of the four numbers.",
                ),
                io.Int.Input(
                    "box_number", default=1, min=1, max=1000, optional=True,
                    tooltip="Which of the boxes is meant, where several come in.",
                ),
                io.Int.Input(
                    "canvas_width", default=1024, min=1, max=16384, optional=True,
                    tooltip="Width in pixels of the canvas or photo that the box was drawn on or found in. The "
                    "picture to be may have another size.",
                ),
                io.Int.Input(
                    "canvas_height", default=1024, min=1, max=16384, optional=True,
                    tooltip="Height in pixels of that canvas.",
                ),
                MSSubjectsSocket.Input("previous", optional=True, tooltip="The subjects before this one."),
            ],
            outputs=[
                MSSubjectsSocket.Output(
                    display_name="MS_SUBJECTS",
                    tooltip="For Apply MS-Diffusion, or for the previous of another MS-Diffusion Subject.",
                )
            ],
            **supported(
                io.Schema, search_aliases=["ms diffusion", "multi subject", "reference", "bounding box", "layout"]
            ),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, phrase="") -> bool | str:
        return phrase_refusal(phrase)

    @classmethod
    def execute(
        cls, image, phrase, x1, y1, x2, y2, strength, mask=None, box=None, box_mask=None, box_number=1,
        canvas_width=1024, canvas_height=1024, previous=None,
    ) -> io.NodeOutput:  # fmt: skip
        canvas = (canvas_width, canvas_height)
        place = chosen_box((x1, y1, x2, y2), box, box_number, canvas, box_mask)
        return io.NodeOutput(add_subject(image, phrase, place, strength, canvas, mask, previous))


def _edges() -> list:
    # Computed edges may lie a little outside the picture: they are cut off there, as those of drawn boxes are.
    edges = {"x1": ("Left", 0.25), "y1": ("Upper", 0.25), "x2": ("Right", 0.75), "y2": ("Lower", 0.75)}
    return [
        io.Float.Input(
            name, default=default, min=-1.0, max=2.0, step=0.01,
            tooltip=f"{side} edge of the box, as a share of the picture, from its upper left corner. Ignored where box "
            "or box_mask is connected.",
        )
        for name, (side, default) in edges.items()
    ]  # fmt: skip
