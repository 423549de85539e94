"""A subject to a file and back."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.blip_diffusion.subject_folders import checked_name, subject_names, subject_path
from ..host.refusals import first_refusal, typed
from ..host.schema import supported
from ..sockets import CATEGORY, SubjectSocket

_WHOLE, _LOW_RANK = "whole", "low rank"


class SubjectSave(io.ComfyNode):
    """SUBJECT (and the MODEL tuned for it) -> a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectSave",
            display_name="Save Subject",
            category=CATEGORY,
            description="Saves a subject as one .safetensors file in output/subjects, with the weights that were tuned "
            "for it if there are any. ComfyUI's own nodes read it too: as an embedding, and as a LoRA.",
            inputs=[
                SubjectSocket.Input("subject", tooltip="The subject, or a batch of subjects."),
                io.String.Input(
                    "filename_prefix",
                    default="my_subject",
                    tooltip="Name of the file, with a folder before it if you like: pets/my_dog. A number is added, so "
                    "nothing is ever overwritten.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The MODEL of Subject Finetune: its tuned weights are saved with the subject. LoRAs on it "
                    "are not.",
                ),
                io.Combo.Input(
                    "full_tune",
                    options=[_WHOLE, _LOW_RANK],
                    default=_WHOLE,
                    tooltip="For weights tuned with method 'full'. whole: every weight in 16 bit, exact but 1.7 GB for "
                    "Stable Diffusion 1.5. low rank: a small approximation; the report says how much is lost. "
                    "Weights tuned with method 'lora' are small and always kept as they are.",
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="For 'low rank': higher keeps more and takes more room.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A picture of the subject: a small copy goes into the file. Load Subject shows it, and so "
                    "does ComfyUI's list of models.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="name", tooltip="Name of the file, as Load Subject lists it."),
                io.String.Output(display_name="report", tooltip="What was saved, how large it is, and what was lost."),
            ],
            is_output_node=True,
            **supported(io.Schema, search_aliases=["embedding", "textual inversion", "save subject", "save lora"]),
        )

    @classmethod
    def validate_inputs(cls, filename_prefix="") -> bool | str:
        name = typed(filename_prefix)
        return first_refusal(("filename_prefix", lambda: name is None or checked_name(name)))

    @classmethod
    def execute(cls, subject, filename_prefix, model=None, full_tune=_WHOLE, rank=64, image=None) -> io.NodeOutput:
        from ..host.blip_diffusion.save import save_subject

        name, report = save_subject(subject, filename_prefix, model, rank if full_tune == _LOW_RANK else None, image)
        return io.NodeOutput(name, report)


class SubjectLoad(io.ComfyNode):
    """A file (and the MODEL that its weights belong to) -> MODEL and SUBJECT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectLoad",
            display_name="Load Subject",
            category=CATEGORY,
            description="Loads a subject that was saved with Save Subject. Weights that were tuned for it are added to "
            "the MODEL.",
            inputs=[
                io.Combo.Input(
                    "subject_name",
                    options=subject_names(),
                    tooltip="A file in output/subjects or models/blipdiffusion_subjects. Press R after saving one.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the subject was made for. Needed only for the weights of a tuned subject; "
                    "for others it passes through unchanged.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model, with the subject's tuned weights."),
                SubjectSocket.Output(display_name="SUBJECT", tooltip="The subject, for Subject Prompt."),
            ],
            **supported(
                io.Schema,
                has_intermediate_output=True,
                search_aliases=["load subject", "saved subject", "character", "identity"],
            ),
        )

    @classmethod
    def validate_inputs(cls, subject_name="") -> bool | str:
        name = typed(subject_name)
        return first_refusal(("subject_name", lambda: name is None or subject_path(name)))

    @classmethod
    def fingerprint_inputs(cls, subject_name: str = "", **_) -> tuple[int, int]:
        state = subject_path(subject_name).stat()
        return state.st_mtime_ns, state.st_size

    @classmethod
    def execute(cls, subject_name: str, model=None) -> io.NodeOutput:
        from ..host.blip_diffusion.save import load_subject

        tuned, subject, picture = load_subject(subject_name, model)
        if picture is None:
            return io.NodeOutput(tuned, subject)
        return io.NodeOutput(tuned, subject, ui=ui.PreviewImage(picture, cls=cls))
