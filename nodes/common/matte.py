"""Cut a subject out of photos."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.matte import (
    BACKGROUND_THRESHOLD,
    EDGE,
    FOREGROUND_THRESHOLD,
    GROUNDS,
    WORKING_SIDE,
    cut_out,
    one_by_one,
    segmenter_names,
    segmenter_refusal,
    trimaps_from_category,
    trimaps_from_masks,
)
from ..host.refusals import ABSENT, is_linked
from ..host.schema import supported
from ..sockets import CATEGORY

_ALIASES = ["cut out", "matting", "remove background", "clipseg"]
_NO_SEGMENTER = "(none: connect a mask)"


class SubjectMatte(io.ComfyNode):
    """Photos and a category or rough masks -> cut-outs, alpha and trimaps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        segmenters = [*segmenter_names(), _NO_SEGMENTER]
        return io.Schema(
            node_id="SubjectMatte",
            display_name="Subject Matte",
            category=CATEGORY,
            description="Cuts a subject out of photos, hair and soft edges included: a rough idea of where it is "
            "(CLIPSeg, or a mask of any other tool) becomes a trimap, and closed-form matting decides the edge.",
            inputs=[
                io.Image.Input("images", tooltip="A photo, a batch of photos, or a list, whose sizes may differ."),
                io.String.Input(
                    "category", default="",
                    tooltip="What CLIPSeg looks for, in a word or two: dog, teapot. Not needed with a mask.",
                ),
                io.Combo.Input(
                    "segmenter", options=segmenters, default=segmenters[0],
                    tooltip="A CLIPSeg folder in models/clipseg with config.json and model.safetensors. Not needed "
                    "with a mask.",
                ),
                io.Float.Input(
                    "foreground_threshold", default=FOREGROUND_THRESHOLD, min=0.01, max=0.99, step=0.001,
                    tooltip="CLIPSeg's confidence above which a pixel is surely subject, after stretching to 0..1. "
                    "Lower it if parts of the subject are lost.",
                ),
                io.Float.Input(
                    "background_threshold", default=BACKGROUND_THRESHOLD, min=0.0, max=0.98, step=0.001,
                    tooltip="CLIPSeg's confidence up to which a pixel is surely background. Raise it if background "
                    "stays.",
                ),
                io.Combo.Input(
                    "ground", options=list(GROUNDS), default=next(iter(GROUNDS)),
                    tooltip="What the cut-out is put on. neutral: the grey that Subject Encoder does not see. none: "
                    "the subject's colours as estimated, without edge, to be used with the MASK.",
                ),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="Rough masks, white on the subject, one for all photos or one for each: from background "
                    "removal, SAM or painted by hand. They take CLIPSeg's place.",
                ),
                io.Float.Input(
                    "edge_width", default=EDGE, min=0.002, max=0.25, step=0.002, optional=True,
                    tooltip="How far a rough mask may be wrong, as a part of the picture's size: so wide a band on "
                    "both sides of its border is decided again. Wider for hair, narrower for a good mask.",
                ),
                io.Int.Input(
                    "working_size", default=WORKING_SIDE, min=256, max=4096, step=64, optional=True,
                    tooltip="Photos with a longer side are matted at this size and the alpha is enlarged. More needs "
                    "time and memory: up to 1 GB at 1024, 4 GB at 2048.",
                ),
            ],
            is_input_list=True,
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", is_output_list=True,
                    tooltip="The cut-outs, with the background's colour removed.",
                ),
                io.Mask.Output(
                    display_name="MASK", is_output_list=True,
                    tooltip="Alpha: 1 on the subject. For the masks of Subject Encoder.",
                ),
                io.Mask.Output(
                    display_name="TRIMAP", is_output_list=True,
                    tooltip="What matting was told: subject 1, background 0, to decide 0.5.",
                ),
            ],
            **supported(io.Schema, has_intermediate_output=True, search_aliases=_ALIASES),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, category=ABSENT, segmenter=_NO_SEGMENTER, masks=ABSENT) -> bool | str:
        """With a mask neither matters: a workflow from elsewhere may name a folder that is not here."""
        return True if is_linked(masks) else segmenter_refusal("" if category is ABSENT else category, segmenter)

    @classmethod
    def execute(
        cls, images, category="", segmenter=_NO_SEGMENTER, foreground_threshold=FOREGROUND_THRESHOLD,
        background_threshold=BACKGROUND_THRESHOLD, ground="neutral", masks=None, edge_width=EDGE,
        working_size=WORKING_SIDE,
    ) -> io.NodeOutput:  # fmt: skip
        if masks is None:
            thresholds = foreground_threshold, background_threshold
            trimaps = trimaps_from_category(images, category, segmenter, *thresholds)
        else:
            trimaps = trimaps_from_masks(images, masks, edge_width)
        cuts, alphas, seen = cut_out(images, trimaps, ground, working_size)
        return io.NodeOutput(cuts, alphas, seen, ui=ui.PreviewImage(one_by_one(cuts), cls=cls))
