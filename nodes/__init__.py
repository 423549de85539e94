"""What an artist sees: one file per node or close family, a form and a call each.

Where the form needs nothing of what is called, that is imported at the call: each start of the host reads the forms.
"""

from __future__ import annotations

from .blip_diffusion.edit import SubjectEditResult, SubjectP2PEdit
from .blip_diffusion.encode import SubjectEncoder
from .blip_diffusion.finetune import SubjectFinetune
from .blip_diffusion.interpolate import SubjectInterpolate
from .blip_diffusion.invert import SubjectInvert
from .blip_diffusion.loader import SubjectModelLoader
from .blip_diffusion.prompt import SubjectPromptInfix
from .blip_diffusion.save import SubjectLoad, SubjectSave
from .blip_diffusion.scene import SubjectScene
from .blip_diffusion.schedule import SubjectPromptSchedule
from .blip_diffusion.transplant import SubjectTransplant
from .common.attention_maps import SubjectAttentionMaps, SubjectAttentionView
from .common.contact_sheet import SubjectContactSheet
from .common.matte import SubjectMatte
from .common.pndm import SubjectSamplerPNDM, SubjectSchedulePNDM
from .gill.generate import GILLGenerate
from .gill.loader import GILLLoader
from .gill.prompt import GILLPrompt, GILLTurn
from .gill.retrieve import GILLIndex, GILLRank, GILLRetrieve
from .host.inputs import with_checked_inputs
from .ms_diffusion.apply import MSDiffusionApply
from .ms_diffusion.loader import MSDiffusionLoader
from .ms_diffusion.subject import MSDiffusionSubject

NODES = [
    with_checked_inputs(node)
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
        SubjectTransplant,
        SubjectSave,
        SubjectLoad,
        SubjectSamplerPNDM,
        SubjectSchedulePNDM,
        MSDiffusionLoader,
        MSDiffusionSubject,
        MSDiffusionApply,
        GILLLoader,
        GILLPrompt,
        GILLTurn,
        GILLGenerate,
        GILLIndex,
        GILLRetrieve,
        GILLRank,
    )
]
