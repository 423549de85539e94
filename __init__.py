"""BLIP-Diffusion Subjects: ComfyUI finds its nodes, help pages and example workflows through this file."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES
from .nodes.host.setup import prepare

WEB_DIRECTORY = "./web"


class BlipDiffusionExtension(ComfyExtension):
    """The nodes of this pack."""

    async def on_load(self) -> None:
        prepare()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


def comfy_entrypoint() -> BlipDiffusionExtension:
    """Called by the host when it loads the pack."""
    return BlipDiffusionExtension()
