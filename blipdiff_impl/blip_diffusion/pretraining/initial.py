"""What training starts from: a checkpoint's parts, some of them fresh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, SubjectError
from ...stable_diffusion.building import build_unet, build_vae
from ...stable_diffusion.text_encoder import TextEncoder
from ...weights.opening import open_tensor_file
from ..checkpoints import Checkpoint, open_checkpoint
from ..checkpoints.vocabulary import ADDED_PIECE
from ..config import ModelConfig
from ..qformer import QFormer
from ..subject_module import SubjectEncoderModule
from .settings import TOY, Stage2Settings, StageSettings

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


@dataclass(frozen=True)
class Initial:
    """The subject encoder to train, its word pieces, the sizes of everything, and where the other parts are.

    Attributes:
        encoder: float32, with gradients.
        vocabulary: word pieces in id order.
    """

    config: ModelConfig
    encoder: SubjectEncoderModule
    vocabulary: list[str]
    checkpoint: Checkpoint

    @property
    def caption_start(self) -> int:
        """Id of `[DEC]`."""
        if ADDED_PIECE not in self.vocabulary:
            raise SubjectError(
                f"The model's {len(self.vocabulary)} word pieces have no {ADDED_PIECE}, which captions start with. "
                "Train a fresh Q-Former, or add it to the model's vocab.txt."
            )
        return self.vocabulary.index(ADDED_PIECE)


def load_initial(settings: StageSettings) -> Initial:
    """Open `settings.model` and build the subject encoder.

    Raises:
        CheckpointError: a file that is missing, damaged, or of other sizes.
    """
    torch.manual_seed(settings.seed)
    checkpoint = open_checkpoint(settings.model)
    config, vocabulary, source = checkpoint.config, checkpoint.vocabulary, checkpoint
    if isinstance(settings, Stage2Settings) and settings.stage1:
        source = open_checkpoint(settings.stage1)
        config, vocabulary = replace(config, qformer=source.config.qformer), source.vocabulary
        if source.config.image_tower != config.image_tower:
            raise CheckpointError(f"{settings.stage1} has an image tower of other sizes than {settings.model}.")
    elif settings.shards == (TOY,) and "qformer" in settings.fresh:
        from .toy import toy_vocabulary

        vocabulary = toy_vocabulary()
        config = replace(config, qformer=replace(config.qformer, vocab_size=len(vocabulary)))
    encoder = _encoder(config, source, settings)
    return Initial(config, encoder.requires_grad_(True), vocabulary, checkpoint)


def load_text_encoder(initial: Initial, settings: Stage2Settings) -> TextEncoder:
    """The text encoder to train; fresh where the settings say so."""
    if "text_encoder" not in settings.fresh:
        tensors = {name: tensor.float() for name, tensor in initial.checkpoint.part("text_encoder").items()}
        return TextEncoder.from_canonical(initial.config.text_encoder, tensors)
    encoder = TextEncoder(initial.config.text_encoder)
    if settings.shards == (TOY,):
        from .toy import prepare_text_encoder

        prepare_text_encoder(encoder, settings.seed)
    return encoder


def load_unet(initial: Initial, settings: Stage2Settings) -> UNet2DConditionModel:
    """The UNet to train; fresh where the settings say so."""
    if "unet" in settings.fresh:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel(**initial.config.unet.to_diffusers())
    return build_unet(initial.config.unet, _floats(initial.checkpoint.part("unet")))


def load_vae(initial: Initial) -> AutoencoderKL:
    """The frozen autoencoder."""
    return build_vae(initial.config.vae, _floats(initial.checkpoint.part("vae")))


def _encoder(config: ModelConfig, source: Checkpoint, settings: StageSettings) -> SubjectEncoderModule:
    tensors = _floats(source.part("subject_encoder"))
    if "qformer" not in settings.fresh or (isinstance(settings, Stage2Settings) and settings.stage1):
        return SubjectEncoderModule.from_canonical(config, tensors)
    module = SubjectEncoderModule(config)
    tower = {name: tensor for name, tensor in tensors.items() if name.startswith("visual_encoder.")}
    made = module.canonical_state_dict()
    module = SubjectEncoderModule.from_canonical(config, made | tower)
    initialise(module)
    if settings.bert:
        start_from_bert(module.qformer, Path(settings.bert))
    return module


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


@torch.no_grad()
def initialise(module: SubjectEncoderModule) -> None:
    """Fresh Q-Former and projection: normal weights, about 0.02 at BERT's width, query feed-forward as the text's."""
    spread = module.config.qformer.hidden_size**-0.5 / 2
    for part in (*module.qformer.modules(), *module.proj_layer.modules()):
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=spread)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
    nn.init.normal_(module.qformer.query_tokens, std=0.02)
    copy_text_feed_forward(module.qformer)


@torch.no_grad()
def copy_text_feed_forward(qformer: QFormer) -> None:
    """The query rows' feed-forward layers start as copies of the text's (docs/method.md 9.1)."""
    for layer in qformer.layers:
        layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
        layer.output_query.load_state_dict(layer.output.state_dict())


@torch.no_grad()
def start_from_bert(qformer: QFormer, path: Path) -> None:
    """Take word and position embeddings, self-attention and feed-forward of a BERT; cross-attention stays random.

    Args:
        path: `model.safetensors` of a BERT of the same sizes. Its table may lack the rows of added pieces.

    Raises:
        CheckpointError: no such file, or other sizes.
    """
    try:
        file = open_tensor_file(Path(path))
        stored = file.load(list(file.infos))
    except CheckpointError as error:
        raise CheckpointError(f"The BERT {path} cannot be read: {error}") from None
    bert = {name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
            for name, tensor in stored.items()}  # fmt: skip
    for name, weight in qformer.named_parameters():
        if "crossattention" in name or "_query" in name or name == "query_tokens":
            continue
        source = bert.get(name.replace("attention.attention.", "attention.self."))
        if source is None or source.shape[1:] != weight.shape[1:] or len(source) > len(weight):
            found = "nothing" if source is None else list(source.shape)
            raise CheckpointError(f"The BERT {path} has {found} for {name} {list(weight.shape)}: it has other sizes.")
        weight[: len(source)] = source
    copy_text_feed_forward(qformer)
