"""A sheet of pictures with labels."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.schema import supported
from ..sockets import CATEGORY


class SubjectContactSheet(io.ComfyNode):
    """IMAGE batch -> one labelled IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectContactSheet",
            display_name="Contact Sheet",
            category=CATEGORY,
            description="Puts all pictures of a batch on one sheet, row by row, each with a label above it.",
            inputs=[
                io.Image.Input("images", tooltip="A batch of pictures."),
                io.Int.Input("columns", default=5, min=1, max=256, tooltip="Pictures in a row."),
                io.String.Input(
                    "labels", multiline=True, default="", optional=True,
                    tooltip="A line for each picture; connect the labels of Blend Subjects. Empty: no labels.",
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The sheet. Small pictures are enlarged on it.")],
            **supported(io.Schema, search_aliases=["blip diffusion", "contact sheet", "image grid", "labels"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, images, columns=5, labels="") -> io.NodeOutput:
        from ..host.contact_sheet import labelled_sheet

        return io.NodeOutput(labelled_sheet(images, columns, labels))
