"""Load an MS-Diffusion adapter."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.folders import TOYBOX
from ..host.ms_diffusion.adapter_folder import adapter_names, adapter_path
from ..host.refusals import first_refusal, typed
from ..host.schema import supported
from ..sockets import MS_CATEGORY, MSAdapterSocket


class MSDiffusionLoader(io.ComfyNode):
    """File -> MS_ADAPTER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MSDiffusionLoader",
            display_name="Load MS-Diffusion",
            category=MS_CATEGORY,
            description="Loads an MS-Diffusion adapter, which puts several subjects into one picture, each in its own "
            "box: the released one for Stable Diffusion XL, or a small built-in one for the embedded toy model.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=adapter_names(),
                    tooltip="The built-in adapter (for the embedded toy model, works at once), or a file in "
                    "models/msdiffusion: ms_adapter.bin as published, or the .safetensors of half its size that the "
                    "command convert writes.",
                ),
            ],
            outputs=[MSAdapterSocket.Output(display_name="MS_ADAPTER", tooltip="For Apply MS-Diffusion.")],
            **supported(
                io.Schema, search_aliases=["ms diffusion", "msdiffusion", "multi subject", "load adapter", "toybox"]
            ),
        )

    @classmethod
    def validate_inputs(cls, adapter_name=TOYBOX) -> bool | str:
        name = typed(adapter_name)
        return first_refusal(("adapter_name", lambda: name is None or adapter_path(name)))

    @classmethod
    def execute(cls, adapter_name: str = TOYBOX) -> io.NodeOutput:
        from ..host.ms_diffusion.adapter import load_adapter

        return io.NodeOutput(load_adapter(adapter_path(adapter_name)))
