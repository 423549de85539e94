"""A prompt whose subject acts in a part of the run."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.blip_diffusion.refusals import prompt_refusal
from ..host.blip_diffusion.schedule import MOST_LEVELS, encode_subject_schedule
from ..host.schema import supported
from ..sockets import CATEGORY
from .prompt import SubjectPromptInfix

_REPLACED = "subject_strength"


class SubjectPromptSchedule(io.ComfyNode):
    """CLIP, SUBJECT, text and a range of the run -> CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectPromptSchedule",
            display_name="Subject Prompt Over Time",
            category=CATEGORY,
            description="Subject Prompt with a subject that acts in a part of the run only, and whose strength may "
            "rise or fall there. The early part of a run decides the layout, the late part the details.",
            inputs=[
                *(item for item in SubjectPromptInfix.define_schema().inputs if item.id != _REPLACED),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Where in the run the subject begins to act; 0 is the first step. Before it the prompt is "
                    "plain: 'a dog swimming underwater'.",
                ),
                io.Float.Input(
                    "end", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Where it ceases to act; 1 is the last step.",
                ),
                io.Float.Input(
                    "strength_start", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="The subject's strength at the start: 0 is the plain prompt, 1 the method as published, "
                    "more exaggerates.",
                ),
                io.Float.Input(
                    "strength_end", default=1.0, min=0.0, max=2.0, step=0.05,
                    tooltip="Its strength at the end. In between it goes evenly from one to the other.",
                ),
                io.Int.Input(
                    "levels", default=8, min=2, max=MOST_LEVELS,
                    tooltip="In how many steps the strength changes. More than the sampler has steps changes nothing.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="For the positive input of a sampler or ControlNet node; one entry for each part of the "
                    "run.",
                )
            ],
            **supported(
                io.Schema, search_aliases=["timestep range", "schedule", "prompt scheduling"]
            ),
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, prompt="") -> bool | str:
        return prompt_refusal(prompt)

    @classmethod
    def execute(
        cls, clip, subject, prompt, category="", template="released", prompt_strength=1.0, prompt_reps=20,
        start=0.0, end=1.0, strength_start=1.0, strength_end=1.0, levels=8,
    ) -> io.NodeOutput:  # fmt: skip
        return io.NodeOutput(
            encode_subject_schedule(
                clip, subject, prompt, category=category, template=template, prompt_strength=prompt_strength,
                prompt_reps=prompt_reps, start=start, end=end, strength_start=strength_start,
                strength_end=strength_end, levels=levels,
            )
        )  # fmt: skip
