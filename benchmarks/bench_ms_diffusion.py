"""Two subjects in boxes against plain sampling, at Stable Diffusion XL's own layer shapes, and against diffusers'
IP-Adapter with masks.

The weights are random. The transformers of one place share theirs: memory holds a tenth of the model, while every
layer computes what it would.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from blipdiff_impl.attention.boxes import Box
from blipdiff_impl.ms_diffusion.adapter_attention import Subjects, scaled
from blipdiff_impl.ms_diffusion.layers import adapter_layers

from .measure import compare, machine, seconds
from .released import host_with_pytorch_attention

SIDE, STEPS, PAIRS = 16, 1, 5  # side of the latent
BOXES = (Box(0.0, 0.25, 0.4, 0.75), Box(0.6, 0.25, 1.0, 0.75))
TOKENS, CONTEXT = 16, 2048


@torch.inference_mode()
def main() -> None:
    comfy = host_with_pytorch_attention(Path(tempfile.mkdtemp()))
    print(machine())
    in_the_host(comfy)
    gc.collect()
    beside_ip_adapter()


def in_the_host(comfy) -> None:
    """Sampling with the MODEL of the node against the MODEL itself."""
    model = host_model()
    with_two = model.clone()
    runs = comfy.module("nodes.host.ms_diffusion.run")
    runs.SubjectsInRuns(random_subjects()).install(with_two)
    prompt = [[torch.randn(1, 77, CONTEXT), {"pooled_output": torch.randn(1, 1280)}]]
    latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}

    def sample(each) -> float:
        arguments = (0, STEPS, 7.5, "euler", "normal", prompt, prompt, latent)
        return seconds(lambda: comfy.nodes.common_ksampler(each, *arguments))

    title = f"sampling with two subjects, {8 * SIDE}x{8 * SIDE}, {STEPS} step, and plain sampling"
    ratio = compare(title, lambda: sample(with_two), lambda: sample(model), PAIRS, "at least 0.91")
    print(f"sampling with two subjects takes {1 / ratio:.3f} times as long as plain sampling (goal at most 1.10)")


def beside_ip_adapter() -> None:
    """The same UNet of diffusers with our layers, and with its own IP-Adapter for two pictures with masks."""
    unet, subjects = diffusers_unet(), random_subjects()
    places = {layer.module: layer.key for layer in adapter_layers(unet_sizes())}
    ours, theirs = {}, {}
    for name, attention in unet.named_modules():
        if not name.endswith("attn2"):
            continue
        width = attention.to_q.out_features
        ours[name] = WithSubjects(subjects, places[name])
        theirs[name] = WithIPAdapter(width)

    def evaluate(processors) -> float:
        for name, attention in unet.named_modules():
            if name in processors:
                attention.set_processor(processors[name])
        more = {"text_embeds": torch.zeros(2, 1280), "time_ids": torch.zeros(2, 6)}
        arguments = (torch.zeros(2, 4, SIDE, SIDE), 500, torch.zeros(2, 77, CONTEXT))
        return seconds(lambda: unet(*arguments, added_cond_kwargs=more))

    title = f"two subjects and diffusers' IP-Adapter with two masks, one evaluation, {8 * SIDE}x{8 * SIDE}"
    compare(title, lambda: evaluate(ours), lambda: evaluate(theirs), PAIRS, "at least 1")


class WithSubjects:
    """Text attention of diffusers, and the subjects on the second half of the batch, which is the positive one."""

    def __init__(self, subjects: Subjects, layer):
        self._subjects, self._layer = subjects, layer

    def __call__(self, attn, hidden, encoder_hidden_states=None, **others) -> Tensor:
        q, k, v = attn.to_q(hidden), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        heads = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        side = int(hidden.shape[1] ** 0.5)
        covered = self._subjects.coverage((side, side), q)
        positive = self._subjects.add(out[1:], q[1:], self._layer, covered, attn.heads)
        return attn.to_out[1](attn.to_out[0](torch.cat([out[:1], positive])))


class WithIPAdapter:
    """diffusers' own processor with two pictures and their masks."""

    def __init__(self, width: int):
        from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

        self._own = IPAdapterAttnProcessor2_0(width, CONTEXT, num_tokens=(TOKENS,), scale=[[1.0, 1.0]])
        self._tokens = torch.randn(2, 2, TOKENS, CONTEXT)
        mask = torch.zeros(1, 2, 8 * SIDE, 8 * SIDE)
        for number, box in enumerate(BOXES):
            down, across = (
                slice(int(8 * SIDE * first), int(8 * SIDE * last))
                for first, last in ((box.top, box.bottom), (box.left, box.right))
            )
            mask[:, number, down, across] = 1
        self._masks = [mask]

    def __call__(self, attn, hidden, encoder_hidden_states=None, **others) -> Tensor:
        return self._own(attn, hidden, (encoder_hidden_states, [self._tokens]), ip_adapter_masks=self._masks)


def unet_sizes():
    """Attention of Stable Diffusion XL."""
    from blipdiff_impl.ms_diffusion.config import RELEASED

    return RELEASED.unet


def random_subjects() -> Subjects:
    """Keys and values of two subjects in every layer of the released adapter."""
    strengths = torch.tensor([0.6, 0.6])
    layers = {}
    for layer in adapter_layers(unet_sizes()):
        k, v = torch.randn(2, 1, len(BOXES) * TOKENS, layer.width)
        layers[layer.key] = (k, scaled(v, strengths))
    return Subjects(layers, BOXES, strengths, TOKENS)


def host_model(device: torch.device = torch.device("cpu"), dtype: torch.dtype = torch.float32):  # noqa: B008
    """The host's MODEL with the attention of Stable Diffusion XL, random."""
    from comfy.model_patcher import ModelPatcher
    from comfy.supported_models import SDXL

    sizes = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_middle": 1,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1], "context_dim": CONTEXT, "adm_in_channels": 2816,
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False,
        "num_classes": "sequential", "use_temporal_attention": False, "use_temporal_resblock": False,
    }  # fmt: skip
    config = SDXL(sizes)
    config.unet_config |= {"num_head_channels": 64, "num_heads": -1}
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "")
    _fill(model.diffusion_model)
    _repeat(model.diffusion_model, "SpatialTransformer", "in_channels")
    return ModelPatcher(model.to(device), load_device=device, offload_device=device)


def diffusers_unet():
    """diffusers' UNet with the sizes of Stable Diffusion XL, random."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=CONTEXT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1, use_linear_projection=True, attention_head_dim=(5, 10, 20),
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    _repeat(unet, "Transformer2DModel", "in_channels")
    return unet.eval()


def _fill(module: nn.Module) -> None:
    """The host leaves its weights as the memory was."""
    for parameter in module.parameters():
        parameter.copy_(0.02 * torch.randn_like(parameter) if parameter.ndim > 1 else torch.ones_like(parameter))


def _repeat(unet: nn.Module, kind: str, width: str) -> None:
    """As many transformers at each place as Stable Diffusion XL has, all with the weights of the first."""
    depths = dict(zip(unet_sizes().widths, unet_sizes().depths, strict=True))
    for module in unet.modules():
        if type(module).__name__ == kind:
            module.transformer_blocks = nn.ModuleList([*module.transformer_blocks] * depths[getattr(module, width)])


if __name__ == "__main__":
    main()
