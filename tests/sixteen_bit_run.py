"""The nodes on the built-in model in one precision of the host, in a process of its own, as its options are read once.

`python tests/sixteen_bit_run.py bf16 out.safetensors`: what came out, and in which types it was computed.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from blipdiff_impl.files import as_tensor
from blipdiff_impl.toy_world.render import render_reference
from blipdiff_impl.toy_world.world import HELD_OUT_SEED, subject_from_seed
from tools.host import find_host
from tools.inprocess import load_comfy

TOYBOX = "toybox (built in, toy world only)"
STEPS, GUIDANCE, SIDE = 8, 2.5, 96


def photo(number, category):
    rng = np.random.default_rng(number)
    return as_tensor(render_reference(subject_from_seed(HELD_OUT_SEED + number, category), rng).picture)[None]


@torch.inference_mode()
def main():
    """Encode, draw, place two subjects, look at attention, edit, invert, tune."""
    precision, out = sys.argv[1:]
    sys.path.insert(0, str(find_host()))
    from comfy.cli_args import args

    for part in ("unet", "vae", "text_enc"):
        setattr(args, f"{precision}_{part}", True)
    with tempfile.TemporaryDirectory() as base:
        save_file(run(load_comfy(Path(base)), precision), out)


def run(comfy, precision):
    """Tensors by name, on the CPU, float32."""
    model, clip, vae, encoder = comfy.node("SubjectModelLoader").execute(TOYBOX, "default").result[:4]
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    types = model.model.get_dtype(), clip.cond_stage_model.clip_l.transformer.dtype, vae.vae_dtype
    assert types == (wanted,) * 3, types
    mug, robot = (encoder.encode(photo(number, name), name) for number, name in ((1, "mug"), (2, "robot")))
    negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
    empty = {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8)}

    def sample(model, positive, negative=negative, latent=empty):
        arguments = (3, STEPS, GUIDANCE, "euler", "normal", positive, negative, latent)
        return comfy.nodes.common_ksampler(model, *arguments)[0]

    positive = comfy.node("SubjectPromptInfix").execute(clip, mug, "on the beach")[0]
    watched = comfy.node("SubjectAttentionMaps").execute(model, positive, "subject", "", "all", 0.0, 1.0)[0]
    drawn = sample(watched, positive)
    maps = comfy.node("SubjectAttentionView").execute(watched, drawn)[1]
    picture = vae.decode(drawn["samples"])
    half = torch.zeros(1, SIDE, SIDE)
    half[:, :, : SIDE // 2] = 1
    scene = comfy.node("SubjectScene").execute(
        clip, "a {mug} and a {robot} in the snow", mug, robot, mask_a=half, mask_b=1 - half, model=model
    ).result  # fmt: skip
    both = vae.decode(sample(scene[1], scene[0])["samples"])
    edit = comfy.node("SubjectP2PEdit").execute(
        model, clip, empty, "mug", "robot", "on the beach", "", 0.8, 0.4, 0.3, subject=robot
    ).result  # fmt: skip
    split = comfy.node("SubjectEditResult").execute(edit[0], sample(*edit), vae).result
    inverted = comfy.node("SubjectInvert").execute(model, clip, drawn, "mug", "on the beach", STEPS)[0]
    tuned = comfy.node("SubjectFinetune").PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(
        model, clip, vae, mug, photo(1, "mug"), "full", 3, 1e-4, 3, 8, 0, resolution=SIDE, preview_every=0,
        precision="bf16" if precision == "bf16" else "fp32",
    ).result  # fmt: skip
    learned = comfy.node("SubjectPromptInfix").execute(clip, tuned[1], "on the beach")[0]
    again = vae.decode(sample(tuned[0], learned)["samples"])
    found = {
        "vectors": mug.embeddings, "prompt": positive[0][0], "latent": drawn["samples"], "picture": picture,
        "maps": maps, "scene": both, "edit": split[3], "inverted": inverted["samples"],
        "tuned vectors": tuned[1].embeddings, "tuned picture": again,
    }  # fmt: skip
    return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in found.items()}


if __name__ == "__main__":
    main()
