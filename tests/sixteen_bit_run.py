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
from blipdiff_impl.toybox.adapter_data import cut_out_render
from tools.host import find_host
from tools.inprocess import load_comfy

TOYBOX = "toybox (built in, toy world only)"
STEPS, GUIDANCE, SIDE = 8, 2.5, 96
SEED = 5  # with some seeds the steps come to a fork, where another number type draws another mug, just as good


def photo(number, category):
    rng = np.random.default_rng(number)
    return as_tensor(render_reference(subject_from_seed(HELD_OUT_SEED + number, category), rng).picture)[None]


def cut_out(number, category):
    """On black, of the size that the adapter's picture encoder sees."""
    drawn = cut_out_render(subject_from_seed(HELD_OUT_SEED + number, category), np.random.default_rng(number))
    return as_tensor(drawn)[None]


@torch.inference_mode()
def main():
    """Encode, draw, place two subjects, look at attention, edit, invert, tune, blend, and put two into boxes."""
    precision, out = sys.argv[1:]
    sys.path.insert(0, str(find_host()))
    from comfy.cli_args import args

    for part in ("unet", "vae", "text_enc"):
        setattr(args, f"{precision}_{part}", True)
    with tempfile.TemporaryDirectory() as base:
        comfy = load_comfy(Path(base))
        # On a CPU the host would keep weights in 16 bit, but compute in float32. It asks these, as it does for a GPU.
        for name in ("should_use_fp16", "should_use_bf16"):
            setattr(comfy.model_management, name, lambda *_, **__: precision != "fp32")
        save_file(run(comfy, precision), out)


def run(comfy, precision):
    """Tensors by name, on the CPU, float32."""
    model, clip, vae, encoder = comfy.node("SubjectModelLoader").execute(TOYBOX, "default").result[:4]
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    types = model.model.get_dtype(), clip.cond_stage_model.clip_l.transformer.dtype, vae.vae_dtype
    assert types == (wanted,) * 3 and model.model.manual_cast_dtype is None, types
    mug, robot = (encoder.encode(photo(number, name), name) for number, name in ((1, "mug"), (2, "robot")))
    negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
    empty = {"samples": torch.zeros(1, 4, SIDE // 8, SIDE // 8)}

    def sample(model, positive, negative=negative, latent=empty):
        arguments = (SEED, STEPS, GUIDANCE, "euler", "normal", positive, negative, latent)
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
    blends = comfy.node("SubjectInterpolate").execute(mug, robot, columns=3).result[0]
    between = comfy.node("SubjectPromptInfix").execute(clip, blends, "on the beach")[0]
    strip = vae.decode(sample(model, between, latent={"samples": torch.zeros(3, 4, SIDE // 8, SIDE // 8)})["samples"])
    placed, adapter = None, comfy.node("MSDiffusionLoader").execute(TOYBOX)[0]
    for number, name, left in ((1, "mug", 0.05), (2, "robot", 0.55)):
        box = left, 0.3, left + 0.4, 0.8
        placed = comfy.node("MSDiffusionSubject").execute(cut_out(number, name), name, *box, 1.0, previous=placed)[0]
    boxed = comfy.node("MSDiffusionApply").execute(
        model=model, clip=clip, ms_adapter=adapter, subjects=placed, scale=1.0, start_percent=0.0, end_percent=1.0,
        grounding=True, auto_layout=False,
    )[0]  # fmt: skip
    words = comfy.node("CLIPTextEncode")().encode(clip, "a mug and a robot on the beach")[0]
    in_boxes = vae.decode(sample(boxed, words)["samples"])
    found = {
        "vectors": mug.embeddings, "prompt": positive[0][0], "latent": drawn["samples"], "picture": picture,
        "maps": maps, "scene": both, "edit": split[3], "inverted": inverted["samples"],
        "tuned vectors": tuned[1].embeddings, "tuned picture": again, "blends": blends.embeddings, "strip": strip,
        "boxes": in_boxes,
    }  # fmt: skip
    return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in found.items()}


if __name__ == "__main__":
    main()
