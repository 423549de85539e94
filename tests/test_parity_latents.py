"""A whole generation at released size: the host's nodes against diffusers' BLIP-Diffusion pipeline, same noise.

Random weights, float32, ten PNDM steps with guidance 7.5. The tolerance of 1e-3 relative is what is promised; kernels
and the order of sums differ in some 1,000 layers, and guidance multiplies each difference by up to 7.5.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.run import run_reference
from reference.seeded import seeded_like

from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.blip_diffusion.checkpoints.expected_shapes import PARTS, expected_shapes
from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.pictures.preprocess import normalise
from blipdiff_impl.prompts.tokenizers import bert_word_pieces

PROMPT, CATEGORY, STEPS, GUIDANCE, SEED = "swimming underwater, at night", "dog", 10, 7.5, 11
NAME = "released_size_random.safetensors"
SIDE = 128
SCALE = RELEASED.vae.scaling_factor


@pytest.fixture(scope="module")
def checkpoint(comfy):
    """A single file in released shapes in the host's model folder; seeded weights are exact in bfloat16."""
    path = Path(comfy.folder_paths.get_folder_paths("blipdiffusion")[0]) / NAME
    path.parent.mkdir(exist_ok=True)
    parts = {part: seeded_like(expected_shapes(part, RELEASED), part) for part in PARTS}
    write_single_file(path, parts, RELEASED, bert_word_pieces(), torch.bfloat16)
    return NAME


@pytest.fixture(scope="module")
def photo():
    """A picture of the tower's own size with 8-bit values, which preprocessing leaves as it is."""
    pixels = np.random.default_rng(5).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).float() / 255


@pytest.mark.timeout(2400)  # two models of the released size; minutes on two cores, more on a busy machine
def test_latents_equal_the_reference_pipeline(comfy, checkpoint, photo, tmp_path):
    from comfy.sample import prepare_noise
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    empty = torch.zeros(1, 4, SIDE // 8, SIDE // 8)
    noise = prepare_noise(empty, SEED)
    with torch.inference_mode():
        model, clip, _, encoder, _ = comfy.node("SubjectModelLoader").execute(checkpoint, "fp32").result
        subject = encoder.encode(photo, CATEGORY)
        positive = comfy.node("SubjectPromptInfix").execute(clip, subject, PROMPT)[0]
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        sigmas = comfy.node("SubjectSchedulePNDM").execute(model, STEPS)[0]
        sampler = comfy.node("SubjectSamplerPNDM").execute()[0]
        latent = {"samples": empty}
        sampled = SamplerCustom.execute(model, True, SEED, GUIDANCE, positive, negative, sampler, sigmas, latent)
    ours = sampled[0]["samples"] * SCALE

    texts = {"prompt": PROMPT, "category": CATEGORY, "steps": str(STEPS), "guidance": str(GUIDANCE)}
    reference = run_reference("generate", {"noise": noise, "pixels": normalise(photo)}, texts, tmp_path)["latents"]
    difference = float((ours - reference).norm() / reference.norm())
    assert difference <= 1e-3, f"relative error {difference:.2e}"
    assert float((reference - noise).norm() / noise.norm()) > 0.1, "the model moved the noise"
    sys.stdout.write(f"relative error of the latents {difference:.2e}\n")
