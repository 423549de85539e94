"""Pictures with several subjects outside the host, for scripts and evaluation: an adapter on frozen networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..attention.boxes import box_tensor
from ..errors import SubjectError, first_few
from ..pictures.preprocess import fit_square, normalise
from ..stable_diffusion.building import make_scheduler
from .adapter import MSAdapter
from .pretraining.base import Base, prompt_ids
from .subjects import PlacedSubject
from .unet_layers import SeenSubjects, UNetWithSubjects


@torch.no_grad()
def denoise(
    unet: UNetWithSubjects,
    latents: Tensor,
    prompt: tuple[Tensor, Tensor | None],
    negative: tuple[Tensor, Tensor | None],
    seen: SeenSubjects,
    pixels: tuple[int, int],
    steps: int,
    guidance: float,
    scheduler: str = "ddim",
) -> Tensor:
    """From noise `[N, 4, h, w]` to latents, with classifier-free guidance.

    Args:
        prompt: rows `[N, 77, W]` and pooled text `[N, P]` (None where the UNet takes none); negative: the same of one.
        seen: the subjects; their rows are the second half of the UNet's batch.
        pixels: (height, width) of the pictures to be.
    """
    count, timeline = len(latents), make_scheduler(scheduler, steps)
    context = torch.cat([negative[0].expand(count, -1, -1), prompt[0]])
    added = _added(prompt[1], negative[1], count, pixels)
    for time in timeline.timesteps:
        both = unet(torch.cat([latents] * 2), time.to(latents.device), context, added, seen)
        without, wanted = both.chunk(2)
        latents = timeline.step(without + guidance * (wanted - without), time, latents).prev_sample
    return latents


def _added(wanted: Tensor | None, without: Tensor | None, count: int, pixels: tuple[int, int]) -> Mapping[str, Tensor]:
    if wanted is None or without is None:
        return {}
    height, width = map(float, pixels)
    sizes = wanted.new_tensor([height, width, 0, 0, height, width]).expand(2 * count, -1)
    return {"text_embeds": torch.cat([without.expand(count, -1), wanted]), "time_ids": sizes}


class MSPipeline:
    """Draws with an adapter.

    Raises:
        CheckpointError: the UNet has other layers than the adapter.
        SubjectError: the picture encoder or the text encoder have other widths than the adapter.
    """

    def __init__(self, base: Base, adapter: MSAdapter):
        self.base, self.adapter = base, adapter.float()
        self._unet = UNetWithSubjects(base.unet, adapter.layers)

    def start_noise(self, size: tuple[int, int], seed: int) -> Tensor:
        """What a picture of (height, width) starts from, `[1, 4, h, w]`, drawn on the CPU.

        Raises:
            SubjectError: a size that the autoencoder cannot make.
        """
        factor = self.base.factor
        if wrong := [str(side) for side in size if side % factor or side < factor]:
            raise SubjectError(f"{first_few(wrong)} pixels are not possible; sides must be multiples of {factor}.")
        shape = (1, self.base.channels, *(side // factor for side in size))
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def generate(
        self,
        subjects: Sequence[PlacedSubject],
        prompt: str,
        noise: Tensor,
        *,
        negative: str = "",
        scale: float = 0.6,
        steps: int = 30,
        guidance: float = 7.5,
        scheduler: str = "ddim",
    ) -> Tensor:
        """Pictures `[N, H, W, 3]` in 0..1, one for each noise `[N, 4, h, w]`.

        Args:
            subjects: references, phrases and boxes.
            scale: of all subjects, times the strength of each.

        Raises:
            SubjectError: no subject, or one that cannot be used.
        """
        base, device = self.base, self.base.unet.device
        boxes = [subject.box for subject in subjects]
        squares = [fit_square(subject.image, base.image_side, "squash") for subject in subjects]
        ids = [prompt_ids(subject.phrase)[0] for subject in subjects]
        if not subjects:
            raise SubjectError("There is no subject to draw. Give one reference with a phrase and a box, or more.")
        features = base.features(normalise(torch.cat(squares)).to(device))
        tokens = self.adapter.tokens(features.cpu(), base.phrases(torch.stack(ids).to(device)).cpu(), boxes)
        strengths = [scale * subject.strength for subject in subjects]
        found = self.adapter.subjects(tokens, boxes, strengths).to(device, torch.float32)
        count = len(noise)
        layers = {key: (k.expand(count, -1, -1), v.expand(count, -1, -1)) for key, (k, v) in found.layers.items()}
        seen = SeenSubjects(
            layers, box_tensor(boxes).to(device).expand(count, -1, -1), found.tokens, slice(count, None)
        )
        rows, pooled = base.prompts(prompt_ids(prompt)[None].to(device))
        wanted = rows.expand(count, -1, -1), None if pooled is None else pooled.expand(count, -1)
        empty = base.prompts(prompt_ids(negative)[None].to(device))
        pixels = (noise.shape[2] * base.factor, noise.shape[3] * base.factor)
        latents = denoise(self._unet, noise.to(device), wanted, empty, seen, pixels, steps, guidance, scheduler)
        return base.pictures(latents).clamp(0, 1).float().cpu()
