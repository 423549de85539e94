"""A small random MS-Diffusion adapter, and files in the published layout that take no room on the disk."""

import dataclasses

import torch

from blipdiff_impl.ms_diffusion.adapter import MSAdapter
from blipdiff_impl.ms_diffusion.config import AdapterConfig, ResamplerConfig, UNetAttentionConfig
from blipdiff_impl.weights.writing import safetensors_header

# Every number differs from every other, so that a mix-up of two of them shows.
SMALL = AdapterConfig(
    resampler=ResamplerConfig(image_width=24, width=32, depth=2, heads=3, head_width=8, queries=4, feed_forward=2,
                              frequencies=3, phrase_width=20, context_width=28),
    unet=UNetAttentionConfig(widths=(16, 40, 48), depths=(0, 1, 2), middle_depth=2, transformers=1),
    dummy_tokens=0,
)  # fmt: skip


def random_adapter(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return MSAdapter(config).eval().requires_grad_(False)


def sparse_safetensors(path, shapes, dtype=torch.float16, metadata=()):
    """A file of zeros: a header, and a hole as long as the tensors."""
    layout = [(name, dtype, tuple(shape)) for name, shape in shapes.items()]
    header = safetensors_header(layout, dict(metadata))
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize)
    return path


def sparse_pickle(path, tables, dtype=torch.float32):
    """As PyTorch saves it, but with holes for the numbers: tables of shapes, or shapes, by name."""

    def made(value):
        if isinstance(value, dict):
            return {name: made(inner) for name, inner in value.items()}
        return torch.empty(value, dtype=dtype)  # never written to, so it takes no memory

    with torch.serialization.skip_data():
        torch.save(made(tables), path)
    return path


def released_tables():
    """Every tensor of the published file, table by table, as its description lists them."""
    wide = 1280
    resampler = {
        "grounding_latents": (1, 16, wide),
        "latent_proj.0.weight": (1664, 832), "latent_proj.0.bias": (1664,),
        "latent_proj.2.weight": (20480, 1664), "latent_proj.2.bias": (20480,),
        "latent_norm.weight": (wide,), "latent_norm.bias": (wide,),
        "proj_in.weight": (wide, 1664), "proj_in.bias": (wide,),
        "attention_norm.weight": (wide,), "attention_norm.bias": (wide,),
        "proj_out.weight": (2048, wide), "proj_out.bias": (2048,),
        "norm_out.weight": (2048,), "norm_out.bias": (2048,),
    }  # fmt: skip
    for i in range(4):
        for name in ("0.norm1", "0.norm2", "1.0"):
            resampler |= {f"layers.{i}.{name}.weight": (wide,), f"layers.{i}.{name}.bias": (wide,)}
        resampler |= {
            f"layers.{i}.0.to_q.weight": (wide, wide), f"layers.{i}.0.to_kv.weight": (2560, wide),
            f"layers.{i}.0.to_out.weight": (wide, wide),
            f"layers.{i}.1.1.weight": (5120, wide), f"layers.{i}.1.3.weight": (wide, 5120),
        }  # fmt: skip
    narrow = {1, 3, 5, 7, 109, 111, 113, 115, 117, 119}
    layers = {
        f"{i}.{kind}.weight": (640 if i in narrow else 1280, 2048)
        for i in range(1, 140, 2)
        for kind in ("to_k_ip", "to_v_ip")
    }
    return {"image_proj": resampler, "ms_adapter": layers, "dummy_image_tokens": (1, 4, 2048)}


def released_names():
    """The same as one table."""
    tables = released_tables()
    dummies = tables.pop("dummy_image_tokens")
    flat = {f"{table}.{name}": shape for table, shapes in tables.items() for name, shape in shapes.items()}
    return {**flat, "dummy_image_tokens": dummies}


def with_resampler(**sizes):
    """The small sizes with some of the resampler's changed."""
    return dataclasses.replace(SMALL, resampler=dataclasses.replace(SMALL.resampler, **sizes))
