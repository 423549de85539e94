"""Words and pictures for GILL to read."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.gill.prompt import PICTURE_NAMES, make_prompt, make_turn, text_refusal
from ..host.schema import supported
from ..sockets import GILL_CATEGORY, GILLPromptSocket


def _pictures() -> io.Autogrow.Input:
    one = io.Image.Input(
        "image", optional=True, tooltip="One picture; its place in the text is <image1>, <image2>, ..."
    )
    return io.Autogrow.Input(
        "images",
        template=io.Autogrow.TemplateNames(one, names=list(PICTURE_NAMES), min=0),
        optional=True,
        tooltip="Pictures, one to each input, which grow as you connect them. Write <image1> in the text where the "
        "first should be seen.",
    )


class GILLPrompt(io.ComfyNode):
    """Text and pictures -> GILL_PROMPT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GILLPrompt",
            display_name="GILL Prompt",
            category=GILL_CATEGORY,
            description="Words and pictures in any order, as GILL reads them: a caption, a picture with an "
            "instruction, or a whole story.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a picture of a cat",
                    tooltip="What the model reads. <image1> is where the first picture stands.",
                ),
                _pictures(),
            ],
            outputs=[GILLPromptSocket.Output(display_name="GILL_PROMPT", tooltip="For GILL Reply.")],
            **supported(io.Schema, search_aliases=["gill", "prompt", "interleaved", "multimodal prompt", "story"]),
        )

    @classmethod
    def validate_inputs(cls, text="", images=None, **_) -> bool | str:
        """The host hands growing inputs on only to a function that takes inputs of any name."""
        return text_refusal(text, images)

    @classmethod
    def execute(cls, text, images=None) -> io.NodeOutput:
        return io.NodeOutput(make_prompt(text, images))


class GILLTurn(io.ComfyNode):
    """A dialogue so far, the model's reply and the next question -> GILL_PROMPT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GILLTurn",
            display_name="GILL Turn",
            category=GILL_CATEGORY,
            description="One more turn of a conversation with GILL, as it was published: 'Q: ...', then 'A:' for the "
            "model to go on. A conversation is a chain of GILL Turn and GILL Reply.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="what should I draw?",
                    tooltip="What you say in this turn. <image1> is where the first picture stands.",
                ),
                GILLPromptSocket.Input(
                    "previous", optional=True, tooltip="The turn before this one. Empty at the beginning."
                ),
                io.String.Input(
                    "reply",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="What the model answered to the turn before: the reply of its GILL Reply.",
                ),
                _pictures(),
            ],
            outputs=[
                GILLPromptSocket.Output(display_name="GILL_PROMPT", tooltip="For GILL Reply, and for the next turn.")
            ],
            **supported(io.Schema, search_aliases=["gill", "chat", "dialogue", "conversation", "turn", "question"]),
        )

    @classmethod
    def validate_inputs(cls, text="", images=None, **_) -> bool | str:
        """As in GILL Prompt."""
        return text_refusal(text, images)

    @classmethod
    def execute(cls, text, previous=None, reply="", images=None) -> io.NodeOutput:
        return io.NodeOutput(make_turn(text, images, previous, reply))
