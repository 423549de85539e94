"""A grid of 16 blends in one batch against 16 single runs, on the host with the built-in model.

Both draw the same pictures: the batch shares the noise of the first item, and the single runs have that seed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from .measure import compare, machine, seconds
from .released import host_with_pytorch_attention, load_model

STEPS, SIDE, PLACES, PAIRS = 20, 96, 4, 9
# Two orders of the same sums; seen through 20 guided steps.
TOLERANCE = 1e-3


@torch.inference_mode()
def main() -> None:
    comfy = host_with_pytorch_attention(Path(tempfile.mkdtemp()))
    toybox = comfy.node("SubjectModelLoader").define_schema().inputs[0].default
    model, clip, _, encoder = load_model(comfy, toybox)
    corners = [encoder.encode(torch.rand(1, 96, 96, 3), "mug") for _ in range(4)]
    grid = comfy.node("SubjectInterpolate").execute(*corners[:2], "lerp", PLACES, PLACES, *corners[2:])[0]
    negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
    print(machine())

    def draw(subject) -> torch.Tensor:
        positive = comfy.node("SubjectPromptInfix").execute(clip, subject, "on the grass")[0]
        count = len(subject)
        latent = {"samples": torch.zeros(count, 4, SIDE // 8, SIDE // 8), "batch_index": [0] * count}
        settings = (0, STEPS, 2.5, "euler", "normal", positive, negative, latent)
        return comfy.nodes.common_ksampler(model, *settings)[0]["samples"]

    def single(index: int):
        return type(grid)(grid.embeddings[index : index + 1], grid.category, grid.encoder_fingerprint)

    def one_by_one() -> torch.Tensor:
        return torch.cat([draw(single(index)) for index in range(len(grid))])

    together, alone = draw(grid), one_by_one()
    difference = float((together - alone).abs().max() / alone.abs().max())
    print(f"largest difference of the latents: {difference:.1e} of the largest value")
    assert difference < TOLERANCE
    compare(
        f"{len(grid)} pictures, prompt and sampling, one batch against single runs",
        lambda: seconds(lambda: draw(grid)),
        lambda: seconds(one_by_one),
        PAIRS,
        "at least 1.5",
    )


if __name__ == "__main__":
    main()
