"""ComfyUI's names for the tensors of a small ControlNet that diffusers built, with one layer in each block."""

from __future__ import annotations

import re

from ..stable_diffusion.ldm_names import IN_RESNET

# The host numbers the down blocks through: the first convolution, then a layer and a downsampling for each level.
_PLACES = (
    (r"conv_in", lambda m: "input_blocks.0.0"),
    (r"down_blocks\.(\d)\.resnets\.0\.(\w+)", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.0.{IN_RESNET[m[2]]}"),
    (r"down_blocks\.(\d)\.attentions\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.1"),
    (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 * int(m[1]) + 2}.0.op"),
    (r"mid_block\.resnets\.(\d)\.(\w+)", lambda m: f"middle_block.{2 * int(m[1])}.{IN_RESNET[m[2]]}"),
    (r"mid_block\.attentions\.0", lambda m: "middle_block.1"),
    (r"controlnet_cond_embedding\.conv_in", lambda m: "input_hint_block.0"),
    (r"controlnet_cond_embedding\.blocks\.(\d)", lambda m: f"input_hint_block.{2 * int(m[1]) + 2}"),
    (r"controlnet_cond_embedding\.conv_out", lambda m: "input_hint_block.14"),
    (r"controlnet_down_blocks\.(\d)", lambda m: f"zero_convs.{m[1]}.0"),
    (r"controlnet_mid_block", lambda m: "middle_block_out.0"),
)


def host_name(name: str) -> str:
    """The host's name of one tensor.

    Raises:
        KeyError: a name that such a ControlNet does not have.
    """
    for place, theirs in _PLACES:
        if match := re.match(place, name):
            return theirs(match) + name[match.end() :]
    raise KeyError(name)
