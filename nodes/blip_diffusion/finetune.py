"""Photos of one subject to a model that knows it."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.blip_diffusion.finetuning.options import METHODS, PRECISION_NAMES, FinetuneSettings, default_method
from ..host.schema import supported
from ..sockets import CATEGORY, SubjectSocket

_ALIASES = ["train", "lora", "dreambooth", "textual inversion", "finetune", "embedding"]
# The next Run then takes what was learned from the cache. Older hosts know on and off only.
_FIXED = getattr(getattr(io, "ControlAfterGenerate", None), "fixed", True)


class SubjectFinetune(io.ComfyNode):
    """MODEL, CLIP, VAE, SUBJECT and its photos -> MODEL, SUBJECT and the loss curve."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectFinetune",
            display_name="Subject Finetune",
            category=CATEGORY,
            description="Learns one subject from its photos in seconds to minutes, for more likeness than the encoder "
            "alone gives. The tuned model comes out as patches on the MODEL, ready for any sampler; the loaded model "
            "stays as it is.",
            inputs=[
                io.Model.Input("model", tooltip="The model to start from, LoRAs included. It is not changed."),
                io.Clip.Input("clip", tooltip="The CLIP that the subject will be prompted with. It is not trained."),
                io.Vae.Input("vae", tooltip="Turns the photos into latents, once, and draws the preview."),
                SubjectSocket.Input(
                    "subject", tooltip="From Subject Encoder, with the same photos: training starts from their mean."
                ),
                io.Image.Input(
                    "images",
                    tooltip="Photos of ONE subject, a batch or a list, best three to six on different backgrounds. The "
                    "middle square of each is learned.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=default_method(),
                    tooltip="full: every weight of the UNet, as the paper. lora: small factors beside the attention "
                    "layers; takes a third of the memory and gives a small file. vectors: the subject's 16 vectors "
                    "alone; the MODEL stays as it is, and the file works as an embedding in any prompt.",
                ),
                io.Int.Input(
                    "steps", default=80, min=1, max=10000,
                    tooltip="40 to 120 in the paper. More likeness, but in the end only the photos come back.",
                ),
                io.Float.Input(
                    "learning_rate", default=5e-6, min=1e-7, max=1e-2, step=1e-7, round=False,
                    tooltip="How far a step goes. 5e-6 as in the paper's appendix and the release (its main text says "
                    "5e-5). Serves all methods: lora's factors are stepped a hundred times faster by themselves, "
                    "vectors alone two hundred times.",
                ),
                io.Int.Input("batch_size", default=3, min=1, max=64, tooltip="Photos per step. The paper uses 3."),
                io.Int.Input(
                    "rank", default=16, min=1, max=256,
                    tooltip="Size of lora's factors; the others do not use it. Larger learns finer detail and makes a "
                    "larger file.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=_FIXED,
                    tooltip="The same seed gives the same result.",
                ),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="White on the subject, one for all photos or one for each. Used only if background_weight "
                    "is below 1.",
                ),
                io.Image.Input(
                    "class_images", optional=True,
                    tooltip="Pictures of OTHER things of the category (prior preservation): they keep the model from "
                    "turning every dog into yours. Each step learns as many of them as of the photos.",
                ),
                *_advanced_inputs(),
            ],
            is_input_list=True,
            outputs=[
                io.Model.Output(
                    display_name="MODEL", is_output_list=True,
                    tooltip="Draws the subject; for KSampler and Save Subject.",
                ),
                SubjectSocket.Output(
                    display_name="SUBJECT", is_output_list=True,
                    tooltip="The tuned vectors, for Subject Prompt and Save Subject."
                ),
                io.Image.Output(display_name="IMAGE", is_output_list=True, tooltip="The loss over the steps."),
            ],
            hidden=[io.Hidden.unique_id],
            **supported(io.Schema, has_intermediate_output=True, search_aliases=_ALIASES),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, subject, images, method, steps, learning_rate, batch_size, rank, seed,
        masks=None, class_images=None, resolution=0, preview_every=20, preview_prompt="", keep_on_cancel=True,
        background_weight=1.0, flip=False, prior_weight=1.0, ema_decay=0.0, precision="auto",
    ) -> io.NodeOutput:  # fmt: skip
        from ..host.blip_diffusion.finetuning.run import HostOptions, Inputs, finetune

        settings = FinetuneSettings(
            method=method, steps=steps, learning_rate=learning_rate, batch_size=batch_size, rank=rank, seed=seed,
            background_weight=background_weight, flip=flip, prior_weight=prior_weight, ema_decay=ema_decay,
        )  # fmt: skip
        options = HostOptions(
            resolution=resolution, precision=precision, preview_every=preview_every, preview_prompt=preview_prompt,
            keep_on_cancel=keep_on_cancel, node=cls.hidden.unique_id if cls.hidden else None,
        )  # fmt: skip
        inputs = Inputs(
            model=model, clip=clip, vae=vae, subject=subject, images=images, masks=masks, class_images=class_images
        )
        found = finetune(inputs, settings, options)
        shown = ui.PreviewImage(found.shown, cls=cls)
        return io.NodeOutput(found.model, found.subject, found.curve, ui=shown)


def _advanced_inputs() -> list:
    """Widgets that most artists leave alone; newer renderers fold them away."""

    def advanced(kind: type, name: str, **arguments):
        return kind(name, optional=True, **arguments, **supported(kind, advanced=True))

    return [
        advanced(
            io.Int.Input, "resolution", default=0, min=0, max=2048, step=8,
            tooltip="Side of the training pictures in pixels. 0: what the model was trained on (512 for Stable "
            "Diffusion 1.5).",
        ),
        advanced(
            io.Int.Input, "preview_every", default=20, min=0, max=10000,
            tooltip="Steps between two preview pictures on the node; 0 for none. A preview costs about as much as six "
            "steps.",
        ),
        advanced(
            io.String.Input, "preview_prompt", default="",
            tooltip="What the preview shows the subject doing: 'on a beach'. Always with the same noise.",
        ),
        io.Boolean.Input(
            "keep_on_cancel", default=True, optional=True,
            tooltip="On: cancelling ends the training only, and the workflow continues with what was learned so far. "
            "Off: it ends the workflow.",
        ),
        advanced(
            io.Float.Input, "background_weight", default=1.0, min=0.0, max=1.0, step=0.05,
            tooltip="How much the background outside the masks is learned. 1 learns whole photos, 0 the subject only.",
        ),
        advanced(
            io.Boolean.Input, "flip", default=False,
            tooltip="Show a random half of the photos mirrored. Not for things with writing or one-sided marks.",
        ),
        advanced(
            io.Float.Input, "prior_weight", default=1.0, min=0.0, max=10.0, step=0.1,
            tooltip="How much the class_images count beside the photos, where they are connected.",
        ),
        advanced(
            io.Float.Input, "ema_decay", default=0.0, min=0.0, max=0.9999, step=0.01, round=False,
            tooltip="Give out a running mean of the weights: 0.95 is one over about 20 steps. 0: the last weights.",
        ),
        advanced(
            io.Combo.Input, "precision", options=list(PRECISION_NAMES), default=PRECISION_NAMES[0],
            tooltip="What the UNet computes in; the weights add up in fp32 always. auto: bf16 where the GPU has it.",
        ),
    ]  # fmt: skip
