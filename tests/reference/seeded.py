"""Random weights that two processes make alike: each tensor depends on its name and shape only.

Fan-in scaling keeps the activations of a network of any depth in the range that trained weights give.
"""

import zlib

import torch


def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Float32 weights for the tensor `name`, rounded to bfloat16 so that a file may hold them in 16 bit."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.empty(shape).normal_(generator=generator)
    if len(shape) >= 2 and "embed" not in name and "query_tokens" not in name:
        values = noise * (noise[0].numel() ** -0.5)
    elif name.endswith("weight") and len(shape) == 1:
        values = 1 + 0.1 * noise
    else:
        values = 0.05 * noise
    return values.to(torch.bfloat16).float()


def seeded_like(shapes: dict[str, tuple[int, ...]], prefix: str) -> dict[str, torch.Tensor]:
    """Weights for every name; `prefix` keeps components with equal names apart."""
    return {name: seeded(f"{prefix}.{name}", tuple(shape)) for name, shape in shapes.items()}


def fill(module: torch.nn.Module, prefix: str) -> None:
    """Put seeded weights into a module whose own names are the canonical ones; integer buffers stay."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(seeded(f"{prefix}.{name}", tuple(tensor.shape)))
