"""What an artist sees: one file per node or close family, a form and a call each."""

from __future__ import annotations

from .encode import SubjectEncoder
from .finetune import SubjectFinetune
from .loader import SubjectModelLoader
from .pndm import SubjectSamplerPNDM, SubjectSchedulePNDM
from .prompt import SubjectPromptInfix
from .save import SubjectLoad, SubjectSave

NODES = [
    SubjectModelLoader,
    SubjectEncoder,
    SubjectPromptInfix,
    SubjectFinetune,
    SubjectSave,
    SubjectLoad,
    SubjectSamplerPNDM,
    SubjectSchedulePNDM,
]
