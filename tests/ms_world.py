"""A small model of Stable Diffusion XL's structure with random weights, whole in the host: MODEL, CLIP, CLIP_VISION and
an adapter that fits; and the libraries' own modules with the same weights, for a second opinion."""

import torch

from blipdiff_impl.ms_diffusion.adapter import MSAdapter
from blipdiff_impl.ms_diffusion.config import AdapterConfig, ResamplerConfig, UNetAttentionConfig

WIDTHS, DEPTHS = (32, 64, 128), (0, 1, 2)
TEXT_L, TEXT_G, HEAD = 32, 64, 16
CONTEXT, POOLED = TEXT_L + TEXT_G, TEXT_G
IMAGE_WIDTH, IMAGE_SIDE = 48, 32
LAYERS = 17

CONFIG = AdapterConfig(
    resampler=ResamplerConfig(
        image_width=IMAGE_WIDTH, width=32, depth=2, heads=2, head_width=16, queries=4, feed_forward=2, frequencies=8,
        phrase_width=TEXT_L, context_width=CONTEXT,
    ),
    unet=UNetAttentionConfig(widths=WIDTHS, depths=DEPTHS, middle_depth=2, transformers=2),
    dummy_tokens=0,
)  # fmt: skip

VISION = {
    "hidden_size": IMAGE_WIDTH, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 3,
    "hidden_act": "gelu", "image_size": IMAGE_SIDE, "patch_size": 8, "num_channels": 3, "projection_dim": 24,
    "layer_norm_eps": 1e-5,
}  # fmt: skip


def text_config(width, act):
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 3, "num_attention_heads": 2,
        "hidden_act": act, "max_position_embeddings": 77,
    }  # fmt: skip


def shaken(module, seed):
    """Random weights with no zero anywhere, and no two layers alike."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        spread = torch.randn(parameter.shape, generator=generator)
        # norms around 1; matrices so that signals keep their size
        scale = 0.1 if parameter.ndim < 2 else 0.8 / parameter[0].numel() ** 0.5
        parameter.data = scale * spread + (1.0 if parameter.ndim == 1 and float(parameter.data.mean()) == 1 else 0.0)
    return module.eval().requires_grad_(False)


def diffusers_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return shaken(
        UNet2DConditionModel(
            sample_size=16, block_out_channels=WIDTHS, layers_per_block=2, cross_attention_dim=CONTEXT,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, *DEPTHS[1:]), use_linear_projection=True,
            attention_head_dim=tuple(width // HEAD for width in WIDTHS),
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=POOLED + 6 * 256,
        ),
        seed=1,
    )  # fmt: skip


def transformers_vision():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return shaken(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)), seed=2)


def random_adapter(config=CONFIG, seed=3):
    torch.manual_seed(seed)
    return MSAdapter(config).eval().requires_grad_(False)


def host_clip():
    """A small CLIP of Stable Diffusion XL in the host, random weights."""
    import comfy.sd
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    clip = comfy.sd.CLIP(
        ClipTarget(SDXLTokenizer, SDXLClipModel),
        embedding_directory=None,
        model_options={
            "clip_l_model_config": text_config(TEXT_L, "quick_gelu"),
            "clip_g_model_config": text_config(TEXT_G, "gelu"),
            "dtype": torch.float32,
        },
    )
    shaken(clip.cond_stage_model, seed=4)
    return clip


class World:
    """Everything that an artist connects, and the nodes as functions."""

    def __init__(self, comfy):
        self.comfy, self._known = comfy, {}
        self.unet, self.vision, self.adapter = diffusers_unet(), transformers_vision(), random_adapter()
        with torch.inference_mode():
            self.model, self.clip = self.host_model(), host_clip()
            self.clip_vision = self.host_vision(VISION, self.vision)
            self.ms_adapter = self.host_adapter()

    def host_model(self):
        from comfy.model_patcher import ModelPatcher
        from comfy.supported_models import SDXL
        from comfy.utils import unet_to_diffusers

        down, up = [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2]
        config = SDXL(
            {
                "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": WIDTHS[0],
                "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2], "transformer_depth": down,
                "transformer_depth_middle": 2, "transformer_depth_output": up, "context_dim": CONTEXT,
                "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False,
                "adm_in_channels": POOLED + 6 * 256, "num_classes": "sequential",
                "use_temporal_attention": False, "use_temporal_resblock": False,
            }
        )  # fmt: skip
        config.unet_config["num_head_channels"], config.unet_config["num_heads"] = HEAD, -1
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        names = unet_to_diffusers(config.unet_config)
        weights = {names.get(name, name): tensor for name, tensor in self.unet.state_dict().items()}
        model.diffusion_model.load_state_dict(weights)
        cpu = torch.device("cpu")
        return ModelPatcher(model, load_device=cpu, offload_device=cpu)

    def host_vision(self, config, vision):
        loaded = self.comfy.module("nodes.host.clip_vision").clip_vision_of(
            {**config, "model_type": "clip_vision_model"}
        )
        if vision is not None:
            weights = {name: tensor.clone() for name, tensor in vision.state_dict().items()}
            missing, unexpected = loaded.load_sd(weights)
            assert not missing and set(unexpected) <= {"vision_model.embeddings.position_ids"}
        else:
            shaken(loaded.model, seed=5)
        return loaded

    def host_adapter(self, config=CONFIG):
        """An MS_ADAPTER, of the pack's own classes."""
        module = self.comfy.module("blipdiff_impl.ms_diffusion.adapter")
        sizes = self.comfy.module("blipdiff_impl.ms_diffusion.config").AdapterConfig.from_json(config.to_json())
        adapter = module.MSAdapter.from_tensors(sizes, random_adapter(config).state_dict())
        return self.comfy.module("nodes.host.ms_diffusion.adapter").HostAdapter(adapter)

    def once(self, key, make):
        """What `make` gives, made at its first use."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @torch.inference_mode()
    def text(self, words):
        return self.comfy.node("CLIPTextEncode")().encode(self.clip, words)[0]

    @torch.inference_mode()
    def subject(self, phrase="dog", box=(0.0, 0.25, 0.5, 0.75), strength=1.0, photo=None, **more):
        """A box of four numbers, or in a form of the host."""
        photo = picture(len(phrase)) if photo is None else photo
        if not isinstance(box, tuple):
            more["box"], box = box, (0.0, 0.0, 0.1, 0.1)
        return self.comfy.node("MSDiffusionSubject").execute(photo, phrase, *box, strength, **more)[0]

    def two(self, first=(0.0, 0.25, 0.5, 0.75), second=(0.5, 0.0, 1.0, 0.5), strengths=(1.0, 1.0)):
        dog = self.subject("dog", first, strengths[0])
        return self.subject("tea pot", second, strengths[1], previous=dog)

    @torch.inference_mode()
    def apply(self, subjects, model=None, scale=1.0, start=0.0, end=1.0, grounding=True, auto_layout=False, **more):
        """MODEL and the IMAGE of boxes."""
        given = {"clip": self.clip, "clip_vision": self.clip_vision, "ms_adapter": self.ms_adapter}
        given |= {name: more.pop(name) for name in list(more) if name in given}
        return self.comfy.node("MSDiffusionApply").execute(
            model=model or self.model, **given, subjects=subjects, scale=scale, start_percent=start, end_percent=end,
            grounding=grounding, auto_layout=auto_layout, **more,
        ).result  # fmt: skip

    @torch.inference_mode()
    def sample(self, model, positive="a dog and a tea pot", negative="bad", size=(16, 16), cfg=4.0, steps=2, count=1,
               sampler="euler", seed=6):  # fmt: skip
        positive, negative = (self.text(each) if isinstance(each, str) else each for each in (positive, negative))
        latent = {"samples": torch.zeros(count, 4, *size), "batch_index": [0] * count}
        arguments = (seed, steps, cfg, sampler, "normal", positive, negative, latent)
        return self.comfy.nodes.common_ksampler(model, *arguments)[0]["samples"]


def picture(seed=0, size=(40, 40)):
    return torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(seed))


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


_WORLDS = {}


def the_world(comfy):
    """One for all files of tests that run in a process."""
    if "one" not in _WORLDS:
        _WORLDS["one"] = World(comfy)
    return _WORLDS["one"]
