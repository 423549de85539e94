"""Where in the picture the subject and the words of a prompt act."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.attention_maps import LAYER_CHOICES, TOKEN_CHOICES, record_maps, view_maps, words_refusal
from ..host.schema import supported
from ..sockets import CATEGORY


class SubjectAttentionMaps(io.ComfyNode):
    """MODEL and the prompt -> MODEL that records."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectAttentionMaps",
            display_name="Attention Maps",
            category=CATEGORY,
            description="Records, during sampling, which parts of the picture look at the subject's vectors and at the "
            "words of the prompt. Sample with the MODEL that comes out, then connect Attention Maps View. The picture "
            "is the same as without.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The positive prompt, from Subject Prompt or Subjects in One Prompt; connect it to the "
                    "sampler as well.",
                ),
                io.Combo.Input(
                    "tokens",
                    options=list(TOKEN_CHOICES),
                    default="subject",
                    tooltip="subject: one map, the mean of its vectors. each vector: a map for each of the 16. each "
                    "word: a map for each word of the prompt. chosen words: those written below.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="For 'chosen words': words of the prompt, separated by commas. 'subject' stands for the "
                    "vectors.",
                ),
                io.Combo.Input(
                    "layers",
                    options=list(LAYER_CHOICES),
                    default="all",
                    tooltip="all: the mean of all layers. level 1: the finest ones (64 squares a side in a picture of "
                    "512 pixels), level 2 half as fine, and so on. one block: the one named below.",
                ),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=1.0, step=0.05,
                    tooltip="Where in the run recording begins; 0 is the first step.",
                ),
                io.Float.Input(
                    "end", default=1.0, min=0.0, max=1.0, step=0.05,
                    tooltip="Where in the run recording ends; 1 is the last step.",
                ),
                io.String.Input(
                    "block", default="", optional=True,
                    tooltip="For 'one block': its place in the UNet, such as 'output 5', 'middle 0' or 'input 7'.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="For the sampler and for Attention Maps View.")
            ],
            **supported(io.Schema, search_aliases=["blip diffusion", "attention map", "heatmap", "cross attention"]),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, tokens=None, words="") -> bool | str:
        return words_refusal(tokens, words)

    @classmethod
    def execute(cls, model, conditioning, tokens, words, layers, start, end, block="") -> io.NodeOutput:
        return io.NodeOutput(record_maps(model, conditioning, tokens, words, layers, block, start, end))


class SubjectAttentionView(io.ComfyNode):
    """MODEL that recorded, and its samples -> IMAGE, MASK and a sheet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectAttentionView",
            display_name="Attention Maps View",
            category=CATEGORY,
            description="Shows what the MODEL of Attention Maps recorded while it made these samples: heat over the "
            "picture, a mask, and a sheet with all maps.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Attention Maps."),
                io.Latent.Input("samples", tooltip="What the sampler gave with that MODEL, unchanged."),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The decoded samples, to draw on. Without it the background is black.",
                ),
                io.Float.Input(
                    "opacity", default=0.6, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="Of the heat over the picture: 0 is the picture, 1 the heat alone.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="Heat over the picture, one for each map; all maps of the first picture come first.",
                ),
                io.Mask.Output(
                    display_name="MASK", tooltip="The mean of the maps, 0 (least looked at) to 1, for each picture."
                ),
                io.Image.Output(display_name="SHEET", tooltip="The picture and all its maps, labelled."),
            ],
            **supported(io.Schema, search_aliases=["blip diffusion", "attention map", "heat map", "daam"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, model, samples, image=None, opacity=0.6) -> io.NodeOutput:
        return io.NodeOutput(*view_maps(model, samples, image, opacity))
