"""Blends of subjects."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.blip_diffusion.interpolate import MODES, blend_subjects
from ..host.schema import supported
from ..sockets import CATEGORY, SubjectSocket


class SubjectInterpolate(io.ComfyNode):
    """Two to four SUBJECTs -> a SUBJECT batch (or one), its size and labels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectInterpolate",
            display_name="Blend Subjects",
            category=CATEGORY,
            description="Mixes subjects. Two make a strip from A to B, four a grid with one in each corner: a batch "
            "that Subject Prompt takes as it is. Or write weights for one blend of two, three or four.",
            inputs=[
                SubjectSocket.Input("subject_a", tooltip="Left end of a strip, upper left corner of a grid."),
                SubjectSocket.Input("subject_b", tooltip="Right end of a strip, upper right corner of a grid."),
                io.Combo.Input(
                    "mode", options=list(MODES), default="lerp",
                    tooltip="lerp: the straight line between the vectors, as published. slerp: along the arc, which "
                    "keeps the vectors' lengths.",
                ),
                io.Int.Input("columns", default=5, min=2, max=256, tooltip="Places from left to right."),
                io.Int.Input(
                    "rows", default=5, min=2, max=256,
                    tooltip="Places from top to bottom; only a grid of four subjects has them.",
                ),
                SubjectSocket.Input(
                    "subject_c", optional=True, tooltip="Lower left corner of a grid, or a third subject for weights."
                ),
                SubjectSocket.Input(
                    "subject_d", optional=True, tooltip="Lower right corner of a grid, or a fourth subject for weights."
                ),
                io.String.Input(
                    "weights", default="", optional=True,
                    tooltip="For one blend instead of a strip or grid: a number for each subject, such as '0.7, 0.3'. "
                    "They are divided by their sum, so '7, 3' is the same. Negative numbers lead away from a subject.",
                ),
                io.Float.Input(
                    "first", default=0.0, min=-2.0, max=3.0, step=0.05, optional=True,
                    tooltip="Where a strip or grid begins: 0 is subject A. Below 0 exaggerates A against B.",
                ),
                io.Float.Input(
                    "last", default=1.0, min=-2.0, max=3.0, step=0.05, optional=True,
                    tooltip="Where it ends: 1 is subject B. Above 1 exaggerates B against A.",
                ),
            ],
            outputs=[
                SubjectSocket.Output(display_name="SUBJECT", tooltip="The batch, row by row, or the one blend."),
                io.Int.Output(
                    display_name="count",
                    tooltip="How many subjects there are: connect it to batch_size of Empty Latent Image.",
                ),
                io.String.Output(
                    display_name="labels", tooltip="A line for each: the percents of A, B, C, D. For Contact Sheet."
                ),
            ],
            **supported(io.Schema, search_aliases=["mix", "blend", "interpolate", "mix subjects", "grid"]),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, subject_a, subject_b, mode="lerp", columns=5, rows=5, subject_c=None, subject_d=None, weights="",
        first=0.0, last=1.0,
    ) -> io.NodeOutput:  # fmt: skip
        subjects = [subject_a, subject_b, subject_c, subject_d]
        return io.NodeOutput(*blend_subjects(subjects, mode, columns, rows, weights, first, last))
