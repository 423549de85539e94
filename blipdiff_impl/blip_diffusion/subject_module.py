"""Image tower, Q-Former and projection as one module, loaded from and written to the released tensor names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .config import ModelConfig
from .image_tower import ImageTower, fuse_attention, split_attention
from .projection import SubjectProjection
from .qformer import QFormer

_TOWER = "visual_encoder."
_PROJECTION = "proj_layer."


class SubjectEncoderModule(nn.Module):
    """Pixels and category to subject vectors (paper section 3.2; eq. 1 calls them the subject prompt)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        queries = config.qformer
        self.config = config
        self.visual_encoder = ImageTower(config.image_tower)
        self.qformer = QFormer(queries, config.image_tower.hidden_size)
        self.proj_layer = SubjectProjection(queries.hidden_size, 4 * queries.hidden_size, queries.layer_norm_eps)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Subject vectors `[B, 16, W]`.

        Args:
            pixels: `[B, 3, S, S]`, normalised with CLIP's mean and standard deviation.
            ids: word pieces of the category, `[B, T]`.
            mask: `[B, T]`, 1 on real pieces; None where all are.
        """
        # The released tower runs in 16 bit and everything behind it in 32 (docs/method.md 1.3), so dtypes may differ.
        features = self.visual_encoder(pixels.to(self.visual_encoder.pre_layernorm.weight.dtype))
        return self.proj_layer(self.qformer(features, ids, mask))

    @classmethod
    def from_canonical(cls, config: ModelConfig, tensors: dict[str, Tensor]) -> SubjectEncoderModule:
        """The module around these tensors (not copied), in evaluation mode; floats keep the precision they came in.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        with torch.device("meta"):
            module = cls(config)
        try:
            module.load_state_dict(_to_own(tensors), strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"The subject encoder's weights do not fit its configuration: {error}") from error
        return module.requires_grad_(False).eval()

    def canonical_state_dict(self) -> dict[str, Tensor]:
        """All weights under the released names, as checkpoints hold them."""
        return _to_canonical(self.state_dict())


def _to_own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Released names -> names of the module: the Q-Former's own tensors carry no prefix in a checkpoint."""
    kept = (_TOWER, _PROJECTION)
    own = {name if name.startswith(kept) else f"qformer.{name}": tensor for name, tensor in tensors.items()}
    return split_attention(own)


def _to_canonical(own: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("qformer."): tensor for name, tensor in fuse_attention(own).items()}
