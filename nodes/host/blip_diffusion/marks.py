"""What the loader writes on a MODEL and a CLIP, for the nodes behind it."""

from __future__ import annotations

# On a CLIP's model: the fingerprint of the subject encoder that was trained with it.
ENCODER_OF_CLIP = "blipdiffusion_subject_encoder"

# On a MODEL's model: the side of its training pictures in pixels.
PICTURE_SIZE_OF_MODEL = "blipdiffusion_picture_size"
