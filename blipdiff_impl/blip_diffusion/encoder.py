"""Photos and a category to a Subject: checks, preprocessing, the encoder's forward pass, the mean, and a cache.

Where the module lies and in which precision it runs is decided by whoever owns it: a script through
`SubjectEncoder.to`, the host through its own memory manager.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..pictures.preprocess import Photos, compose, each_photo, fit_square, normalise, pair_masks
from ..prompts.tokenizers import WordPieceTokenizer, normalise_category
from .checkpoints import Checkpoint, open_checkpoint
from .subject import Subject
from .subject_module import SubjectEncoderModule

_REMEMBERED = 128  # photos kept: as the tower sees them 77 MB, their vectors 6 MB, at released size


class SubjectEncoder:
    """Turns photos of one subject into a `Subject` (paper section 3.2).

    Attributes:
        module: the network; move it with `to`, or hand it to a memory manager.
        fingerprint: identifies the weights, so that a subject knows which encoder made it.
        word_pieces: what categories are made of, in id order.
    """

    def __init__(self, module: SubjectEncoderModule, word_pieces: list[str], fingerprint: str):
        self.module = module
        self.fingerprint = fingerprint
        self.word_pieces = word_pieces
        self._tokenizer = WordPieceTokenizer(word_pieces, module.config.qformer.max_position_embeddings)
        self._squares = _LruCache(_REMEMBERED)
        self._vectors = _LruCache(_REMEMBERED)

    @classmethod
    def from_checkpoint(cls, source: str | Path | Checkpoint) -> SubjectEncoder:
        """Load from any layout; "toybox" is the embedded model. Only the encoder's part of the file is read.

        The Q-Former and the projection run in float32 whatever the file holds, as released; the tower too, until
        somebody lowers it (16 bit is slow on most CPUs).

        Raises:
            CheckpointError: the file is missing, damaged or of another kind.
        """
        checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
        tensors = {name: tensor.float() for name, tensor in checkpoint.part("subject_encoder").items()}
        module = SubjectEncoderModule.from_canonical(checkpoint.config, tensors)
        return cls(module, checkpoint.vocabulary, checkpoint.fingerprint("subject_encoder"))

    @property
    def width(self) -> int:
        """Width of the vectors it makes."""
        return self.module.config.qformer.hidden_size

    @property
    def image_size(self) -> int:
        """Side of the square the image tower sees, in pixels."""
        return self.module.config.image_tower.image_size

    def to(self, device: torch.device | str) -> SubjectEncoder:
        """Move the network; returns itself."""
        self.module.to(device)
        return self

    def see(self, images: Photos, masks: Photos | None = None, fit: str = "crop") -> Tensor:
        """What the image tower looks at, `[B, S, S, 3]` in 0..1, after masking and fitting.

        Raises:
            SubjectError: photos or masks that cannot be used.
        """
        return torch.stack([square for _, square in self._look(images, masks, fit)])

    def encode(
        self,
        images: Photos,
        category: str,
        masks: Photos | None = None,
        fit: str = "crop",
        on_photo: Callable[[int, int], None] = lambda done, total: None,
    ) -> Subject:
        """The subject of these photos: the mean of their vectors (docs/method.md 5.1), `[1, 16, W]`.

        A photo that was encoded before with the same category, mask and fit costs its hash.

        Args:
            images: `[B, H, W, 1 | 3 | 4]` float, 0..1, several photos of ONE subject; a list of such where they differ
                in size.
            category: what the thing is, in a word or two.
            masks: `[B or 1, H, W]`, 1 on the subject, or a list of such; outside it the photo becomes the neutral
                background.
            fit: "crop", "pad" or "squash", see `preprocess.fit_square`.
            on_photo: called with (photos done, photos in all) before each photo; may raise to stop.

        Raises:
            SubjectError: photos, masks or category that cannot be used.
        """
        category = normalise_category(category)
        ids, _ = self._tokenizer.batch([category])  # one text: nothing is padded
        looks = self._look(images, masks, fit)
        vectors = []
        for index, (digest, square) in enumerate(looks):
            on_photo(index, len(looks))
            vectors.append(self._vectors.get((digest, category), partial(self._forward, square, ids)))
        on_photo(len(looks), len(looks))
        photos = "1 photo" if len(looks) == 1 else f"{len(looks)} photos"
        return Subject(torch.cat(vectors).mean(0, keepdim=True), category, self.fingerprint, f"{photos}, {fit}")

    def _look(self, images: Photos, masks: Photos | None, fit: str) -> list[tuple[str, Tensor]]:
        """Each photo's hash and the square `[S, S, 3]` that the tower sees of it."""
        photos = each_photo(images)
        looks = []
        for photo, photo_mask in zip(photos, pair_masks(masks, photos), strict=True):
            digest = _digest(photo, photo_mask, fit)
            square = self._squares.get(digest, partial(self._square, photo, photo_mask, fit))
            looks.append((digest, square))
        return looks

    def _square(self, photo: Tensor, photo_mask: Tensor | None, fit: str) -> Tensor:
        return fit_square(compose(photo, photo_mask), self.image_size, fit)[0]

    def _forward(self, square: Tensor, ids: Tensor) -> Tensor:
        """Subject vectors `[1, 16, W]` of one square, float32 on the CPU."""
        device = self.module.proj_layer.dense1.weight.device
        with torch.inference_mode():
            return self.module(normalise(square[None]).to(device), ids.to(device), None).float().cpu()


class _LruCache:
    """The results that were asked for last, by key."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._entries: OrderedDict = OrderedDict()

    def get(self, key, compute: Callable[[], Tensor]) -> Tensor:
        """The entry for `key`, computed where it is not there."""
        if key not in self._entries:
            self._entries[key] = compute()
            if len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key]


def _digest(photo: Tensor, photo_mask: Tensor | None, fit: str) -> str:
    """A hash of everything that the look of one photo depends on."""
    digest = hashlib.sha256(fit.encode())
    for tensor in (photo, photo_mask):
        if tensor is not None:
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()
