"""The subject encoder as a guest of the host's memory manager."""

from __future__ import annotations

import comfy.model_management as mm
from torch import Tensor

from ....blipdiff_impl.blip_diffusion.encoder import SubjectEncoder
from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.pictures.preprocess import Photos, count_photos
from ....blipdiff_impl.toy_world.limits import of_toy_world, subject_notice
from ..lent_module import LentModule
from ..notices import tell
from ..session import Progress

# Working memory of one photo in the image tower at released size, generously: 257 rows x 1024 x 23 blocks in float32.
_BYTES_PER_PHOTO = 256 * 2**20


class HostSubjectEncoder:
    """A SUBJECT_ENCODER. The host moves and evicts its network like any model, through `patcher`.

    Attributes:
        encoder: the plain encoder, whose network lies wherever the host has put it.
        patcher: the host's handle; caches of the host look for this name.
    """

    def __init__(self, encoder: SubjectEncoder):
        if mm.should_use_fp16(mm.text_encoder_device()):
            encoder.module.visual_encoder.half()  # as released; the Q-Former stays in float32
        self.encoder = encoder
        self._lent = LentModule(encoder.module, _BYTES_PER_PHOTO)
        self.patcher = self._lent.patcher

    def encode(self, images: Photos, category: str, masks: Photos | None = None, fit: str = "crop") -> Subject:
        """`SubjectEncoder.encode` on the host's device, with a bar that advances photo by photo.

        A model of the toy world tells where photos or category lie outside of it.
        """
        self._lent.fetch()
        subject = self.encoder.encode(images, category, masks, fit, on_photo=Progress(count_photos(images)).report)
        if of_toy_world(self.encoder.word_pieces):
            sentence = subject_notice(subject.category, self.see(images, masks, fit))
            if sentence is not None:
                tell(sentence)
        return subject

    def see(self, images: Photos, masks: Photos | None = None, fit: str = "crop") -> Tensor:
        """What the encoder looks at, an IMAGE `[B, S, S, 3]`."""
        return self.encoder.see(images, masks, fit)
