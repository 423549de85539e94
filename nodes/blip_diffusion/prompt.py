"""A prompt with a subject in it."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.blip_diffusion.prompt import TEMPLATES, encode_subject_prompt
from ..host.blip_diffusion.refusals import prompt_refusal
from ..host.schema import supported
from ..sockets import CATEGORY, SubjectSocket


class SubjectPromptInfix(io.ComfyNode):
    """CLIP, SUBJECT and text -> CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectPromptInfix",
            display_name="Subject Prompt",
            category=CATEGORY,
            description="Encodes a prompt with a subject in it. Everything that works in a Stable Diffusion 1.5 prompt "
            "works here: (weights:1.2), embeddings, LoRA, clip skip, long prompts.",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the model that the subject was encoded with."),
                SubjectSocket.Input("subject", tooltip="A subject. A batch of subjects makes a batch of pictures."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="swimming underwater",
                    tooltip="The new scene, without the thing itself: 'swimming underwater', 'on a marble table'. "
                    "Write [subject] to choose its place yourself; the prompt is then used as it stands.",
                ),
                io.String.Input(
                    "category",
                    default="",
                    tooltip="What to draw, in a word or two. Empty: what the subject was encoded as. Another word "
                    "gives that thing with the subject's looks.",
                ),
                io.Combo.Input(
                    "template",
                    options=list(TEMPLATES),
                    default="released",
                    tooltip="released: 'a [subject] dog swimming underwater', repeated. paper: 'swimming underwater, "
                    "the dog is [subject]', once.",
                ),
                io.Float.Input(
                    "prompt_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Part of the repetitions that is used (released template): lower it when the scene drowns "
                    "the subject. The phrase always stays once.",
                ),
                io.Int.Input(
                    "prompt_reps",
                    default=20,
                    min=1,
                    max=100,
                    tooltip="How often the phrase is written (released template), as far as the 77 positions go. "
                    "Repeating makes the scene stronger.",
                ),
                io.Float.Input(
                    "subject_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much the subject counts: 0 is the plain prompt, 1 the method as published, more "
                    "exaggerates.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="For the positive input of a sampler, ControlNet or mask node."
                )
            ],
            **supported(io.Schema, search_aliases=["subject", "blip", "subject prompt", "text encode", "style"]),
        )

    @classmethod
    def validate_inputs(cls, prompt="") -> bool | str:
        return prompt_refusal(prompt)

    @classmethod
    def execute(
        cls,
        clip,
        subject,
        prompt,
        category="",
        template="released",
        prompt_strength=1.0,
        prompt_reps=20,
        subject_strength=1.0,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            encode_subject_prompt(
                clip,
                subject,
                prompt,
                category=category,
                template=template,
                prompt_strength=prompt_strength,
                prompt_reps=prompt_reps,
                subject_strength=subject_strength,
            )
        )
