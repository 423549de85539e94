"""Generation outside ComfyUI, for scripts and evaluation: the subject path on diffusers' UNet, VAE and schedulers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SubjectError
from ..prompts.rows import compose
from ..settings import MAX_SEED, require_in_range
from ..stable_diffusion.building import build_unet, build_vae, make_scheduler
from ..stable_diffusion.text_encoder import TextEncoder
from .checkpoints import Checkpoint, open_checkpoint
from .config import ModelConfig
from .config_checks import require_one_width
from .encoder import SubjectEncoder
from .subject import Subject
from .text import encode_subject

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class SubjectPipeline:
    """Encoder, text encoder, UNet and VAE of one checkpoint."""

    def __init__(
        self,
        config: ModelConfig,
        encoder: SubjectEncoder | None,
        text_encoder: TextEncoder,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
    ):
        """Put parts together; None for `encoder` suits who only draws."""
        self.config = config
        self._encoder = encoder
        self.text_encoder = text_encoder
        self.unet = unet
        self.vae = vae

    @classmethod
    def from_checkpoint(
        cls, source: str | Path | Checkpoint, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> SubjectPipeline:
        """Load every part; "toybox" is the embedded model.

        Args:
            dtype: precision of text encoder, UNet and VAE; the subject encoder stays in float32.

        Raises:
            CheckpointError: a part is missing, damaged or of another kind.
        """
        checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
        config = checkpoint.config
        require_one_width(config)
        text_encoder = TextEncoder.from_canonical(config.text_encoder, checkpoint.part("text_encoder"))
        return cls(
            config,
            SubjectEncoder.from_checkpoint(checkpoint).to(device),
            text_encoder.to(device, dtype),
            build_unet(config.unet, checkpoint.part("unet")).to(device, dtype),
            build_vae(config.vae, checkpoint.part("vae")).to(device, dtype),
        )

    @property
    def encoder(self) -> SubjectEncoder:
        """Makes subjects; see `SubjectEncoder.encode`.

        Raises:
            SubjectError: the pipeline was put together without one.
        """
        if self._encoder is None:
            raise SubjectError("This pipeline has no subject encoder; it only draws. Open the whole checkpoint.")
        return self._encoder

    @torch.inference_mode()
    def generate(
        self,
        subject: Subject | None,
        prompt: str,
        category: str = "",
        *,
        negative: str = "",
        template: str = "released",
        prompt_strength: float = 1.0,
        prompt_reps: int = 20,
        steps: int = 50,
        guidance: float = 7.5,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        scheduler: str = "pndm",
        latents: Tensor | None = None,
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """Pictures `[N, H, W, 3]` in 0..1, one per subject of the batch; defaults as released.

        Args:
            subject: None gives the plain prompt, for comparison; then `category` must be given.
            category: empty means the subject's own.
            size: (height, width) in pixels, multiples of the VAE's factor; None is the size of the training pictures.
            scheduler: "pndm" (the paper's) or "ddim".
            latents: start noise `[N, 4, H / 8, W / 8]`, instead of noise from `seed`.
            on_step: called with (evaluations done, evaluations in all); may raise to stop.

        Raises:
            SubjectError: a size, prompt or category that cannot be used, or a subject of another model.
        """
        word = category or (subject.category if subject else "")
        text = compose(prompt, word, template, prompt_strength, prompt_reps)
        if subject is None:
            context = self.text_encoder.encode_plain(text.plain)
        else:
            context = encode_subject(self.text_encoder, text, subject)
        empty = self.text_encoder.encode_plain(negative)
        if latents is None:
            latents = self.start_noise(len(context), size, seed)
        latents = self.denoise(latents, context, empty, steps, guidance, scheduler, on_step)
        return self.decode(latents)

    @torch.inference_mode()
    def denoise(
        self,
        latents: Tensor,
        context: Tensor,
        empty: Tensor,
        steps: int,
        guidance: float,
        scheduler: str = "pndm",
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """Run the UNet from noise `[N, 4, h, w]` to latents, with classifier-free guidance where `guidance` is above 1.

        Args:
            context: `[N, T, W]` of the prompt.
            empty: `[1 or N, T', W]` of the negative prompt.
        """
        timeline = make_scheduler(scheduler, steps)
        weight = self.unet.conv_in.weight
        latents, context, empty = (x.to(weight.device, weight.dtype) for x in (latents, context, empty))
        empty = _repeat_to(empty.expand(len(context), -1, -1), context.shape[1])
        for index, timestep in enumerate(timeline.timesteps):
            on_step(index, len(timeline.timesteps))
            if guidance > 1:
                both = self.unet(latents.repeat(2, 1, 1, 1), timestep, torch.cat([empty, context])).sample
                unguided, guided = both.chunk(2)
                noise = unguided + guidance * (guided - unguided)
            else:
                noise = self.unet(latents, timestep, context).sample
            latents = timeline.step(noise, timestep, latents).prev_sample
        on_step(len(timeline.timesteps), len(timeline.timesteps))
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[N, 4, h, w]` to pictures `[N, H, W, 3]` in 0..1, float32 on the CPU."""
        weight = self.vae.decoder.conv_in.weight
        pixels = self.vae.decode(latents.to(weight.device, weight.dtype) / self.config.vae.scaling_factor).sample
        return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu()

    def latent_size(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width of the latents of pictures.

        Args:
            size: (height, width) in pixels; None is the size of the training pictures.

        Raises:
            SubjectError: a size that the VAE cannot make.
        """
        height, width = size or (self.config.picture_size,) * 2
        factor = self.config.vae.downscale
        if height % factor or width % factor or min(height, width) < factor:
            raise SubjectError(f"{width}x{height} pixels are not possible; both sides must be multiples of {factor}.")
        return height // factor, width // factor

    def start_noise(self, count: int, size: tuple[int, int] | None, seed: int) -> Tensor:
        """What `count` pictures start from, `[count, 4, h, w]` float32 on the CPU, so that every device draws the same.

        Raises:
            SubjectError: a size that the VAE cannot make, or a seed that PyTorch does not take.
        """
        shape = (count, self.config.unet.in_channels, *self.latent_size(size))
        require_in_range("seed", seed, 0, MAX_SEED)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _repeat_to(context: Tensor, length: int) -> Tensor:
    """Repeat chunks of 77 until both contexts are equally long; attention to repeated chunks is unchanged."""
    return context.repeat(1, length // context.shape[1], 1)
