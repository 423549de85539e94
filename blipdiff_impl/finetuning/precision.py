"""Which precision a device trains in, with the reason."""

from __future__ import annotations

import torch

from ..errors import SubjectError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
AUTO = "auto"


def choose_precision(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The precision of the UNet's arithmetic (masters are float32 in any case), and why, for the log.

    Raises:
        SubjectError: a name that is none of these.
    """
    if name not in (AUTO, *PRECISIONS):
        raise SubjectError(f"There is no precision {name!r}; choose one of {', '.join((AUTO, *PRECISIONS))}.")
    if name != AUTO:
        return PRECISIONS[name], f"{name} as chosen"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "bf16, which this GPU computes natively"
        return torch.float32, "fp32, because this GPU has no bf16"
    return torch.float32, f"fp32 on {device.type}"
