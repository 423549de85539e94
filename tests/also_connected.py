"""What an artist connects beside the pack's nodes, as functions: (world, model, positive, negative) -> the last three.

A world has `comfy`, `model`, `text(words)` and `once(key, make)`.
"""

import sys

import torch

SIDE = 16  # of the latents that areas and masks are for
PIXELS = 8 * SIDE


def extra(module, node):
    """One of the nodes that come with the host."""
    __import__(f"comfy_extras.{module}")
    return getattr(sys.modules[f"comfy_extras.{module}"], node)


def area(world, model, positive, negative):
    """The prompt in the right half, other words everywhere."""
    part = world.comfy.node("ConditioningSetArea")().append(positive, PIXELS // 2, PIXELS, PIXELS // 2, 0, 1.0)[0]
    return model, part + world.text("snow"), negative


def area_percentage(world, model, positive, negative):
    node = world.comfy.node("ConditioningSetAreaPercentage")()
    return model, node.append(positive, 0.5, 0.75, 0.5, 0.25, 1.0)[0] + world.text("snow"), negative


def area_past_the_edge(world, model, positive, negative):
    node = world.comfy.node("ConditioningSetArea")()
    return model, node.append(positive, 8 * PIXELS, PIXELS, PIXELS // 2, 0, 1.0)[0] + world.text("snow"), negative


def area_of_the_negative(world, model, positive, negative):
    node = world.comfy.node("ConditioningSetArea")()
    return model, positive, negative + node.append(world.text("blurry"), PIXELS // 2, PIXELS, 0, 0, 1.0)[0]


def mask(world, model, positive, negative, bounds="default"):
    right = torch.zeros(1, PIXELS, PIXELS)
    right[..., PIXELS // 2 :] = 1
    masked = world.comfy.node("ConditioningSetMask")().append(positive, right, bounds, 1.0)[0]
    return model, masked + world.text("snow"), negative


def mask_bounds(world, model, positive, negative):
    return mask(world, model, positive, negative, "mask bounds")


def long_negative(world, model, positive, negative):
    return model, positive, world.text("blurry " * 100)


def deep_shrink(factor):
    def shrink(world, model, positive, negative):
        node = extra("nodes_model_downscale", "PatchModelAddDownscale")
        return node.execute(model, 1, factor, 0.0, 0.6, True, "bicubic", "bicubic")[0], positive, negative

    return shrink


def perturbed(world, model, positive, negative):
    return extra("nodes_pag", "PerturbedAttentionGuidance").execute(model, 3.0)[0], positive, negative


def self_guided(world, model, positive, negative):
    return extra("nodes_sag", "SelfAttentionGuidance").execute(model, 0.8, 2.0)[0], positive, negative


def hypertile(world, model, positive, negative):
    return extra("nodes_hypertile", "HyperTile").execute(model, 32, 2, 2, False)[0], positive, negative


def freeu(world, model, positive, negative):
    return extra("nodes_freelunch", "FreeU").execute(model, 1.3, 1.4, 0.9, 0.2)[0], positive, negative


def tome(world, model, positive, negative):
    return extra("nodes_tomesd", "TomePatchModel").execute(model, 0.5)[0], positive, negative


def controlnet(world, model, positive, negative):
    control = world.once("controlnet", lambda: make_controlnet(world))
    hint = torch.rand(1, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(3))
    node = world.comfy.node("ControlNetApplyAdvanced")()
    return model, *node.apply_controlnet(positive, negative, control, hint, 1.0, 0.0, 1.0)


def make_controlnet(world):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = {**world.model.model.model_config.unet_config, "hint_channels": 3, "dtype": torch.float32}
    config.pop("out_channels")
    net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.manual_cast).eval()
    generator = torch.Generator().manual_seed(8)
    for parameter in net.parameters():
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))


def lora(world, model, positive, negative):
    weights = world.model.model.state_dict()
    key = next(name for name in weights if name.endswith("attn2.to_v.weight")).removesuffix(".weight")
    weight = weights[f"{key}.weight"]
    generator = torch.Generator().manual_seed(2)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((len(weight), 4), (4, weight.shape[1])))
    file = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(4.0)}
    return world.comfy.sd.load_lora_for_models(model, None, file, 0.5, 0)[0], positive, negative


PLAIN_PROMPT = {
    "nothing": lambda world, *given: given,
    "area": area,
    "area in shares": area_percentage,
    "area past the edge": area_past_the_edge,
    "area of the negative": area_of_the_negative,
    "mask": mask,
    "mask with bounds": mask_bounds,
    "long negative": long_negative,
}
PATCHES = {
    "deep shrink by 2": deep_shrink(2.0),
    "deep shrink by 1.5": deep_shrink(1.5),
    "perturbed attention guidance": perturbed,
    "self-attention guidance": self_guided,
    "hypertile": hypertile,
    "freeu": freeu,
    "token merging": tome,
    "controlnet": controlnet,
    "lora": lora,
}
