"""Several subjects in one prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.blip_diffusion.refusals import scene_refusal
from ..host.blip_diffusion.scene import SOCKETS, compose_scene
from ..host.refusals import ABSENT
from ..host.schema import blocked, supported
from ..sockets import CATEGORY, SubjectSocket

_NO_MODEL = (
    "Subjects in One Prompt has no MODEL to give: connect one to its model input, or connect the sampler to the loader."
)


class SubjectScene(io.ComfyNode):
    """CLIP, two to four SUBJECTs and text -> CONDITIONING, and a MODEL that holds each subject to its region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectScene",
            display_name="Subjects in One Prompt",
            category=CATEGORY,
            description="Two to four subjects in one picture. A mask or a box for each keeps them apart: a subject is "
            "seen only inside. Connect the model too and sample with the MODEL that comes out; without it the same is "
            "done by ComfyUI's conditioning masks.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model that the subjects were encoded with."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="a {a} and a {b} on the beach",
                    tooltip="The scene, with a marker where each subject goes: its category, {dog}, or the letter of "
                    "its socket, {a}. Two subjects of one category need letters. (weights:1.2) and embeddings work.",
                ),
                SubjectSocket.Input("subject_a", tooltip="Goes where {a}, or its category in braces, stands."),
                *_optional_subjects(),
                *_masks(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Recommended with masks: its cross-attention shows each subject only inside its mask. "
                    "Costs next to nothing. The MODEL that goes in stays as it is.",
                ),
                io.Int.Input(
                    "soft_edge",
                    default=8,
                    min=0,
                    max=512,
                    optional=True,
                    tooltip="Pixels over which the edge of every mask or box fades. 0 leaves them as they are.",
                ),
                *_boxes(),
                io.Int.Input(
                    "canvas_width", default=512, min=1, max=4096, optional=True,
                    tooltip="For boxes: width in pixels of the canvas that they were drawn on. The picture to be may "
                    "have another size.",
                ),
                io.Int.Input(
                    "canvas_height", default=512, min=1, max=4096, optional=True,
                    tooltip="For boxes: height in pixels of that canvas.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="For the positive input of a sampler, together with MODEL."
                ),
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="For the sampler. It follows the masks of this prompt; other prompts are as before. Only "
                    "if a model is connected.",
                ),
            ],
            **supported(
                io.Schema,
                search_aliases=["several subjects", "two subjects", "regional prompt", "character", "mask", "box"],
            ),
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, prompt, subject_a=ABSENT, subject_b=ABSENT, subject_c=ABSENT, subject_d=ABSENT,
        mask_a=ABSENT, mask_b=ABSENT, mask_c=ABSENT, mask_d=ABSENT,
        box_a=ABSENT, box_b=ABSENT, box_c=ABSENT, box_d=ABSENT,
    ) -> bool | str:  # fmt: skip
        subjects, masks = (subject_a, subject_b, subject_c, subject_d), (mask_a, mask_b, mask_c, mask_d)
        return scene_refusal(prompt, subjects, masks, (box_a, box_b, box_c, box_d))

    @classmethod
    def execute(
        cls, clip, prompt, subject_a, subject_b=None, subject_c=None, subject_d=None,
        mask_a=None, mask_b=None, mask_c=None, mask_d=None, model=None, soft_edge=8,
        box_a=None, box_b=None, box_c=None, box_d=None, canvas_width=512, canvas_height=512,
    ) -> io.NodeOutput:  # fmt: skip
        subjects = _by_socket(subject_a, subject_b, subject_c, subject_d)
        masks, boxes = _by_socket(mask_a, mask_b, mask_c, mask_d), _by_socket(box_a, box_b, box_c, box_d)
        canvas = (canvas_width, canvas_height)
        conditioning, patched = compose_scene(clip, prompt, subjects, masks, soft_edge, model, boxes, canvas)
        return io.NodeOutput(conditioning, blocked(_NO_MODEL) if patched is None else patched)


def _by_socket(*values) -> dict:
    """What is connected, by the letter of its socket."""
    return {socket: value for socket, value in zip(SOCKETS, values, strict=True) if value is not None}


def _optional_subjects() -> list:
    return [
        SubjectSocket.Input(
            f"subject_{letter}", optional=True, tooltip=f"Goes where {{{letter}}}, or its category in braces, stands."
        )
        for letter in SOCKETS[1:]
    ]


def _masks() -> list:
    return [
        io.Mask.Input(
            f"mask_{letter}",
            optional=True,
            tooltip=f"Where subject_{letter} may be: white on a mask shaped like the picture. Masks may overlap. "
            "Without one it may be anywhere.",
        )
        for letter in SOCKETS
    ]


def _boxes() -> list:
    return [
        io.BoundingBox.Input(
            f"box_{letter}",
            optional=True,
            force_input=True,
            tooltip=f"Where subject_{letter} may be, as a box in pixels from Bounding Box, Create Bounding Boxes or a "
            f"detector; several boxes are one region. Takes the place of mask_{letter}.",
        )
        for letter in SOCKETS
    ]
