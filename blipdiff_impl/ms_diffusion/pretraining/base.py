"""What stays as it is while an adapter is trained: UNet, autoencoder, text encoders and picture encoder, from local
folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, SubjectError
from ...prompts.rows import ROW
from ...prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from ...untrusted import DAMAGE
from ...weights.transformers_folder import load_network, require_all
from ..config import AdapterConfig, ResamplerConfig, UNetAttentionConfig
from .settings import COLUMNS, NOISE, MSSettings

_PADDING = (CLIP_END, 0)  # of the first and of the second text encoder


class Base(Protocol):
    """What the stage asks of the frozen networks, whatever model they are of.

    Attributes:
        unet: of diffusers.
        image_side: of the square that the picture encoder sees, in pixels.
        channels, factor: of latents; and how many pixels a latent cell is wide.
        text_norm: the norm behind the text that the UNet sees, which that of an adapter's tokens begins as; None where
            that text has none.
    """

    unet: Any
    image_side: int
    channels: int
    factor: int
    text_norm: nn.LayerNorm | None

    def to(self, device: torch.device) -> Base:
        """Move all of it."""
        ...

    def adapter_config(self, settings: MSSettings) -> AdapterConfig:
        """Sizes of an adapter that fits, with the resampler that the settings ask for."""
        ...

    def prompts(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows for cross-attention `[B, 77, W]`, and the pooled text `[B, P]` where the UNet takes one, of ids
        `[B, 2, 77]`."""
        ...

    def phrases(self, ids: Tensor) -> Tensor:
        """The first text encoder's state at the end of text, unprojected, `[n, W]`, of ids `[n, 77]`."""
        ...

    def features(self, pixels: Tensor) -> Tensor:
        """The last hidden states but one, `[n, tokens, W]`, of normalised pictures `[n, 3, S, S]`."""
        ...

    def columns(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """What the text encoder makes of subject vectors `[n, queries, W]` before a phrase of ids `[n, 77]`, likewise
        `[n, queries, W]`.

        Raises:
            SubjectError: the model takes none.
        """
        ...

    def latents(self, pictures: Tensor) -> Tensor:
        """The scaled latent means of pictures `[B, 3, S, S]` in -1..1."""
        ...

    def pictures(self, latents: Tensor) -> Tensor:
        """The pictures of scaled latents, `[B, S, S, 3]` in 0..1 and beyond."""
        ...


class XLBase:
    """The frozen networks of a model of Stable Diffusion XL's kind; see `Base`.

    Raises:
        CheckpointError: a part is missing or damaged, or its sizes are not of that kind.
    """

    def __init__(self, model: Path, vision: Path):
        self._path = model
        self.unet = _of_diffusers(model / "unet", "UNet2DConditionModel")
        self.vae = _of_diffusers(model / "vae", "AutoencoderKL")
        self._texts = [
            _of_transformers(model / "text_encoder", "CLIPTextModel"),
            _of_transformers(model / "text_encoder_2", "CLIPTextModelWithProjection"),
        ]
        self._vision = _of_transformers(vision, "CLIPVisionModelWithProjection")
        self.image_side = int(self._vision.config.image_size)
        self.channels, self.factor = self.vae.config.latent_channels, 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.text_norm = None

    def to(self, device: torch.device) -> XLBase:
        """See `Base`, as for all below."""
        for network in (self.unet, self.vae, *self._texts, self._vision):
            network.to(device)
        return self

    def adapter_config(self, settings: MSSettings) -> AdapterConfig:
        return config_for(self.unet, settings, self._vision.config.hidden_size, self._texts[0].config.hidden_size)

    @torch.no_grad()
    def prompts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        outs = [encoder(ids[:, number], output_hidden_states=True) for number, encoder in enumerate(self._texts)]
        return torch.cat([out.hidden_states[-2] for out in outs], dim=-1), outs[1].text_embeds

    @torch.no_grad()
    def phrases(self, ids: Tensor) -> Tensor:
        return self._texts[0](ids).pooler_output

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        return self._vision(pixels, output_hidden_states=True).hidden_states[-2]

    def columns(self, vectors: Tensor, ids: Tensor) -> Tensor:
        raise SubjectError(
            f"loss = '{COLUMNS}' needs a model that takes subject vectors, and {self._path} takes none. Leave it at "
            f"'{NOISE}'."
        )

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        return self.vae.encode(pictures).latent_dist.mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        drawn = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (drawn.permute(0, 2, 3, 1) + 1) / 2


def config_for(unet: Any, settings: MSSettings, image_width: int, phrase_width: int) -> AdapterConfig:
    """Sizes of an adapter for a UNet of diffusers, with the resampler that the settings ask for."""
    sizes = unet.config
    depths = sizes.transformer_layers_per_block
    depths = [depths] * len(sizes.block_out_channels) if isinstance(depths, int) else list(depths)
    crossed = ["CrossAttn" in kind for kind in sizes.down_block_types]
    own = ("width", "depth", "heads", "head_width", "queries", "feed_forward")
    return AdapterConfig(
        resampler=ResamplerConfig(
            image_width=image_width,
            phrase_width=phrase_width,
            context_width=sizes.cross_attention_dim,
            **{name: getattr(settings, name) for name in own},
        ),
        unet=UNetAttentionConfig(
            widths=tuple(sizes.block_out_channels),
            depths=tuple(depth if has else 0 for depth, has in zip(depths, crossed, strict=True)),
            middle_depth=depths[-1],
            transformers=sizes.layers_per_block,
        ),
        dummy_tokens=0,
    )


def prompt_ids(text: str) -> Tensor:
    """A prompt for both text encoders, `[2, 77]`; what is too long is cut off at the end."""
    ids = [CLIP_START, *clip_ids(text)[: ROW - 2], CLIP_END]
    return torch.tensor([ids + [padding] * (ROW - len(ids)) for padding in _PADDING])


def _of_transformers(folder: Path, kind: str) -> Any:
    complaint = f"{folder} holds no {kind} that transformers can read, or a damaged one. Get the folder whole."
    network, report = load_network(folder, kind, complaint)
    require_all(folder, report, ("position_ids",))
    return network


def _of_diffusers(folder: Path, kind: str) -> Any:
    import diffusers
    from safetensors import SafetensorError

    try:
        network, report = getattr(diffusers, kind).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (SafetensorError, *DAMAGE):
        raise CheckpointError(
            f"{folder} holds no {kind} that diffusers can read, or a damaged one. Get the folder whole."
        ) from None
    require_all(folder, report)
    return network.requires_grad_(False).eval()
