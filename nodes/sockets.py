"""The two sockets of this pack."""

from __future__ import annotations

from comfy_api.latest import io

SubjectSocket = io.Custom("SUBJECT")
SubjectEncoderSocket = io.Custom("SUBJECT_ENCODER")

CATEGORY = "BLIP-Diffusion"
