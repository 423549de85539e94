"""What GILL answers, and what Stable Diffusion draws from it."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.gill.options import (
    MODES,
    MOST_BIAS,
    MOST_PICTURES,
    MOST_TEMPERATURE,
    MOST_TOKENS,
    REPLIES,
    TOO_LONG,
    DecodingSettings,
)
from ..host.schema import blocked, supported
from ..sockets import GILL_CATEGORY, GILLEmbeddingSocket, GILLModelSocket, GILLPromptSocket

_NO_PICTURE = (
    "GILL's reply has no picture in it, so there is nothing to draw. Choose the mode 'force picture', raise "
    "picture_bias, or ask for a picture. The reply: {reply!r}"
)
_NO_CLIP = "Connect the CLIP of the model that draws to GILL Reply for its negative prompt, or use CLIP Text Encode."


class GILLGenerate(io.ComfyNode):
    """GILL_MODEL and GILL_PROMPT -> CONDITIONING, reply, decision."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GILLGenerate",
            display_name="GILL Reply",
            category=GILL_CATEGORY,
            description="The language model answers: words, and where a picture belongs what Stable Diffusion 1.5 "
            "should draw.",
            inputs=[
                GILLModelSocket.Input("gill_model", tooltip="From Load GILL Model."),
                GILLPromptSocket.Input("prompt", tooltip="From GILL Prompt or GILL Turn."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="force picture: one in any case, after min_words words or where the reply ends. let it "
                    "decide: where the model wants one. text only: never.",
                ),
                io.Int.Input(
                    "max_new_tokens", default=32, min=1, max=MOST_TOKENS,
                    tooltip="The reply's length at most, in tokens (pieces of words). A picture counts as one.",
                ),
                io.Int.Input(
                    "min_words", default=0, min=0, max=MOST_TOKENS,
                    tooltip="Tokens before the first picture. A large number with 'force picture' lets the model "
                    "finish its sentence first.",
                ),
                io.Float.Input(
                    "picture_bias", default=1.3, min=0.0, max=MOST_BIAS, step=0.05,
                    tooltip="How readily a picture comes in 'let it decide': 1 is the model as it is, 1.3 what its "
                    "authors use in dialogues.",
                ),
                io.Float.Input(
                    "temperature", default=0.0, min=0.0, max=MOST_TEMPERATURE, step=0.05,
                    tooltip="0 always takes the likeliest word; above, words are drawn by chance (0.6 with top_p 0.95 "
                    "is usual).",
                ),
                io.Float.Input(
                    "top_p", default=1.0, min=0.01, max=1.0, step=0.01,
                    tooltip="Only the likeliest words that make up this share are drawn from. Leave it at 1 where "
                    "temperature is 0.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                    tooltip="Of that chance; without effect where temperature is 0.",
                ),
                io.Int.Input(
                    "max_pictures", default=1, min=1, max=MOST_PICTURES,
                    tooltip="The reply ends with that many pictures. Several make a batch of CONDITIONING.",
                ),
                io.Combo.Input(
                    "reply", options=list(REPLIES), default=REPLIES[0],
                    tooltip="full: all that the model says. first sentence: up to its first full stop, as published.",
                ),
                io.Combo.Input(
                    "too_long", options=list(TOO_LONG), default=TOO_LONG[0],
                    tooltip="What to do with a conversation longer than the model reads (2048 positions): say so, or "
                    "leave out its beginning.",
                ),
                io.Clip.Input(
                    "clip", optional=True,
                    tooltip="The CLIP of the model that draws: it makes the negative prompt, and one that does not fit "
                    "is refused.",
                ),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The MODEL that draws, only to be checked: one that is no Stable Diffusion 1.5 is refused "
                    "here.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="For the positive input of a sampler. Where the reply has no picture, nodes behind it are "
                    "skipped with a message.",
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The empty prompt, as GILL was published with. Needs clip.",
                ),
                io.String.Output(display_name="reply", tooltip="What the model says."),
                io.String.Output(
                    display_name="decision",
                    tooltip="gen: a picture should be drawn. ret: one should be retrieved. none: the reply has no "
                    "picture. Weak advice.",
                ),
                io.Float.Output(
                    display_name="probability",
                    tooltip="Of the decision, 0 to 1. Without decision_model.pth.tar it is always gen with 1.",
                ),
                GILLEmbeddingSocket.Output(
                    display_name="GILL_EMBEDDING", tooltip="What pictures are compared with: for Retrieve and Rank."
                ),
                io.Int.Output(
                    display_name="count", tooltip="How many pictures there are: for batch_size of Empty Latent Image."
                ),
            ],
            **supported(
                io.Schema, search_aliases=["gill", "chat", "llm", "reply", "generate text", "ask", "multimodal"]
            ),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, gill_model, prompt, mode=MODES[0], max_new_tokens=32, min_words=0, picture_bias=1.3, temperature=0.0,
        top_p=1.0, seed=0, max_pictures=1, reply=REPLIES[0], too_long=TOO_LONG[0], clip=None, model=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..host.gill.generate import answer

        settings = DecodingSettings(
            mode=mode, max_new_tokens=max_new_tokens, min_words=min_words, picture_bias=picture_bias,
            temperature=temperature, top_p=top_p, seed=seed, max_pictures=max_pictures,
        )  # fmt: skip
        found = answer(gill_model, prompt, settings, reply=reply, too_long=too_long, clip=clip, diffusion_model=model)
        no_picture = _NO_PICTURE.format(reply=found.reply[:200])
        return io.NodeOutput(
            found.conditioning or blocked(no_picture),
            found.negative or blocked(_NO_CLIP),
            found.reply,
            found.choice,
            found.probability,
            found.embedding or blocked(no_picture),
            found.pictures,
        )
