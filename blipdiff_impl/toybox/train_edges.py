"""The edge ControlNet of the built-in model: trained on the bank, and written so that ComfyUI's own loader takes it.

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models" (2023), section 3: a trained copy of the
UNet's way down sees the edges of the target picture and adds to the frozen UNet's way up through convolutions that
begin at zero. It is given the prompt with the subject, as the paper does it (appendix A.7).

ComfyUI knows ControlNets of Stable Diffusion's size only, but builds those of its ControlLora kind with the sizes of
the MODEL that they are used with, and takes weights that the file does not hold from that MODEL. The file is of that
kind; the time embedding is the MODEL's.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .control_names import host_name
from .train_diffusion import ToyDiffusion, TrainingData, averaged_model
from .training import CACHE, Clock, Optimiser, learning_rate, save_atomically

CHECKPOINT = CACHE / "edges.pt"
WEIGHT_FILE = Path(__file__).parent / "controlnet" / "blipdiffusion_toybox_edges.safetensors"
HINT_CHANNELS = (16, 32, 96, 256)  # as ComfyUI builds it
# The lower threshold is drawn between these, in the unit of ComfyUI's Canny node; the upper one is twice as high.
LOWEST, HIGHEST = 0.2, 0.6

log = logging.getLogger(__name__)


class EdgeControl(nn.Module):
    """The frozen model with the trained copy of its way down."""

    def __init__(self, model: ToyDiffusion) -> None:
        super().__init__()
        from diffusers import ControlNetModel
        from diffusers.models.attention_processor import AttnProcessor

        self.model = model.requires_grad_(False)
        self.control = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=HINT_CHANNELS)
        self.control.set_attn_processor(AttnProcessor())  # as in the base's training: faster here
        self.control.time_embedding.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor], edges: Tensor) -> Tensor:
        """Predicted noise `[B, 4, 12, 12]` for a batch of `TrainingData` and edges `[B, 3, 96, 96]`."""
        with torch.no_grad():
            vectors = self.model.subject_vectors(batch["features"], batch["words"])
            context = self.model.context(batch["ids"], vectors, batch["positions"])
        down, middle = self.control(batch["noisy"], batch["times"], context, edges, return_dict=False)
        return self.model.unet(
            batch["noisy"],
            batch["times"],
            context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def train_edges(minutes: float, batch: int = 40, rate: float = 1e-3, seed: int = 9) -> None:
    """Train for `minutes` in all (resumed runs count), then write the file."""
    torch.manual_seed(seed)
    network = EdgeControl(averaged_model()).bfloat16()
    optimiser = Optimiser(
        network.control.named_parameters(), adam_only=("conv_in", "controlnet_down_blocks", "controlnet_mid_block")
    )
    data = TrainingData(network.model, seed)
    state = torch.load(CHECKPOINT, weights_only=True) if CHECKPOINT.exists() else None
    clock = Clock(state["spent"] if state else 0.0)
    if state:
        optimiser.load_state_dict(state["optimiser"])
    total, ready = 0.0, data.ready()
    while clock.spent < minutes * 60:
        loss = _loss(network, data, optimiser.steps, batch, ready)
        loss.backward()
        optimiser.clip(1.0)
        optimiser.step(learning_rate(clock.spent / (minutes * 60), rate))
        total += float(loss.detach())
        if optimiser.steps % 50 == 0:
            log.info("step %d, %.1f min, loss %.4f", optimiser.steps, clock.spent / 60, total / 50)
            total = 0.0
        if clock.checkpoint_due():
            save_atomically({"optimiser": optimiser.state_dict(), "spent": clock.spent}, CHECKPOINT)
    save_atomically({"optimiser": optimiser.state_dict(), "spent": clock.spent}, CHECKPOINT)
    export_edges()


def export_edges(path: Path = WEIGHT_FILE) -> None:
    """Write the averaged weights of the checkpoint in float16, by ComfyUI's names."""
    from safetensors.torch import save

    average = torch.load(CHECKPOINT, weights_only=True)["optimiser"]["average"]
    tensors = {host_name(name): tensor.half().contiguous() for name, tensor in average.items()}
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(save(tensors | {"lora_controlnet": torch.tensor([])}))
    os.replace(temporary, path)


def _loss(network: EdgeControl, data: TrainingData, step: int, size: int, ready: int) -> Tensor:
    batch = data.batch(step, 0, size, ready)
    edges = _edges(data, step, size, ready).bfloat16()
    return (batch["weight"] * (network(batch, edges).float() - batch["noise"]).square()).mean()


def _edges(data: TrainingData, step: int, size: int, ready: int) -> Tensor:
    """Edges of the batch's pictures `[B, 3, 96, 96]` as ComfyUI's Canny node finds them, at thresholds of the step."""
    from kornia.filters import canny

    # The rows of the bank are what the batch's generator draws first.
    rows = np.sort(np.random.default_rng((data.seed, step, 0)).choice(ready, size, replace=False))
    low = float(np.random.default_rng((data.seed, step, 1)).uniform(LOWEST, HIGHEST))
    pictures = torch.from_numpy(data.bank.pictures[rows]).movedim(-1, 1) / 255
    return canny(pictures, low, 2 * low)[1].expand(-1, 3, -1, -1)
