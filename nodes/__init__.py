"""What an artist sees: one file per node or close family, a form and a call each."""

from __future__ import annotations

from .attention_maps import SubjectAttentionMaps, SubjectAttentionView
from .edit import SubjectEditResult, SubjectP2PEdit
from .encode import SubjectEncoder
from .finetune import SubjectFinetune
from .host.inputs import checked
from .interpolate import SubjectContactSheet, SubjectInterpolate
from .invert import SubjectInvert
from .loader import SubjectModelLoader
from .matte import SubjectMatte
from .pndm import SubjectSamplerPNDM, SubjectSchedulePNDM
from .prompt import SubjectPromptInfix
from .save import SubjectLoad, SubjectSave
from .scene import SubjectScene
from .schedule import SubjectPromptSchedule

NODES = [
    checked(node)
    for node in (
        SubjectModelLoader,
        SubjectMatte,
        SubjectEncoder,
        SubjectPromptInfix,
        SubjectPromptSchedule,
        SubjectScene,
        SubjectInterpolate,
        SubjectContactSheet,
        SubjectAttentionMaps,
        SubjectAttentionView,
        SubjectP2PEdit,
        SubjectInvert,
        SubjectEditResult,
        SubjectFinetune,
        SubjectSave,
        SubjectLoad,
        SubjectSamplerPNDM,
        SubjectSchedulePNDM,
    )
]
