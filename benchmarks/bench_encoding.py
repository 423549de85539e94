"""Subject and prompt encoding at released size against diffusers' BLIP-Diffusion classes, float32 on the CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.pictures.preprocess import normalise
from tests.reference.run import reference

from .measure import compare, machine, seconds
from .released import host_with_pytorch_attention, load_model, write_released_checkpoint

PROMPT, CATEGORY, PAIRS = "swimming underwater, at night", "dog", 9


@torch.inference_mode()
def main() -> None:
    write_released_checkpoint()
    comfy = host_with_pytorch_attention()
    _, clip, _, encoder = load_model(comfy)
    folder = Path(tempfile.mkdtemp())
    print(machine())

    square = torch.rand(1, 224, 224, 3)
    with reference("subject", {"pixels": normalise(square)}, {"category": CATEGORY}, folder) as peer:
        # A new photo each time: the same one would cost its hash only.
        compare(
            "subject encoding (ours with hashing, resize and checks)",
            lambda: seconds(lambda: encoder.encode(torch.rand(1, 224, 224, 3), CATEGORY)),
            lambda: peer.time()[0],
            PAIRS,
            "at least 1",
        )
        photo = torch.rand(1, 224, 224, 3)
        compare(
            "the same photo again",
            lambda: seconds(lambda: encoder.encode(photo, CATEGORY)),
            lambda: peer.time()[0],
            3,
            "a hash",
        )

    subject = Subject(torch.randn(1, 16, 768), CATEGORY, encoder.encoder.fingerprint)
    infix, plain = comfy.node("SubjectPromptInfix"), comfy.node("CLIPTextEncode")()
    with reference("text", {"vectors": subject.embeddings}, {"prompt": PROMPT, "category": CATEGORY}, folder) as peer:
        compare(
            "prompt with subject and empty prompt, through the host's nodes",
            lambda: seconds(lambda: (infix.execute(clip, subject, PROMPT), plain.encode(clip, ""))),
            lambda: peer.time()[0],
            PAIRS,
            "at least 1",
        )


if __name__ == "__main__":
    main()
