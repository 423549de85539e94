"""Settings of the stage. Defaults are the release's (docs/method.md 13.8)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from ...errors import SubjectError, shown
from ...settings import require_in_range, require_one_of
from ...training.settings import MOST_STEPS, StageSettings

TOYBOX = "toybox"
NOISE, COLUMNS = "noise", "columns"
# Of other stages; nothing here reads them.
_ELSEWHERE = ("fresh", "bert", "toy_count", "train_image_norm", "crop_low", "flip", "dropout")


@dataclass(frozen=True, kw_only=True)
class MSSettings(StageSettings):
    """An adapter for a model of Stable Diffusion XL's kind, or for the embedded model.

    Attributes:
        model: folder of the model in diffusers' layout (`unet`, `vae`, `text_encoder`, `text_encoder_2`), or "toybox".
        vision: folder of the picture encoder, as transformers reads it; the embedded model has its own.
        loss: "noise" (the release's), or "columns": the resampler alone learns what the text encoder makes of subject
            vectors, where the data has them. A start for small models; needs `sample_every` 0.
        adapter: file to resume from; empty starts anew, with the UNet's own keys and values.
        width, depth, heads, head_width, queries, feed_forward: of a new resampler; see `ResamplerConfig`.
        subjects: of a picture at most; with more, some are drawn each time.
        size: side of the training pictures in pixels.
        text_drop, image_drop, both_drop: share of samples without prompt, without references, and without both.
        grounding_drop: share of samples whose learned queries stand in for phrases and boxes.
        box_jitter: by how much edges of boxes are moved at most, as a share of the picture, in half of the samples.
        noisy_share: of samples, those whose timestep is drawn from the noisier half, in which it is decided what goes
            where; the others are drawn from all.
        min_snr: gamma of min-SNR weighting; 0 leaves all timesteps alike.
        mask_weight: how much more errors count where the data's mask is white.
        sample_every, sample_count, sample_steps, sample_guidance: steps between grids of drawn pictures (0 is never),
            how many, and how they are made.
    """

    stage: ClassVar[int | str] = "ms-diffusion"
    model: str = ""
    vision: str = ""
    loss: str = NOISE
    adapter: str = ""
    width: int = 1280
    depth: int = 4
    heads: int = 20
    head_width: int = 64
    queries: int = 16
    feed_forward: int = 4
    subjects: int = 4
    size: int = 512
    batch_size: int = 128
    steps: int = 120_000
    learning_rate: float = 1e-4
    last_rate: float = 1e-4
    clip: float = 1.0
    text_drop: float = 0.05
    image_drop: float = 0.05
    both_drop: float = 0.05
    grounding_drop: float = 0.1
    box_jitter: float = 0.0
    noisy_share: float = 0.0
    min_snr: float = 0.0
    mask_weight: float = 0.0
    sample_every: int = 10_000
    sample_count: int = 4
    sample_steps: int = 30
    sample_guidance: float = 7.5

    def __post_init__(self):
        super().__post_init__()
        require_one_of("loss", self.loss, (NOISE, COLUMNS))
        for name in ("model", "vision"):
            if not getattr(self, name) and self.model != TOYBOX:
                raise SubjectError(f"{name} is not given: name the folder of {_FOLDERS[name]}.")
        defaults = {field.name: field.default for field in dataclasses.fields(StageSettings)}
        if given := [name for name in _ELSEWHERE if getattr(self, name) != defaults[name]]:
            raise SubjectError(
                f"{given[0]} = {shown(getattr(self, given[0]))} is a setting of other stages and does nothing here; "
                "leave it out."
            )
        for name in ("text_drop", "image_drop", "both_drop", "grounding_drop", "noisy_share"):
            require_in_range(name, getattr(self, name), 0, 1)
        require_in_range("text_drop + image_drop + both_drop", self.text_drop + self.image_drop + self.both_drop, 0, 1)
        require_in_range("box_jitter", self.box_jitter, 0, 0.5)
        for name in ("min_snr", "mask_weight"):
            require_in_range(name, getattr(self, name), 0, 1000)
        for name, high in (("subjects", 64), ("size", 4096), ("sample_count", 1000), ("sample_steps", 1000)):
            require_in_range(name, getattr(self, name), 1, high)
        require_in_range("sample_every", self.sample_every, 0, MOST_STEPS)
        if self.loss == COLUMNS and self.sample_every:
            raise SubjectError(
                f"loss = '{COLUMNS}' draws no pictures, but sample_every = {self.sample_every} asks for them. Set "
                "sample_every: 0."
            )
        require_in_range("sample_guidance", self.sample_guidance, 1, 100)


_FOLDERS = {
    "model": "a Stable Diffusion XL model in diffusers' layout",
    "vision": "its picture encoder, CLIP ViT-bigG/14",
}
