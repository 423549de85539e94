"""What the pack does on a GPU at the released sizes, with random weights: `make bench DEVICE=gpu`, ten minutes at most.

Fine-tuning (512x512, batch 3, bf16), from click to the tuned MODEL and its first picture, a zero-shot picture against
diffusers' UNet, VAE and scheduler, an edit against plain sampling, and two subjects in boxes at the attention of Stable
Diffusion XL. What does not fit into the memory or the time says so, and the rest is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from blipdiff_impl.blip_diffusion.finetuning.settings import METHODS
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from tools.host import find_host
from tools.inprocess import load_comfy

from .bench_editing import Bench
from .bench_finetune import BATCH, CATEGORY, click_to_picture, node_steps
from .bench_ms_diffusion import CONTEXT, host_model, random_subjects
from .measure import compare, machine, seconds
from .released import BASE, NAME, write_released_checkpoint

LAST_START = 450.0  # seconds; no part begins later
GIGA = 1e9


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        name: of the model, as the loader lists it; `file` the same for `SubjectPipeline`.
        weights: `weight_dtype` of the loader; dtype the same for the peer.
        side: of pictures in pixels.
        tune, draw, edit, boxes: steps.
        boxes_side: of the latent that subjects are put into boxes of.
        pairs: of runs that are compared.
    """

    name: str = NAME
    file: str = str(BASE / "models" / "blipdiffusion" / NAME)
    weights: str = "fp16"
    dtype: torch.dtype = torch.float16
    device: str = "cuda"
    side: int = 512
    tune: int = 80
    draw: int = 50
    edit: int = 20
    boxes: int = 20
    boxes_side: int = 128
    pairs: int = 3


def fine_tuning(comfy: SimpleNamespace, scale: Scale) -> None:
    """Steps a second and peak memory of each method."""
    model, clip, vae, encoder = load(comfy, scale)
    photos = torch.rand(4, scale.side, scale.side, 3)
    parts = (model, clip, vae, encoder.encode(photos, CATEGORY))
    goals = {"full": ("25", "20"), "lora": ("25", "8"), "vectors": ("25", "8")}
    for method in METHODS:
        name = f"fine-tuning, {method}, {scale.side}x{scale.side}, batch {BATCH}"
        with left_out_if_too_large(comfy, name):
            node_steps(comfy, parts, photos, method, 2, scale.side)  # first use of every kernel
            forget_peak()
            _, total, step = node_steps(comfy, parts, photos, method, scale.tune, scale.side)
            speed, memory = goals[method]
            print(
                f"{name}: {1 / step:.1f} steps/s (goal {speed}), {total:.1f} s from click to MODEL for {scale.tune} "
                f"steps, peak {peak():.1f} GB (goal {memory})", flush=True,
            )  # fmt: skip
    with left_out_if_too_large(comfy, "from click to first picture"):
        click_to_picture(comfy, parts, photos, scale.side)


def zero_shot(comfy: SimpleNamespace, scale: Scale) -> None:
    """Photo and prompt to picture, the host with our nodes against `SubjectPipeline` on diffusers' parts."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    model, clip, vae, encoder = load(comfy, scale)
    peer = SubjectPipeline.from_checkpoint(scale.file, scale.device, scale.dtype)
    latent = {"samples": torch.zeros(1, 4, scale.side // 8, scale.side // 8)}

    def ours() -> None:
        subject = encoder.encode(torch.rand(1, 224, 224, 3), CATEGORY)
        positive = comfy.node("SubjectPromptInfix").execute(clip, subject, "on the beach")[0]
        negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
        sampler = comfy.node("SubjectSamplerPNDM").execute()[0]
        sigmas = comfy.node("SubjectSchedulePNDM").execute(model, scale.draw)[0]
        drawn = SamplerCustom.execute(model, True, 0, 7.5, positive, negative, sampler, sigmas, latent)
        vae.decode(drawn[0]["samples"])

    def theirs() -> None:
        subject = peer.encoder.encode(torch.rand(1, 224, 224, 3), CATEGORY)
        peer.generate(subject, "on the beach", steps=scale.draw, size=(scale.side, scale.side))

    title = f"zero-shot picture, {scale.side}x{scale.side}, {scale.draw} PNDM steps, {scale.weights}, against diffusers"
    compare(title, lambda: seconds(ours), lambda: seconds(theirs), scale.pairs, "at least 1")


def editing(comfy: SimpleNamespace, scale: Scale) -> None:
    """An edit of one picture against plain sampling of the same batch."""
    bench = Bench(comfy, load(comfy, scale), scale.side, scale.edit)
    title = f"editing, {scale.side}x{scale.side}, {scale.edit} Euler steps, {scale.weights}, against plain sampling"
    compare(title, lambda: seconds(bench.edit), lambda: seconds(bench.plain), scale.pairs, "at least 0.87")


def boxes(comfy: SimpleNamespace, scale: Scale) -> None:
    """Two subjects in boxes against plain sampling."""
    model = host_model(torch.device(scale.device), scale.dtype)
    with_two = model.clone()
    comfy.module("nodes.host.ms_diffusion.run").SubjectsInRuns(random_subjects()).install(with_two)
    prompt = [[torch.randn(1, 77, CONTEXT), {"pooled_output": torch.randn(1, 1280)}]]
    latent = {"samples": torch.zeros(1, 4, scale.boxes_side, scale.boxes_side)}

    def sample(each) -> float:
        arguments = (0, scale.boxes, 7.5, "euler", "normal", prompt, prompt, latent)
        return seconds(lambda: comfy.nodes.common_ksampler(each, *arguments))

    side = 8 * scale.boxes_side
    title = f"two subjects in boxes, {side}x{side}, {scale.boxes} steps, {scale.weights}, against plain sampling"
    compare(title, lambda: sample(with_two), lambda: sample(model), scale.pairs, "at least 0.91")


PARTS: tuple[Callable[[SimpleNamespace, Scale], None], ...] = (fine_tuning, zero_shot, editing, boxes)


def run(comfy: SimpleNamespace, scale: Scale, began: float, parts=PARTS) -> None:
    """All parts that fit, one after the other; `began` is of `time.monotonic()`."""
    for part in parts:
        name = part.__name__.replace("_", " ")
        if time.monotonic() - began > LAST_START:
            print(f"{name}: left out, the time was over", flush=True)
            continue
        with left_out_if_too_large(comfy, name), torch.inference_mode():
            part(comfy, scale)
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


@contextmanager
def left_out_if_too_large(comfy: SimpleNamespace, name: str) -> Generator[None, None, None]:
    """Say so where the block does not fit: PyTorch's error, or what the pack, as the host loaded it, makes of that."""
    try:
        yield
    except (torch.OutOfMemoryError, comfy.module("blipdiff_impl.errors").OutOfMemory):
        print(f"{name}: left out, it needs more memory than this GPU has free", flush=True)


def load(comfy: SimpleNamespace, scale: Scale) -> tuple:
    """MODEL, CLIP, VAE and SUBJECT_ENCODER."""
    return comfy.node("SubjectModelLoader").execute(scale.name, scale.weights).result[:4]


def forget_peak() -> None:
    """Measure the peak from now on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """The most that tensors have taken, in GB."""
    return torch.cuda.max_memory_allocated() / GIGA if torch.cuda.is_available() else 0.0


def main() -> None:
    """On the first GPU."""
    began = time.monotonic()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here.")
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, {properties.total_memory / GIGA:.0f} GB, CUDA {torch.version.cuda}; {machine()}")
    sys.path.insert(0, str(find_host()))
    import comfy.model_management  # noqa: F401 - before load_comfy asks for the CPU, so that it takes the GPU

    write_released_checkpoint()
    run(load_comfy(BASE), Scale(), began)


if __name__ == "__main__":
    main()
