"""The second stage as the trainer sees it: samples to batches, the model, sample grids, and the model as a file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...pictures.pixels import to_uint8
from ...prompts.tokenizers import WordPieceTokenizer, normalise_category
from ...stable_diffusion.noise import TRAIN_TIMESTEPS, alphas_bar, error_weights
from ...stable_diffusion.text_encoder import TextEncoder
from ...training.grids import picture_grid
from ...training.samples import BrokenSample, Sample
from ...training.targets import collated_targets, latents_of, mask_cells, ready_latent, target_square
from ..checkpoints import write_single_file
from ..pipeline import SubjectPipeline
from ..subject_module import SubjectEncoderModule
from .initial import load_initial, load_text_encoder, load_unet, load_vae
from .parts import FrozenParts, subject_encoder_part, text_encoder_part, unet_part
from .pictures import crop_for_tower
from .prompt_rows import draw_row
from .settings import Stage2Settings
from .stage2_model import Stage2Batch, Stage2Model


@dataclass(frozen=True, kw_only=True)
class Stage2Example:
    """One sample, ready.

    Attributes:
        pixels: the subject on another background, `[3, S, S]`; target: `[3, P, P]`, or the latent `[4, h, w]`.
        words: word pieces of the category `[T]`; ids: the prompt `[77]`; place: of the first subject vector.
        time, noise, cells: timestep, `[4, h, w]`, and the mask's share in each latent cell `[1, h, w]`.
    """

    pixels: Tensor
    target: Tensor
    words: Tensor
    ids: Tensor
    place: Tensor
    has_subject: Tensor
    time: Tensor
    noise: Tensor
    cells: Tensor


class Stage2Task:
    """See the module, and `training.task` for what a task is; draws sample grids too."""

    result = "model.safetensors"
    slow = ("qformer.", "proj_layer.", "image_norm.")
    vectors_decay = True  # the author's code has one group for all

    def __init__(self, settings: Stage2Settings):
        self.settings = settings
        self.initial = load_initial(settings)
        text_encoder, unet = load_text_encoder(self.initial, settings), load_unet(self.initial, settings)
        text_encoder.requires_grad_(settings.train_text_encoder)
        self.model = Stage2Model(self.initial.encoder, text_encoder, unet.requires_grad_(True), settings)
        self.model.image_norm.requires_grad_(settings.train_image_norm)
        _freeze_unused(self.model, settings)
        config = self.initial.config
        self.vae = load_vae(self.initial)
        self.frozen = FrozenParts(self.initial.encoder.visual_encoder, self.vae, config.vae.scaling_factor)
        self._alphas = alphas_bar()
        side = config.picture_size // config.vae.downscale
        self._latent_shape = (config.vae.latent_channels, side, side)
        self._tokenizer = WordPieceTokenizer(self.initial.vocabulary, config.qformer.max_position_embeddings)

    def prepare(self, sample: Sample, rng: np.random.Generator) -> Stage2Example:
        """Draw what is left to chance for one sample.

        Raises:
            BrokenSample: it has no composite or category, or a latent of another size.
        """
        if sample.composite is None or not sample.category:
            missing = "composite" if sample.composite is None else "category"
            raise BrokenSample(f"{sample.key} has no {missing}, which the second stage needs.")
        config, settings = self.initial.config, self.settings
        caption = sample.captions[rng.integers(len(sample.captions))]
        row = draw_row(sample, caption, config.qformer.num_query_tokens, settings, rng)
        return Stage2Example(
            # In this order, which is that of the draws.
            pixels=crop_for_tower(
                sample.composite, config.image_tower.image_size, settings.crop_low, settings.flip, rng
            ),
            target=self._target(sample),
            words=torch.tensor(self._tokenizer.ids([normalise_category(sample.category)])[0]),
            ids=torch.from_numpy(row.ids),
            place=torch.tensor(row.place),
            has_subject=torch.tensor(row.has_subject),
            time=torch.tensor(int(rng.integers(TRAIN_TIMESTEPS))),
            noise=torch.from_numpy(rng.standard_normal(self._latent_shape, dtype=np.float32)),
            cells=mask_cells(sample.mask, self._latent_shape[-1]),
        )

    def _target(self, sample: Sample) -> Tensor:
        latent = ready_latent(sample, self._latent_shape)
        return target_square(sample.picture, self.initial.config.picture_size) if latent is None else latent

    @staticmethod
    def collate(examples: list[Stage2Example]) -> dict[str, Tensor]:
        """Examples as tensors by name; pictures and ready latents apart, each with its rows."""
        names = set(Stage2Example.__dataclass_fields__) - {"words", "target"}
        raw = {name: torch.stack([getattr(e, name) for e in examples]) for name in names}
        raw["words"] = pad_sequence([e.words for e in examples], batch_first=True)
        raw["word_mask"] = pad_sequence([torch.ones_like(e.words) for e in examples], batch_first=True)
        return raw | collated_targets([e.target for e in examples])

    def batch(self, raw: dict[str, Tensor]) -> Stage2Batch:
        """What the model takes."""
        alphas = self._alphas.to(raw["time"].device)[raw["time"]]
        offsets = torch.arange(self.initial.config.qformer.num_query_tokens, device=raw["place"].device)
        return Stage2Batch(
            features=self.frozen.features(raw["pixels"]),
            words=raw["words"],
            word_mask=raw["word_mask"],
            ids=raw["ids"],
            places=raw["place"][:, None] + offsets,
            has_subject=raw["has_subject"],
            latents=latents_of(raw, self.frozen.latents, raw["noise"]),
            noise=raw["noise"],
            times=raw["time"],
            alphas=alphas,
            weights=error_weights(alphas, raw["cells"], self.settings.min_snr, self.settings.mask_weight),
        )

    def parts(self, state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """All parts of the model under canonical names."""
        return {
            "subject_encoder": subject_encoder_part(self.initial, self.frozen, state),
            "text_encoder": text_encoder_part(state),
            "unet": unet_part(state),
            "vae": {name: tensor.cpu() for name, tensor in self.vae.state_dict().items()},
        }

    def write(self, state: dict[str, Tensor], path: Path) -> None:
        """The whole model as one file, in the precision it is stored in elsewhere (16 bit)."""
        initial = self.initial
        write_single_file(path, self.parts(state), initial.config, initial.vocabulary, torch.float16, overwrite=True)

    def sample(self, state: dict[str, Tensor], samples: list[Sample]) -> np.ndarray:
        """A grid, uint8 `[H, W, 3]`: above what the subject is taken from, then the original, below the model's own."""
        model = self._model_of(state)
        device = next(model.parameters()).device
        shown = copy.copy(self)
        shown.settings = replace(self.settings, subject_drop=0.0, empty_share=0.0, crop_low=1.0, flip=0.0)
        examples = [shown.prepare(sample, np.random.default_rng((1, i))) for i, sample in enumerate(samples)]
        batch = self.batch({name: tensor.to(device) for name, tensor in self.collate(examples).items()})
        pipeline = SubjectPipeline(self.initial.config, None, model.text_encoder, model.unet, self.vae)
        with torch.inference_mode():
            context, empty = model.context(batch), model.text_encoder.encode_plain("")
            settings = self.settings
            latents = pipeline.denoise(batch.noise, context, empty, settings.sample_steps, settings.sample_guidance)
            drawn = to_uint8(pipeline.decode(latents))
        composites = [s.composite for s in samples if s.composite is not None]  # `prepare` refuses others
        return picture_grid(composites, [s.picture for s in samples], list(drawn))

    def _model_of(self, state: dict[str, Tensor]) -> Stage2Model:
        """A model of its own with these weights, so that training is not touched."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        config = self.initial.config
        unet = UNet2DConditionModel(**config.unet.to_diffusers())
        model = Stage2Model(SubjectEncoderModule(config), TextEncoder(config.text_encoder), unet, self.settings)
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return model.to(next(self.vae.parameters()).device).eval().requires_grad_(False)


def _freeze_unused(model: Stage2Model, settings: Stage2Settings) -> None:
    """What no query row depends on has no gradient; several processes would wait for it.

    The last layer's text rows go nowhere, and without subject text no text row does.
    """
    layers = model.qformer.layers
    for layer in layers[-1:] if settings.subject_text else layers:
        layer.intermediate.requires_grad_(False)
        layer.output.requires_grad_(False)
    if not settings.subject_text:
        model.qformer.embeddings.word_embeddings.requires_grad_(False)
        model.qformer.embeddings.position_embeddings.requires_grad_(False)
