"""The edge ControlNet of the built-in model: trained on the bank of scenes, and written as ComfyUI's loader takes it.

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models" (2023), section 3: a trained copy of the
UNet's down blocks sees the edges of the target picture and adds to the frozen UNet's up blocks through convolutions
that begin at zero. It is given the prompt with the subject, as the paper does it (appendix A.7).

ComfyUI knows ControlNets of Stable Diffusion's size only, but builds those of its ControlLora kind with the sizes of
the MODEL that they are used with, and takes weights that the file does not hold from that MODEL. The file is of that
kind; the time embedding is the MODEL's.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..blip_diffusion.pipeline import SubjectPipeline
from ..files import write_whole
from ..toy_world.bank import CACHE
from ..training.optimisers import fast_type
from .control_names import host_name
from .scene_bank import scene_of
from .train_scenes import RegionAttention, SceneData, conditions
from .training import Optimiser, keep, learning_rate, resume

CHECKPOINT = CACHE / "edges.pt"
WEIGHT_FILE = Path(__file__).parent / "controlnet" / "blipdiffusion_toybox_edges.safetensors"
HINT_CHANNELS = (16, 32, 96, 256)  # as ComfyUI builds it
# The lower threshold is drawn between these, in the unit of ComfyUI's Canny node; the upper one is twice as high.
LOWEST, HIGHEST = 0.2, 0.6
SCENES = 2048
"""Of each size; their pictures are rendered once and kept in memory."""

log = logging.getLogger(__name__)


class EdgeControl(nn.Module):
    """The frozen model with the trained copy of its down blocks."""

    def __init__(self, pipeline: SubjectPipeline) -> None:
        super().__init__()
        from diffusers import ControlNetModel

        self.text_encoder = pipeline.text_encoder
        self.unet = pipeline.unet.requires_grad_(False)
        self.control = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=HINT_CHANNELS)
        self.control.time_embedding.requires_grad_(False)
        self.attention = RegionAttention()
        self.unet.set_attn_processor(self.attention)
        self.control.set_attn_processor(self.attention)

    def forward(self, batch: dict, edges: Tensor) -> Tensor:
        """Predicted noise `[B, 4, h, w]` for a batch of `SceneData` and edges `[B, 3, 8h, 8w]`."""
        context, owner = conditions(self.text_encoder, batch["prompts"], batch["vectors"])
        self.attention.look(owner, batch["masks"])
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_type() == torch.bfloat16):
            down, middle = self.control(batch["noisy"], batch["times"], context, edges, return_dict=False)
            predicted = self.unet(
                batch["noisy"],
                batch["times"],
                context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            )
        return predicted.sample.float()


def train_edges(minutes: float, large: int = 6, small: int = 16, rate: float = 1e-3, seed: int = 9) -> None:
    """Train for `minutes` in all (resumed runs count), then write the file.

    Args:
        large: pictures of 192 pixels in a step; small: of 96.
    """
    torch.manual_seed(seed)
    network = EdgeControl(SubjectPipeline.from_checkpoint("toybox"))
    optimiser = Optimiser(
        network.control.named_parameters(),
        adam_only=("conv_in", "controlnet_down_blocks", "controlnet_mid_block"),
        decay=0.995,
    )
    shapes = {"large": large, "small": small}
    data = {name: SceneData(name, seed + i, SCENES) for i, name in enumerate(shapes)}
    clock = resume(optimiser, CHECKPOINT)
    totals: dict[str, list[float]] = {name: [] for name in data}
    while clock.spent < minutes * 60:
        step = optimiser.steps
        for name, size in shapes.items():
            batch = data[name].batch(step, size)
            predicted = network(batch, _edges(name, batch["rows"], np.random.default_rng((seed, step))))
            loss = (batch["weight"] * (predicted - batch["noise"]).square()).mean()
            loss.backward()
            totals[name].append(float(loss.detach()))
        optimiser.clip(1.0)
        optimiser.step(learning_rate(clock.spent / (minutes * 60), rate))
        if optimiser.steps % 50 == 0:
            losses = " ".join(f"{name} {np.mean(values):.4f}" for name, values in totals.items())
            log.info("step %d, %.1f min, %s", optimiser.steps, clock.spent / 60, losses)
            totals = {name: [] for name in data}
        if clock.checkpoint_due():
            keep(optimiser, clock.spent, CHECKPOINT)
    keep(optimiser, clock.spent, CHECKPOINT)
    export_edges()


def export_edges(path: Path = WEIGHT_FILE) -> None:
    """Write the averaged weights of the checkpoint in float16, by ComfyUI's names."""
    from safetensors.torch import save

    average = torch.load(CHECKPOINT, weights_only=True)["optimiser"]["average"]
    tensors = {host_name(name): tensor.half().contiguous() for name, tensor in average.items()}
    write_whole(path, save(tensors | {"lora_controlnet": torch.tensor([])}))


@cache
def _picture(name: str, row: int) -> np.ndarray:
    return scene_of(name, row).picture


def _edges(name: str, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Edges of the pictures in these rows of the bank `[B, 3, H, W]` as ComfyUI's Canny node finds them."""
    from kornia.filters import canny

    low = float(rng.uniform(LOWEST, HIGHEST))
    pictures = torch.from_numpy(np.stack([_picture(name, int(row)) for row in rows])).movedim(-1, 1) / 255
    return canny(pictures, low, 2 * low)[1].expand(-1, 3, -1, -1)
