"""The sockets of this pack."""

from __future__ import annotations

from comfy_api.latest import io

SubjectSocket = io.Custom("SUBJECT")
SubjectEncoderSocket = io.Custom("SUBJECT_ENCODER")
MSAdapterSocket = io.Custom("MS_ADAPTER")
MSSubjectsSocket = io.Custom("MS_SUBJECTS")
GILLModelSocket = io.Custom("GILL_MODEL")
GILLPromptSocket = io.Custom("GILL_PROMPT")
GILLEmbeddingSocket = io.Custom("GILL_EMBEDDING")
GILLIndexSocket = io.Custom("GILL_INDEX")

# Where the nodes stand in the host's menu: what serves every method is with BLIP-Diffusion's own.
CATEGORY = "BLIP-Diffusion"
GILL_CATEGORY = "GILL"
MS_CATEGORY = "MS-Diffusion"
