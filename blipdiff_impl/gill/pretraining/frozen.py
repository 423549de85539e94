"""What stays as it is while GILL is trained: language model, picture encoder, text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...prompts.rows import ROW, ROW_POSITIONS
from ...prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from ...training.precision import without_autocast
from ...weights.transformers_folder import load_network, require_all
from ..language_model import LanguageModel
from ..text_encoder import text_encoder_fingerprint
from ..vision import ClipVision
from .settings import GILLSettings

KEPT_BYTES = 512 * 2**20
"""Room for targets in memory: 2269 captions of Stable Diffusion 1.5's width in float32."""


class FrozenGILL:
    """The three networks; `to` moves them to where the rest is trained."""

    def __init__(self, settings: GILLSettings):
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision, torch.float32)
        self.language = LanguageModel.from_folder(Path(settings.language_model), dtype)
        self.vision = ClipVision.from_folder(Path(settings.vision_model), cells=settings.vision_cells)
        self._text_encoder = _text_encoder(Path(settings.text_encoder))
        self.fingerprint = text_encoder_fingerprint(self._text_encoder.state_dict())
        words = self.language.network.get_input_embeddings().weight[: self.language.tokenizer.size]
        self.word_norm = float(words.float().norm(dim=1).mean())
        self._kept: dict[bytes, Tensor] = {}

    @property
    def text_width(self) -> int:
        """Width of what the mapper learns to give."""
        return self._text_encoder.config.hidden_size

    def to(self, device: torch.device) -> FrozenGILL:
        self.language.to(device)
        self.vision.to(device)
        self._text_encoder.to(device)
        return self

    def targets(self, ids: Tensor) -> Tensor:
        """The text encoder's last states behind its last norm, float32 `[B, 77, W]`, of `text_ids`.

        Each caption is encoded once and kept on the CPU, in the type that the encoder gives, until `KEPT_BYTES` are
        taken; those that come later are encoded whenever they come. On the CPU each is encoded by itself: in a batch
        its last bits would depend on the others, and so on what a resumed run has kept.
        """
        rows = {row.numpy().tobytes(): row for row in ids.cpu()}
        known = {key: self._kept[key] for key in rows if key in self._kept}
        unknown = [key for key in rows if key not in known]
        groups = [unknown] if unknown and self._together else [[key] for key in unknown]
        for keys in groups:
            for key, target in zip(keys, self._encoded(torch.stack([rows[key] for key in keys])), strict=True):
                known[key] = target
                if (len(self._kept) + 1) * target.nbytes <= KEPT_BYTES:
                    self._kept[key] = target.clone()  # not the batch that it is a part of
        return torch.stack([known[row.numpy().tobytes()] for row in ids.cpu()]).to(ids.device)

    @property
    def _together(self) -> bool:
        return self._text_encoder.device.type != "cpu"

    @torch.no_grad()
    def _encoded(self, ids: Tensor) -> Tensor:
        # Mixed precision stays outside: what is learned from should not be rounded.
        with without_autocast(self._text_encoder.device):
            return self._text_encoder(input_ids=ids.to(self._text_encoder.device)).last_hidden_state.cpu()


def text_ids(caption: str) -> Tensor:
    """A caption as the text encoder takes it: cut on the right to 77 positions with start and end, int64 `[77]`."""
    ids = [CLIP_START, *clip_ids(caption)[:ROW_POSITIONS], CLIP_END]
    return torch.tensor(ids + [CLIP_END] * (ROW - len(ids)))


def _text_encoder(folder: Path) -> Any:
    complaint = (
        f"The text encoder in {folder} cannot be read: a file is missing or damaged, or of another kind. Name the "
        "folder text_encoder of a Stable Diffusion 1.5."
    )
    network, report = load_network(folder, "CLIPTextModel", complaint)
    require_all(folder, report, but=("position_ids",))
    return network.float()
