"""Pictures that fit what GILL said."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.gill.picture_folders import folder_names, state_of
from ..host.schema import supported
from ..sockets import GILL_CATEGORY, GILLEmbeddingSocket, GILLIndexSocket, GILLModelSocket


class GILLIndex(io.ComfyNode):
    """A folder of pictures -> GILL_INDEX."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        folders = folder_names()
        return io.Schema(
            node_id="GILLIndex",
            display_name="GILL Index Pictures",
            category=GILL_CATEGORY,
            description="Looks at every picture in a folder once, so that GILL Retrieve can find the one that fits. "
            "Kept in output/gill; only what is new or has changed is looked at again.",
            inputs=[
                GILLModelSocket.Input("gill_model", tooltip="From Load GILL Model, with a CLIP vision model."),
                io.Combo.Input(
                    "folder", options=folders,
                    tooltip="A folder in ComfyUI's input folder, with all folders below it. Files that cannot be read "
                    "are left out and named.",
                ),
            ],
            outputs=[GILLIndexSocket.Output(display_name="GILL_INDEX", tooltip="For GILL Retrieve.")],
            **supported(io.Schema, search_aliases=["gill", "index", "folder", "search pictures", "library"]),
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **_) -> str:
        return state_of(folder)

    @classmethod
    def execute(cls, gill_model, folder) -> io.NodeOutput:
        from ..host.gill.retrieval import index_folder

        return io.NodeOutput(index_folder(gill_model, folder))


class GILLRetrieve(io.ComfyNode):
    """GILL_EMBEDDING and GILL_INDEX -> pictures with scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GILLRetrieve",
            display_name="GILL Retrieve",
            category=GILL_CATEGORY,
            description="The pictures of an index that fit best what GILL said.",
            inputs=[
                GILLIndexSocket.Input("index", tooltip="From GILL Index Pictures, made with the same model."),
                GILLEmbeddingSocket.Input("embedding", tooltip="From GILL Reply."),
                io.Int.Input("most", default=3, min=1, max=64, tooltip="How many pictures; the best come first."),
                io.Int.Input(
                    "which", default=1, min=1, max=16, tooltip="Where a reply has several pictures: which of them."
                ),
                io.String.Input(
                    "seen", default="", multiline=True, optional=True,
                    tooltip="Names of pictures that should not come again, a line each: the names of an earlier GILL "
                    "Retrieve.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", is_output_list=True, tooltip="The pictures, in their own sizes."),
                io.String.Output(display_name="names", tooltip="Their files in the folder, a line each."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="How well each fits."),
            ],
            **supported(io.Schema, search_aliases=["gill", "retrieve", "search", "find picture"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, index, embedding, most=3, which=1, seen="") -> io.NodeOutput:
        from ..host.gill.retrieval import retrieve

        return io.NodeOutput(*retrieve(index, embedding, which, most, seen))


class GILLRank(io.ComfyNode):
    """Drawn pictures in the order in which they fit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GILLRank",
            display_name="GILL Rank",
            category=GILL_CATEGORY,
            description="Puts drawn pictures in order by how well they fit what GILL said, the best first.",
            inputs=[
                GILLModelSocket.Input("gill_model", tooltip="The model that made the reply, with a CLIP vision model."),
                GILLEmbeddingSocket.Input("embedding", tooltip="From GILL Reply."),
                io.Image.Input("images", tooltip="A batch of pictures, usually drawn from one CONDITIONING."),
                io.Int.Input(
                    "which", default=1, min=1, max=16, tooltip="Where a reply has several pictures: which of them."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The same batch, the best first."),
                io.Image.Output(display_name="best", tooltip="The first of them alone."),
                io.String.Output(display_name="scores", tooltip="Cosines from -1 to 1, a line for each."),
            ],
            **supported(io.Schema, search_aliases=["gill", "rank", "sort", "choose best", "score"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, gill_model, embedding, images, which=1) -> io.NodeOutput:
        from ..host.gill.retrieval import rank

        return io.NodeOutput(*rank(gill_model, embedding, images, which))
