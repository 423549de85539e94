"""Names and shapes of the layers that every component is made of."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def under(prefix: str, shapes: Shapes) -> Shapes:
    """The same tensors one module deeper."""
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    """A fully connected layer."""
    return {f"{name}.weight": (outputs, inputs), **({f"{name}.bias": (outputs,)} if bias else {})}


def conv(name: str, outputs: int, inputs: int, side: int) -> Shapes:
    """A convolution with a square kernel."""
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def norm(name: str, width: int) -> Shapes:
    """A layer or group normalisation with weight and bias."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resnet(inputs: int, outputs: int, time_width: int | None = None) -> Shapes:
    """A residual block; `time_width` is that of the timestep embedding, None where there is no time (VAE)."""
    shapes = {**norm("norm1", inputs), **conv("conv1", outputs, inputs, 3)}
    if time_width is not None:
        shapes |= linear("time_emb_proj", outputs, time_width)
    shapes |= {**norm("norm2", outputs), **conv("conv2", outputs, outputs, 3)}
    return shapes if inputs == outputs else {**shapes, **conv("conv_shortcut", outputs, inputs, 1)}
