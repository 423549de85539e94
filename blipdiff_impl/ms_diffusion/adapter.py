"""The adapter as one module: pictures, phrases and boxes to the subjects' keys and values in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.boxes import Box, box_tensor
from ..errors import CheckpointError, SubjectError, first_few
from .adapter_attention import KeysAndValues, Subjects, checked_strengths, scaled
from .config import AdapterConfig
from .layers import adapter_layers
from .resampler import GroundingResampler

DUMMIES = "dummy_image_tokens"


class MSAdapter(nn.Module):
    """Grounding resampler and projections of every cross-attention layer; parameters are named as released."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        self.layers = adapter_layers(config.unet)
        context = config.resampler.context_width
        self.image_proj = GroundingResampler(config.resampler)
        self.ms_adapter = nn.ModuleDict(
            {str(layer.number): KeysAndValues(context, layer.width) for layer in self.layers}
        )

    @classmethod
    def from_tensors(cls, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> MSAdapter:
        """The adapter around these tensors (not copied), frozen; the dummy tokens are left aside.

        Raises:
            CheckpointError: names or shapes do not fit.
        """
        with torch.device("meta"):
            adapter = cls(config)
        own, given = adapter.state_dict(), {name: value for name, value in tensors.items() if name != DUMMIES}
        shapes = ({name: value.shape for name, value in table.items()}.items() for table in (own, given))
        if wrong := sorted({name for name, _ in set.symmetric_difference(*map(set, shapes))}):
            raise CheckpointError(f"The adapter's weights do not fit its sizes: {first_few(wrong)}. Load another file.")
        adapter.load_state_dict(given, strict=True, assign=True)
        return adapter.requires_grad_(False).eval()

    def tokens(
        self, features: Tensor, phrases: Tensor, boxes: Sequence[Box], ungrounded: bool | Sequence[bool] = False
    ) -> Tensor:
        """The subjects' tokens `[subjects, 16, context width]`, in the type of the resampler's weights.

        Args:
            features: the last hidden states but one of the picture encoder, with the class token and without a norm
                behind them, `[subjects, tokens, image width]`.
            phrases: each phrase's vector, `[subjects, phrase width]`.
            boxes: of each subject, in shares of the picture to be.
            ungrounded: true leaves out phrase and box; for all subjects or for each.

        Raises:
            SubjectError: no subject, different counts, another width, or numbers that are not finite.
        """
        self._check(features, phrases, boxes)
        weight = self.image_proj.proj_in.weight
        flags = torch.as_tensor(ungrounded, dtype=torch.bool, device=weight.device).expand(len(boxes))
        found = self.image_proj(features.to(weight), phrases.to(weight), box_tensor(boxes).to(weight.device), flags)
        return _finite(found, "tokens")

    @torch.no_grad()
    def subjects(
        self, tokens: Tensor, boxes: Sequence[Box], strengths: Sequence[float], dtype: torch.dtype | None = None
    ) -> Subjects:
        """Keys and values of all layers, computed in float32 one layer at a time.

        Args:
            tokens: `[subjects, 16, context width]` of `tokens`.
            boxes: of the subjects.
            strengths: of the subjects, 0 to 10.
            dtype: of what is kept; that of the tokens by default.

        Raises:
            SubjectError: different counts, a strength out of range, or numbers that are not finite.
        """
        _require_same(len(tokens), {"boxes": len(boxes), "strengths": len(strengths)})
        scales, dtype = checked_strengths(strengths), dtype or tokens.dtype
        line = tokens.detach().float().flatten(0, 1)[None]
        layers = {}
        for layer in self.layers:
            projections = cast(KeysAndValues, self.ms_adapter[str(layer.number)])
            k, v = _wide(projections.to_k_ip, line), scaled(_wide(projections.to_v_ip, line), scales)
            layers[layer.key] = _finite(k.to(dtype), "keys"), _finite(v.to(dtype), "values")
        return Subjects(layers, tuple(boxes), scales, tokens.shape[1])

    def _check(self, features: Tensor, phrases: Tensor, boxes: Sequence[Box]) -> None:
        sizes = self.config.resampler
        if features.ndim != 3 or phrases.ndim != 2:
            raise SubjectError(
                f"Image tokens should be [subjects, tokens, width] and phrases [subjects, width], but they are "
                f"{list(features.shape)} and {list(phrases.shape)}."
            )
        _require_same(len(features), {"phrases": len(phrases), "boxes": len(boxes)})
        if features.shape[-1] != sizes.image_width:
            raise SubjectError(
                f"The CLIP vision model gives features that are {features.shape[-1]} wide, the adapter takes "
                f"{sizes.image_width}. {_vision_model(sizes.image_width)}"
            )
        if phrases.shape[-1] != sizes.phrase_width:
            raise SubjectError(
                f"The phrases' vectors are {phrases.shape[-1]} wide, the adapter takes {sizes.phrase_width}. Connect "
                "the CLIP that belongs to the adapter's model (for the released one, that of Stable Diffusion XL)."
            )
        for name, values in (("picture", features), ("phrase", phrases)):
            if bad := [str(i) for i, each in enumerate(values, 1) if not bool(torch.isfinite(each).all())]:
                raise SubjectError(
                    f"The {name} of subject {', '.join(bad)} became NaN or infinite numbers in its encoder. Check the "
                    f"{name}, and load the encoder in a wider type."
                )


def _wide(projection: nn.Linear, tokens: Tensor) -> Tensor:
    """The projection in float32, whatever its weights are kept in."""
    return F.linear(tokens.to(projection.weight.device), projection.weight.float())


def _require_same(subjects: int, others: dict[str, int]) -> None:
    if not subjects:
        raise SubjectError("There is no subject. Connect one picture with a phrase and a box, or more.")
    if wrong := [f"{count} {name}" for name, count in others.items() if count != subjects]:
        raise SubjectError(f"There are {subjects} subjects but {' and '.join(wrong)}; each subject has one of each.")


def _vision_model(width: int) -> str:
    if width == 1664:
        return "Load CLIP-ViT-bigG-14-laion2B-39B-b160k, the encoder that it was trained with."
    return "Load the CLIP vision model that the adapter was trained with."


def _finite(values: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise SubjectError(
            f"The subjects' {name} hold NaN or infinite numbers in {str(values.dtype).removeprefix('torch.')}: the "
            "adapter's file is damaged, or its numbers are too large for that type. Download it again, or use float32."
        )
    return values
