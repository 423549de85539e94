"""Drawing MS-Bench with an MS-Diffusion adapter: every prompt of every combination, found again where it was drawn
before (docs/method.md 13.9).

Image k of a run with seed s starts from the noise of seed s + k, for every combination and prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..attention.boxes import Box
from ..errors import SubjectError
from ..files import as_tensor, read_cutout
from ..ms_diffusion.pipeline import MSPipeline
from ..ms_diffusion.references import cut_out
from ..ms_diffusion.subjects import PlacedSubject
from ..settings import require_in_range
from .generation import GenerationSettings, keep_missing, missing, picture_files
from .ms_bench import Combination

# What the release's example draws with, and MS-Bench's five images; DDIM stands in for the example's Euler sampler.
MS_DEFAULTS = GenerationSettings(
    seeds=(0,),
    images=5,
    steps=30,
    guidance=7.5,
    scheduler="ddim",
    negative="monochrome, lowres, bad anatomy, worst quality, low quality",
)


@dataclass(frozen=True)
class MSGenerationSettings:
    """How pictures are drawn.

    Attributes:
        shared: seeds, images, steps, guidance, scheduler, negative prompt and size of the picture, as for one subject.
        scale: of all subjects.

    Raises:
        SubjectError: a value that cannot work, or no size.
    """

    shared: GenerationSettings
    scale: float = 0.6

    def __post_init__(self):
        require_in_range("scale", self.scale, 0, 5)
        if self.shared.size is None:
            raise SubjectError("Give the size of the pictures with --size HEIGHT WIDTH; the release draws 1024 1024.")
        if self.shared.finetune:
            raise SubjectError("--finetune is for one subject; MS-Diffusion is not tuned.")


class MSGenerator:
    """Draws what is missing of each run.

    Args:
        pictures: folder of the runs.
    """

    def __init__(self, pipeline: MSPipeline, settings: MSGenerationSettings, pictures: Path):
        self._pipeline, self._settings, self._pictures = pipeline, settings, pictures

    def draw(self, combination: Combination, on_picture: Callable[[int, int], None] = lambda done, total: None) -> None:
        """All pictures of one combination, in every run; `on_picture` is called after each prompt and may raise."""
        wanted = missing(self._settings.shared, self._pictures, combination)
        if not wanted:
            return
        subjects = [self._subject(combination, number) for number in range(len(combination.parts))]
        for done, (seed, number) in enumerate(wanted):
            self._draw_prompt(subjects, combination, seed, number)
            on_picture(done + 1, len(wanted))

    def _subject(self, combination: Combination, number: int) -> PlacedSubject:
        """The first photo by name is the reference; what is transparent in it becomes black."""
        part, size = combination.parts[number], self._settings.shared.size
        assert size is not None  # the settings ask for one
        photo = as_tensor(read_cutout(part.photos[0]))[None]
        box = Box(*combination.boxes[number])
        return PlacedSubject(cut_out(photo, None), part.category, box, 1.0, (size[1], size[0]))

    def _draw_prompt(self, subjects: list[PlacedSubject], combination: Combination, seed: int, number: int) -> None:
        """The images of one prompt as one batch, even if some are there, so that each is the same as before."""
        settings, shared = self._settings, self._settings.shared
        assert shared.size is not None
        drawn = self._pipeline.generate(
            subjects,
            combination.prompts[number].words,
            torch.cat([self._pipeline.start_noise(shared.size, seed + k) for k in range(shared.images)]),
            negative=shared.negative,
            scale=settings.scale,
            steps=shared.steps,
            guidance=shared.guidance,
            scheduler=shared.scheduler,
        )
        if not torch.isfinite(drawn).all():
            raise SubjectError(f"The picture of {combination.name}, prompt {number}, holds NaN.")
        keep_missing(drawn, picture_files(shared, self._pictures, combination, seed, number))
