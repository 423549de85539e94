"""The subject encoder as a guest of the host's memory manager."""

from __future__ import annotations

import comfy.model_management as mm
from torch import Tensor

from ...blipdiff_impl.encoder import SubjectEncoder
from ...blipdiff_impl.subject import Subject
from .session import Progress
from .weights import patcher_class

# Working memory of one photo in the image tower at released size, generously: 257 rows x 1024 x 23 blocks in float32.
_BYTES_PER_PHOTO = 256 * 2**20


class HostSubjectEncoder:
    """A SUBJECT_ENCODER. The host moves and evicts its network like any model, through `patcher`.

    Attributes:
        encoder: the plain encoder, whose network lies wherever the host has put it.
        patcher: the host's handle; caches of the host look for this name.
    """

    def __init__(self, encoder: SubjectEncoder):
        device = mm.text_encoder_device()
        if mm.should_use_fp16(device):
            encoder.module.visual_encoder.half()  # as released; the Q-Former stays in float32
        self.encoder = encoder
        self.patcher = patcher_class()(
            encoder.module, load_device=device, offload_device=mm.text_encoder_offload_device()
        )

    def encode(self, images: Tensor, category: str, masks: Tensor | None = None, fit: str = "crop") -> Subject:
        """`SubjectEncoder.encode` on the host's device, with a bar that advances photo by photo."""
        # The network is made of plain torch layers, which work only where all of them lie on one device.
        mm.load_models_gpu([self.patcher], memory_required=_BYTES_PER_PHOTO, force_full_load=True)
        return self.encoder.encode(images, category, masks, fit, on_photo=Progress(len(images)).report)

    def see(self, images: Tensor, masks: Tensor | None = None, fit: str = "crop") -> Tensor:
        """What the encoder looks at, an IMAGE `[B, S, S, 3]`."""
        return self.encoder.see(images, masks, fit)
