"""The training loop: batches in, gradients, AdamW, and a state that is whole after every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import SubjectError
from ...stable_diffusion.noise import add_noise, min_snr_weights, noise_loss
from ...training.averages import RunningMean
from ...training.draws import Draw, draws
from ...training.lora import Factors, add_lora
from ...training.precision import MasterWeights, gradient_of
from .optimiser import make_adamw, undo_last_step
from .pictures import TrainingPictures
from .settings import EVEN, MAX_SEED, FinetuneSettings

ContextOf = Callable[[Tensor], Tensor]
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Learned:
    """What fine-tuning has changed, float32 on the training device.

    Attributes:
        vectors: the subject's, `[1, 16, W]`.
        weights: of the UNet by name, with method "full" (with "vectors" neither these nor factors).
        factors: by the name of their layer, with method "lora".
        steps: how many steps are in them.
    """

    vectors: Tensor
    weights: dict[str, Tensor]
    factors: dict[str, Factors]
    steps: int


@dataclass(frozen=True, eq=False)
class Prior:
    """Pictures of the class and the text encoder's output for it `[1, T, W]`: prior preservation (Ruiz et al. 2022)."""

    pictures: TrainingPictures
    context: Tensor


class Tuner:
    """One fine-tuning.

    Attributes:
        predict: runs the UNet under training; usable between steps.
        vectors: the subject's vectors under training, `[1, 16, W]`.
        losses: of every step so far.
        stopped: why it ended early, as a sentence; empty otherwise.
    """

    def __init__(
        self,
        unet: nn.Module,
        predict: Predict,
        context_of: ContextOf,
        vectors: Tensor,
        pictures: TrainingPictures,
        settings: FinetuneSettings,
        alphas_bar: Tensor,
        precision: torch.dtype = torch.float32,
        prior: Prior | None = None,
    ):
        """Takes over the UNet: with "full" its weights change, with "lora" its attention layers get factors, with
        "vectors" it stays as it is.

        Args:
            unet: float32 weights on the training device.
            predict: runs it, `predict(x_t [B, 4, h, w], t [B], context [B, T, W]) -> eps`.
            context_of: differentiable, vectors `[1, 16, W]` to the text encoder's output `[1, T, W]`.
            alphas_bar: `[1000]`.
            precision: what the UNet computes in.
        """
        device = next(unet.parameters()).device
        self.predict = predict
        self.settings = settings
        self.losses: list[float] = []
        self.stopped = ""
        self._context_of = context_of
        self._precision = precision
        self._alphas_bar = alphas_bar.to(device)
        self.vectors = nn.Parameter(vectors.detach().to(device, torch.float32, copy=True))
        self._pictures, self._prior = pictures.to(device), prior
        self._choose_weights(unet)
        factors = [p for layer in self._layers.values() for p in (layer.up, layer.down)]
        self._trained = [self.vectors, *self._masters.masters, *factors]
        self._optimiser = make_adamw(self.vectors, self._masters.masters, factors, settings)
        self._mean = RunningMean(self._trained, settings.ema_decay) if settings.ema_decay else None
        self._unaveraged = False
        self._draws = self._make_draws(pictures, settings.seed)
        if prior is not None:
            self._prior_draws = self._make_draws(prior.pictures, (settings.seed + 1) % (MAX_SEED + 1))

    def run(self, watch: Callable[[int, list[float]], None] = lambda done, losses: None) -> None:
        """Train for all steps, or until the loss is not a number (then `stopped` says so).

        Args:
            watch: called before the first step and after each with (steps done, losses); what it raises ends the run
                between two steps, and `learned` has everything up to there.

        Raises:
            SubjectError: the very first loss is not a number.
        """
        watch(0, self.losses)
        while len(self.losses) < self.settings.steps and not self.stopped:
            self._step()
            watch(len(self.losses), self.losses)

    def learned(self) -> Learned:
        """The result so far."""
        self._average()
        tensors = self._mean.means if self._mean else [tensor.detach() for tensor in self._trained]
        vectors, rest = tensors[0], tensors[1:]
        weights = dict(zip(self._names, rest[: len(self._names)], strict=True))
        rest = rest[len(weights) :]
        pairs = zip(rest[::2], rest[1::2], strict=True)
        rank = float(self.settings.rank)
        factors = {name: Factors(up, down, rank) for name, (up, down) in zip(self._layers, pairs, strict=True)}
        return Learned(vectors, weights, factors, len(self.losses))

    def _choose_weights(self, unet: nn.Module) -> None:
        """What is trained of the UNet, and in which precision the rest lies."""
        if self.settings.method == "full":
            named = dict(unet.requires_grad_(True).named_parameters())
            self._names, self._layers = list(named), {}
            self._masters = MasterWeights(list(named.values()), self._precision)
        else:
            unet.requires_grad_(False).to(self._precision)
            self._names, self._masters = [], MasterWeights([], self._precision)
            add = self.settings.method == "lora"
            self._layers = add_lora(unet, self.settings.rank, self.settings.seed) if add else {}

    def _make_draws(self, pictures: TrainingPictures, seed: int) -> Iterator[Draw]:
        shape = tuple(pictures.latents.shape[1:])
        even = self.settings.timesteps == EVEN
        return draws(len(pictures), self.settings.batch_size, shape, seed, pictures.mirrored is not None, even)

    def _step(self) -> None:
        loss = self._loss(self._pictures, next(self._draws), self._context_of(self.vectors))
        loss.backward()
        if self._prior is not None:
            prior = self.settings.prior_weight * self._loss(
                self._prior.pictures, next(self._prior_draws), self._prior.context
            )
            prior.backward()
            loss = loss.detach() + prior.detach()
        self._masters.take_gradients()
        value = self._value(loss)
        if not math.isfinite(value):
            self._take_back()
            return
        self._average()
        self._optimiser.step()
        self._unaveraged = True
        self._optimiser.zero_grad()
        self._masters.publish()
        self.losses.append(value)

    def _average(self) -> None:
        """Take the weights into the running mean, once they are known to be good."""
        if self._mean and self._unaveraged:
            self._mean.update()
            self._unaveraged = False

    def _loss(self, pictures: TrainingPictures, draw: Draw, context: Tensor) -> Tensor:
        device = self.vectors.device
        x_0, weights = pictures.take(draw.pictures.to(device), draw.flipped.to(device))
        t, eps = draw.timesteps.to(device), draw.noise.to(device)
        alphas = self._alphas_bar[t]
        x_t = add_noise(x_0, eps, alphas)
        context = context.to(self._precision).expand(len(x_t), -1, -1)
        predicted = self.predict(x_t.to(self._precision), t, context)
        return noise_loss(predicted, eps, weights, min_snr_weights(alphas, self.settings.min_snr))

    def _value(self, loss: Tensor) -> float:
        """The loss; NaN where a gradient is none, since a step on it would ruin the weights for good. The one moment of
        a step at which a GPU is waited for."""
        norms = torch._foreach_norm([gradient_of(tensor) for tensor in self._trained])
        return float(loss.detach() + 0 * torch.stack(norms).sum())

    def _take_back(self) -> None:
        """Return to the last weights whose loss was a number, and stop."""
        step = len(self.losses) + 1
        if step == 1:
            raise SubjectError(
                "The loss of the first step is not a number, so nothing can be learned: the MODEL, the VAE's latents "
                "or the subject hold NaN or infinite values. Try whether the MODEL can generate a picture at all."
            )
        undo_last_step(self._optimiser)
        self._unaveraged = False
        self._optimiser.zero_grad()
        self._masters.publish()
        self.losses.pop()
        self.stopped = (
            f"Stopped at step {step} of {self.settings.steps}: the loss was not a number. The weights are those of "
            f"step {len(self.losses)}. A lower learning_rate than {self.settings.learning_rate:g} prevents this."
        )
