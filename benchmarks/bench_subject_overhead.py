"""Sampling with a subject against sampling with a plain prompt, on the host with the built-in model.

A subject changes what the conditioning holds and not how long it is, so sampling should cost the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from .measure import machine, seconds
from .released import host_with_pytorch_attention, load_model

STEPS, SIDE, PAIRS = 20, 96, 41


@torch.inference_mode()
def main() -> None:
    comfy = host_with_pytorch_attention(Path(tempfile.mkdtemp()))
    toybox = comfy.node("SubjectModelLoader").define_schema().inputs[0].default
    model, clip, _, encoder = load_model(comfy, toybox)
    plain = comfy.node("CLIPTextEncode")()
    subject = encoder.encode(torch.rand(1, 96, 96, 3), "mug")
    with_subject = comfy.node("SubjectPromptInfix").execute(clip, subject, "on the grass")[0]
    without, negative = plain.encode(clip, "a mug on the grass")[0], plain.encode(clip, "")[0]
    print(machine())

    def sample(positive) -> float:
        latent = {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8)}
        return seconds(
            lambda: comfy.nodes.common_ksampler(model, 0, STEPS, 4.0, "euler", "normal", positive, negative, latent)
        )

    sample(with_subject), sample(without)
    # The order alternates, so that whoever comes second has no advantage.
    times = []
    for index in range(PAIRS):
        if index % 2:
            times.append((sample(with_subject), sample(without)))
        else:
            second = sample(without)
            times.append((sample(with_subject), second))
    ratios = sorted(ours / theirs for ours, theirs in times)
    print(
        f"sampling with a subject / with a plain prompt: median ratio {ratios[PAIRS // 2]:.3f} "
        f"(of {PAIRS} pairs {ratios[0]:.3f} to {ratios[-1]:.3f}; goal at most 1.01)"
    )


if __name__ == "__main__":
    main()
