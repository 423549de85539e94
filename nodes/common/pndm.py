"""The sampler of the paper, for SamplerCustom."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.schema import supported
from ..sockets import CATEGORY


class SubjectSamplerPNDM(io.ComfyNode):
    """-> SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectSamplerPNDM",
            display_name="PNDM Sampler",
            category=CATEGORY,
            description="PNDM (PLMS), the sampler of the BLIP-Diffusion paper and release. Use it in SamplerCustom "
            "together with PNDM Schedule.",
            inputs=[],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustom or SamplerCustomAdvanced.")],
            **supported(io.Schema, search_aliases=["plms", "pndm", "sampler", "blip diffusion"]),
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..host.pndm import pndm_sampler

        return io.NodeOutput(pndm_sampler())


class SubjectSchedulePNDM(io.ComfyNode):
    """MODEL -> SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SubjectSchedulePNDM",
            display_name="PNDM Schedule",
            category=CATEGORY,
            description="The noise levels of the BLIP-Diffusion release: evenly spaced timesteps down to 0.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled."),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="Number of steps. The release uses 50, the paper 100."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 starts from noise. Less keeps more of the latent picture that goes in.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="SIGMAS", tooltip="For SamplerCustom, with the PNDM Sampler.")],
            **supported(io.Schema, search_aliases=["plms", "pndm", "scheduler", "sigmas", "blip diffusion"]),
        )

    @classmethod
    def execute(cls, model, steps=50, denoise=1.0) -> io.NodeOutput:
        from ..host.pndm import pndm_sigmas

        return io.NodeOutput(pndm_sigmas(model, steps, denoise))
