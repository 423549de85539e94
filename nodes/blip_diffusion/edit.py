"""Putting a subject into an existing picture, and leaving the rest as it is."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.blip_diffusion.editing.options import MASK_MODES, EditSettings, EditWords
from ..host.blip_diffusion.refusals import edit_refusal
from ..host.refusals import ABSENT
from ..host.schema import blocked, supported
from ..sockets import CATEGORY, SubjectSocket

_NO_VAE = "Edit Result has no IMAGE to give: connect a VAE to it, or decode its LATENT outputs."


class SubjectP2PEdit(io.ComfyNode):
    """MODEL, CLIP, SUBJECT and LATENT -> MODEL, both CONDITIONINGs and LATENT for any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectP2PEdit",
            display_name="Edit with Subject",
            category=CATEGORY,
            description="Replaces a thing in a picture by your subject. Connect all four outputs to a sampler, and its "
            "LATENT to Edit Result. The picture and its edit are sampled side by side; attention carries the "
            "composition over, and a mask found on the way keeps everything else in place.",
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.5 model. It stays as it is."),
                io.Clip.Input("clip", tooltip="The CLIP of the model that the subject was encoded with."),
                io.Latent.Input(
                    "latent",
                    tooltip="Empty Latent Image to edit a picture that is generated in the same run; the LATENT of "
                    "Invert Picture to edit an existing one. A batch is several pictures.",
                ),
                io.String.Input(
                    "source_category", default="cat", tooltip="The thing in the picture that is to be replaced."
                ),
                io.String.Input(
                    "target_category",
                    default="",
                    tooltip="What comes instead. Empty: what the subject was encoded as. May be the same word as "
                    "source_category: a dress becomes your dress.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="sitting on a sofa",
                    tooltip="The picture without the thing: source and edit read 'a {thing} {prompt}'. With [subject] "
                    "in it the prompt is used as it stands and the thing goes there.",
                ),
                io.String.Input("negative", multiline=True, default="", tooltip="What to avoid, for both."),
                io.Float.Input(
                    "cross_replace", default=0.8, min=0.0, max=1.0, step=0.05,
                    tooltip="Share of the steps in which the words that both prompts have in common look where they "
                    "look in the source. Higher keeps more of the layout.",
                ),
                io.Float.Input(
                    "self_replace", default=0.4, min=0.0, max=1.0, step=0.05,
                    tooltip="Share of the steps in which coarse self-attention is the source's. Higher keeps more of "
                    "the old thing's shape; lower it for a thing of another shape.",
                ),
                io.Float.Input(
                    "blend_threshold", default=0.3, min=0.0, max=1.0, step=0.05,
                    tooltip="How strongly a place must look at the changing words to belong to the mask, as a share of "
                    "the strongest. Higher edits fewer pixels.",
                ),
                SubjectSocket.Input(
                    "subject", optional=True,
                    tooltip="What to put in. Without one only words are exchanged. A batch edits as many latents.",
                ),
                io.Mask.Input(
                    "mask", optional=True,
                    tooltip="White where the picture may change, in the picture's size. mask_mode says how it counts.",
                ),
                *_advanced_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="For the sampler, and for Edit Result."),
                io.Conditioning.Output(display_name="positive", tooltip="Source and edit, as a batch."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative input."),
                io.Latent.Output(display_name="LATENT", tooltip="Source and edit side by side, with one noise."),
            ],
            **supported(
                io.Schema,
                search_aliases=["swap", "replace", "inpaint", "try on", "edit", "prompt to prompt", "p2p", "style"],
            ),
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, source_category="", target_category="", prompt="", target_prompt=ABSENT, blend_words=ABSENT,
        reweight=ABSENT, subject=ABSENT,
    ) -> bool | str:  # fmt: skip
        return edit_refusal(source_category, target_category, prompt, target_prompt, blend_words, reweight, subject)

    @classmethod
    def execute(
        cls, model, clip, latent, source_category, target_category, prompt, negative, cross_replace, self_replace,
        blend_threshold, subject=None, mask=None, mask_mode=MASK_MODES[0], blend=True, blend_start=0.0, blend_words="",
        reweight="", target_prompt="",
    ) -> io.NodeOutput:  # fmt: skip
        from ..host.blip_diffusion.editing.prepare import checked_mask, prepare_edit

        words = EditWords(
            source_category=source_category, target_category=target_category, prompt=prompt,
            target_prompt=target_prompt, negative=negative, blend_words=blend_words, reweight=reweight,
        )  # fmt: skip
        settings = EditSettings(
            cross_replace=cross_replace, self_replace=self_replace, blend=blend, blend_threshold=blend_threshold,
            blend_start=blend_start, mask=checked_mask(mask), mask_mode=mask_mode,
        )  # fmt: skip
        return io.NodeOutput(*prepare_edit(model, clip, subject, latent, words, settings))


def _advanced_inputs() -> list:
    """Widgets that most artists leave alone; newer renderers fold them away."""

    def advanced(kind: type, name: str, **arguments):
        return kind(name, optional=True, **arguments, **supported(kind, advanced=True))

    return [
        advanced(
            io.Combo.Input, "mask_mode", options=list(MASK_MODES), default=MASK_MODES[0],
            tooltip="The connected mask instead of the automatic one (replace), only where both are (intersect), or "
            "where either is (add).",
        ),
        advanced(
            io.Boolean.Input, "blend", default=True,
            tooltip="Off: no mask; the whole picture may change.",
        ),
        advanced(
            io.Float.Input, "blend_start", default=0.0, min=0.0, max=1.0, step=0.05,
            tooltip="Share of the steps that pass before the mask acts. Higher lets the new thing grow past the old "
            "one's place, at the price of changes around it.",
        ),
        advanced(
            io.String.Input, "blend_words", default="",
            tooltip="Further words of the prompts, separated by commas, whose places belong to the mask as well: "
            "'shadow'.",
        ),
        advanced(
            io.String.Input, "reweight", default="",
            tooltip="How strongly words of the edit are attended to: 'snow: 1.5, [subject]: 2'. 1 changes nothing.",
        ),
        advanced(
            io.String.Input, "target_prompt", default="", multiline=True,
            tooltip="Another text for the edit: with more or other words than prompt. Empty: the same.",
        ),
    ]  # fmt: skip


class SubjectEditResult(io.ComfyNode):
    """MODEL and the sampler's LATENT -> source, edit, MASK and IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectEditResult",
            display_name="Edit Result",
            category=CATEGORY,
            description="Takes the outcome of an edit apart: the picture as it was, the edit, and the mask that was "
            "used. With a VAE it also gives the finished picture, whose background is the original's, pixel for pixel.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL of Edit with Subject."),
                io.Latent.Input("samples", tooltip="What the sampler gave with that MODEL, unchanged."),
                io.Vae.Input("vae", optional=True, tooltip="Needed for IMAGE."),
                io.Image.Input(
                    "original", optional=True,
                    tooltip="The picture that was edited; its pixels come through outside the mask. Without it the "
                    "decoded source takes its place.",
                ),
                io.Boolean.Input(
                    "exact_background", default=True, optional=True,
                    tooltip="On: outside the mask IMAGE has exactly the original's pixels. Off: the decoded edit.",
                ),
                io.Int.Input(
                    "feather", default=8, min=0, max=256, optional=True,
                    tooltip="Pixels over which the edit fades in, from the mask's border inwards.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="source", tooltip="The picture as it was."),
                io.Latent.Output(display_name="edit", tooltip="The picture with the subject."),
                io.Mask.Output(display_name="MASK", tooltip="Where the edit may differ from the source."),
                io.Image.Output(display_name="IMAGE", tooltip="The finished picture; needs a VAE."),
            ],
            **supported(io.Schema, search_aliases=["edit", "split", "composite", "background"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, model, samples, vae=None, original=None, exact_background=True, feather=8) -> io.NodeOutput:
        from ..host.blip_diffusion.editing.result import edited_picture, split_result

        sources, edits, mask = split_result(model, samples)
        if vae is None:
            return io.NodeOutput(sources, edits, mask, blocked(_NO_VAE))
        picture = edited_picture(vae, sources, edits, mask, original, exact_background, feather)
        return io.NodeOutput(sources, edits, mask, picture)
