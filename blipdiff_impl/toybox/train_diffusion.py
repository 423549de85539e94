"""Last stage: UNet, text encoder and the Q-Former with its projection learn to draw the subject in a described place.

As in the paper's second stage (section 3.3): noise prediction on latents of the target picture, conditioned on a
caption with the subject vectors of a reference picture spliced in; the look is never in the text. The image tower
and the autoencoder are frozen. Runs as one process or as two that average their gradients.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ..prompts.rows import ROW
from ..stable_diffusion.noise import TRAIN_TIMESTEPS, alphas_bar, error_weights
from ..toy_world import prompts
from ..toy_world.bank import CACHE, open_bank
from ..toy_world.world import BACKGROUND_NAMES, CATEGORIES
from ..training.optimisers import fast_type
from .features import FOLDER
from .model import CONFIG
from .train_subject import averaged_subject_encoder, category_ids
from .training import Optimiser, keep, learning_rate, resume

MIN_SNR = 5.0
ENCODER_RATE = 0.3
CHECKPOINT = CACHE / "diffusion.pt"
MEETING_POINT = "tcp://127.0.0.1:29517"  # where training processes of this machine find each other

log = logging.getLogger(__name__)


class ToyDiffusion(nn.Module):
    """The trained parts. The text encoder holds only the rows of used tokens, behind a zero row for all others."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        used = prompts.used_tokens()
        record = CONFIG.text_encoder.to_transformers() | {"vocab_size": len(used) + 1, "eos_token_id": len(used)}
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**record, attn_implementation="sdpa"))
        self.unet = UNet2DConditionModel(**CONFIG.unet.to_diffusers())
        encoder, _ = averaged_subject_encoder()
        self.qformer, self.projection = encoder.qformer, encoder.proj_layer
        self.row_of = {prompts.UNKNOWN: 0} | {token: i + 1 for i, token in enumerate(used)}
        self._spliced: tuple | None = None
        self.token_embedding.register_forward_hook(self._splice)
        self._use_plain_attention()
        with torch.no_grad():
            self.token_embedding.weight.normal_(std=0.5)
            self.token_embedding.weight[0] = 0

    def _use_plain_attention(self) -> None:
        """Matrix products and a softmax: forward and backward together 1.8 times as fast here as the fused kernel."""
        from diffusers.models.attention_processor import AttnProcessor

        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder.set_attn_implementation("eager")
        for module in self.qformer.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = "eager"

    @property
    def token_embedding(self) -> nn.Embedding:
        return self.text_encoder.get_input_embeddings()

    def context(self, ids: torch.Tensor, vectors: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Text encoder output [B, 77, W] with `vectors` [B, 16, W] at `positions` [B] (-1: none)."""
        self._spliced = vectors, positions
        return self.text_encoder(input_ids=ids).last_hidden_state

    def _splice(self, module, arguments, embedded: torch.Tensor) -> torch.Tensor:
        vectors, positions = self._spliced
        index = torch.arange(ROW).expand(len(positions), -1)
        offset = index - positions[:, None]
        inside = (positions[:, None] >= 0) & (offset >= 0) & (offset < prompts.VECTORS)
        index = torch.where(inside, ROW + offset, index)
        rows = torch.cat([embedded, vectors.to(embedded.dtype)], dim=1)
        return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))

    def subject_vectors(self, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.projection(self.qformer(features, ids, torch.ones(ids.shape)))


class TrainingData:
    """Draws batches from the bank; a batch depends only on seed, step and process."""

    def __init__(self, model: ToyDiffusion, seed: int) -> None:
        self.bank = open_bank()
        self.latents = np.load(FOLDER / "latents.npy", mmap_mode="r")
        self.features = np.load(FOLDER / "features.npy", mmap_mode="r")
        self.row_of, self.seed, self.words = model.row_of, seed, category_ids()
        self.alphas = alphas_bar()

    def ready(self) -> int:
        """How many pairs have latents and features, counted from the first."""
        counts = []
        for array in (self.latents, self.features):
            filled = array.reshape(len(array), -1)[127::128, :32].any(axis=1)
            counts.append(len(array) if filled.all() else int(np.argmin(filled)) * 128)
        return min(counts)

    def batch(self, step: int, process: int, size: int, ready: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, step, process))
        rows = np.sort(rng.choice(ready, size, replace=False))
        labels = self.bank.labels[rows].astype(np.int64)
        drawn = [prompts.draw_row(CATEGORIES[c], BACKGROUND_NAMES[b], rng) for c, b in labels]
        times = torch.from_numpy((rng.permutation(size) + rng.uniform(size=size)) / size * TRAIN_TIMESTEPS).long()
        noise = torch.from_numpy(rng.standard_normal((size, 4, 12, 12), dtype=np.float32))
        latents = torch.from_numpy(self.latents[rows]).float()
        alphas = self.alphas[times]
        alpha = alphas[:, None, None, None]
        mask = torch.from_numpy(self.bank.masks[rows].astype(np.float32) / 255)[:, None]
        return {
            "ids": torch.tensor([[self.row_of[int(i)] for i in ids] for ids, _ in drawn]),
            "positions": torch.tensor([position for _, position in drawn]),
            "features": torch.from_numpy(self.features[rows]).to(fast_type()),
            "words": self.words[labels[:, 0]],
            "noisy": (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(fast_type()),
            "noise": noise,
            "times": times,
            "weight": error_weights(alphas, mask, MIN_SNR, mask_weight=1.0),
        }


def train_diffusion(
    minutes: float, process: int = 0, processes: int = 1, batch: int = 40, rate: float = 1.2e-3, seed: int = 4
) -> None:
    """Train for `minutes` in all (resumed runs count); process 0 writes `diffusion.pt`.

    Args:
        process, processes: this process's number and how many train together, each on `batch` pairs a step.
    """
    torch.manual_seed(seed)
    model = ToyDiffusion().to(fast_type())
    optimiser = Optimiser(
        model.named_parameters(),
        adam_only=("embedding", "conv_in", "conv_out", "query_tokens"),
        slow=("qformer", "projection"),
        slow_rate=ENCODER_RATE,
    )
    data = TrainingData(model, seed)
    clock = resume(optimiser, CHECKPOINT)
    with _together(process, processes):
        total, spent, ready = 0.0, clock.spent, 0.0
        while spent < minutes * 60:
            if optimiser.steps % 200 == 0 or not ready:
                ready = _agree(float(data.ready()), processes, torch.distributed.ReduceOp.MIN)
            spent = _agree(clock.spent, processes, torch.distributed.ReduceOp.MAX)
            loss = _loss(model, data.batch(optimiser.steps, process, batch, int(ready)))
            loss.backward()
            _average_gradients(optimiser, processes)
            optimiser.clip(1.0)
            optimiser.step(learning_rate(spent / (minutes * 60), rate))
            total += float(loss.detach())
            if optimiser.steps % 100 == 0:
                log.info("step %d, %.1f min, %d pairs, loss %.4f", optimiser.steps, spent / 60, ready, total / 100)
                total = 0.0
            if process == 0 and (clock.checkpoint_due() or spent >= minutes * 60):
                keep(optimiser, spent, CHECKPOINT)


def _loss(model: ToyDiffusion, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    vectors = model.subject_vectors(batch["features"], batch["words"])
    context = model.context(batch["ids"], vectors, batch["positions"])
    predicted = model.unet(batch["noisy"], batch["times"], context).sample.float()
    return (batch["weight"] * (predicted - batch["noise"]).square()).mean()


@contextmanager
def _together(process: int, processes: int):
    """Joins the other training processes of this machine for the time of the training."""
    if processes > 1:
        dist.init_process_group("gloo", init_method=MEETING_POINT, rank=process, world_size=processes)
    try:
        yield
    finally:
        if processes > 1:
            dist.destroy_process_group()


def _agree(value: float, processes: int, operation) -> float:
    tensor = torch.tensor(value, dtype=torch.float64)
    if processes > 1:
        dist.all_reduce(tensor, op=operation)
    return float(tensor)


def _average_gradients(optimiser: Optimiser, processes: int) -> None:
    """One all-reduce over all gradients, in float32."""
    grads = [p.grad for p in optimiser.parameters.values() if p.grad is not None]
    if processes > 1:
        flat = torch.cat([g.flatten() for g in grads]).float() / processes
        dist.all_reduce(flat)
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))


def averaged_model() -> ToyDiffusion:
    """The model with averaged weights, float32, from the training's checkpoint."""
    model = ToyDiffusion()
    average = torch.load(CHECKPOINT, weights_only=True)["optimiser"]["average"]
    model.load_state_dict(model.state_dict() | average)
    return model.eval()
