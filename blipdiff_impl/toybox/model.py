"""Sizes of the embedded model, new untrained parts, and the single file they end in."""

from __future__ import annotations

import torch
from torch import nn

from ..blip_diffusion.config import ImageTowerConfig, ModelConfig, QFormerConfig
from ..blip_diffusion.subject_module import SubjectEncoderModule
from ..stable_diffusion.config import TextEncoderConfig, UNetConfig
from ..toy_world.render import PICTURE_SIZE, REFERENCE_SIZE
from ..toy_world.world import vocabulary
from .train_vae import VAE_CONFIG

WIDTH = 128
CONFIG = ModelConfig(
    image_tower=ImageTowerConfig(image_size=REFERENCE_SIZE, patch_size=8, hidden_size=WIDTH, num_hidden_layers=4,
                                 num_attention_heads=4, intermediate_size=4 * WIDTH),
    qformer=QFormerConfig(vocab_size=len(vocabulary()), hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4,
                          intermediate_size=4 * WIDTH, max_position_embeddings=32),
    text_encoder=TextEncoderConfig(hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4,
                                   intermediate_size=4 * WIDTH),
    unet=UNetConfig(block_out_channels=(128, 128, 128), layers_per_block=1, attention_levels=(False, True, True),
                    cross_attention_dim=WIDTH),
    vae=VAE_CONFIG,
    picture_size=PICTURE_SIZE,
)  # fmt: skip


def build_subject_encoder(seed: int) -> SubjectEncoderModule:
    """A new subject encoder: normal weights of spread 0.02 as in BERT and CLIP, queries and positions too."""
    torch.manual_seed(seed)
    module = SubjectEncoderModule(CONFIG).eval()  # evaluation mode: no dropout at this size
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=WIDTH**-0.5 / 2)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
    tower = module.visual_encoder.embeddings
    for weight in (tower.class_embedding, tower.position_embedding):
        nn.init.normal_(weight, std=0.02)
    nn.init.normal_(module.qformer.query_tokens, std=0.5)
    return module
