"""A whole zero-shot generation at released size against diffusers' pipeline: 256x256, 4 PNDM steps, float32, CPU.

Each side encodes a photo and a prompt, samples with guidance 7.5 and decodes. The published scheduler evaluates the
UNet once more than its 4 steps, at a timestep that does not move the sample; ours leaves that evaluation out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from blipdiff_impl.pictures.preprocess import normalise
from tests.reference.run import reference
from tools.memory import peak_megabytes

from .measure import compare, machine, seconds
from .released import host_with_pytorch_attention, load_model, write_released_checkpoint

PROMPT, CATEGORY, STEPS, GUIDANCE, SIDE, PAIRS = "swimming underwater, at night", "dog", 4, 7.5, 256, 5


@torch.inference_mode()
def main() -> None:
    write_released_checkpoint()
    comfy = host_with_pytorch_attention()
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    model, clip, vae, encoder = load_model(comfy)
    empty = torch.zeros(1, 4, SIDE // 8, SIDE // 8)
    print(machine())

    def generate() -> None:
        subject = encoder.encode(torch.rand(1, 224, 224, 3), CATEGORY)
        positive = comfy.node("SubjectPromptInfix").execute(clip, subject, PROMPT)[0]
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        sampler = comfy.node("SubjectSamplerPNDM").execute()[0]
        sigmas = comfy.node("SubjectSchedulePNDM").execute(model, STEPS)[0]
        latent = {"samples": empty}
        sampled = SamplerCustom.execute(model, True, 0, GUIDANCE, positive, negative, sampler, sigmas, latent)
        vae.decode(sampled[0]["samples"])

    tensors = {"noise": torch.randn(empty.shape), "pixels": normalise(torch.rand(1, 224, 224, 3))}
    texts = {
        "prompt": PROMPT,
        "category": CATEGORY,
        "steps": str(STEPS),
        "guidance": str(GUIDANCE),
        "decode": "yes",
    }
    with reference("generate", tensors, texts, Path(tempfile.mkdtemp())) as peer:
        compare("zero-shot generation", lambda: seconds(generate), lambda: peer.time()[0], PAIRS, "at least 0.95")
        theirs = peer.time()[1]
    own = peak_megabytes()
    print(f"peak memory: ours {own:.0f} MB, peer {theirs:.0f} MB, ratio {theirs / own:.3f} (goal at least 1)")


if __name__ == "__main__":
    main()
