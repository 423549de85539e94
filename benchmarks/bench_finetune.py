"""Steps of fine-tuning against a plain diffusers loop with the same settings, and the time from click to first picture.

Both train the embedded model's UNet and the subject vectors, batch 3, 96x96, float32 masters, latents computed before.
Ours is the node, through the host. On a GPU the released size is measured instead, 512x512, against the goals of 25
steps per second, 5 s from click to the tuned MODEL, and 20 GB (full) or 8 GB (lora).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from blipdiff_impl.blip_diffusion.finetuning.settings import METHODS
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.prompts.tokenizers import CLIP_END, CLIP_START, clip_ids
from tools.host import find_host
from tools.inprocess import load_comfy
from tools.memory import peak_megabytes

from .measure import compare, machine
from .released import BASE, NAME, write_released_checkpoint

STEPS, BATCH, RATE, CATEGORY, PAIRS = 20, 3, 5e-6, "robot", 5
TOYBOX = "toybox (built in, toy world only)"
# What a step is made of, by the kernels that PyTorch names; the first that fits counts.
KINDS = {
    "convolutions": ("conv",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "attention": ("scaled_dot_product", "softmax"),
    "norms and activations": ("group_norm", "layer_norm", "silu", "gelu"),
    "AdamW": ("adamw", "Optimizer"),
    "is every gradient finite": ("linalg_vector_norm", "_foreach_norm"),
    "copies and number types": ("aten::copy_", "_to_copy", "aten::_foreach_copy_", "aten::clone"),
    "gathers and joins": ("aten::index", "aten::gather", "aten::embedding", "aten::cat", "aten::stack", "aten::expand"),
    "allocation": ("aten::empty", "aten::resize_", "aten::zeros"),
}


class PlainLoop:
    """What a script on diffusers and transformers does: caption with spliced vectors, noise, MSE, AdamW."""

    def __init__(self, pipeline: SubjectPipeline, vectors: torch.Tensor, latents: torch.Tensor):
        from diffusers import DDPMScheduler

        self.unet, self.text_encoder = pipeline.unet.requires_grad_(True).train(), pipeline.text_encoder
        self.vectors = torch.nn.Parameter(vectors.clone())
        self.latents = latents
        self.scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        parameters = [self.vectors, *self.unet.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
        words = clip_ids(f"a {CATEGORY}")
        self.ids = torch.tensor([[CLIP_START, words[0], *[CLIP_END] * 16, *words[1:], CLIP_END]] * BATCH)
        self.places = torch.arange(2, 18).expand(BATCH, -1)

    def steps(self, count: int) -> float:
        """Seconds per step."""
        begin = time.perf_counter()
        for _ in range(count):
            latents = self.latents[torch.randint(len(self.latents), (BATCH,))]
            noise, t = torch.randn_like(latents), torch.randint(1000, (BATCH,))
            noisy = self.scheduler.add_noise(latents, noise, t)
            context = self.text_encoder(self.ids, self.places, self.vectors.expand(BATCH, -1, -1))
            loss = F.mse_loss(self.unet(noisy, t, context).sample, noise)
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
            float(loss.detach())
        return (time.perf_counter() - begin) / count


def node_steps(
    comfy: SimpleNamespace, parts: tuple, photos: torch.Tensor, method: str, steps: int, side: int,
    on_progress: Callable[[int], None] = lambda calls: None,
) -> tuple[tuple, float, float]:  # fmt: skip
    """Run the node; what it gives, the seconds of the whole call, and per step between the first and the last.

    Args:
        on_progress: called with the number of calls so far, the first before the first step.
    """
    model, clip, vae, subject = parts
    moments: list[float] = []

    def progressed(*_, **__) -> None:
        moments.append(time.perf_counter())
        on_progress(len(moments))

    comfy.utils.set_progress_bar_global_hook(progressed)
    node = comfy.node("SubjectFinetune").PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    begin = time.perf_counter()
    result = node.execute(
        model, clip, vae, subject, photos, method, steps, RATE, BATCH, 16, 0, resolution=side, preview_every=0
    ).result
    total = time.perf_counter() - begin
    return result, total, (moments[-1] - moments[0]) / steps


def toybox(comfy: SimpleNamespace) -> None:
    """On the CPU, at the embedded model's size."""
    with torch.inference_mode():
        model, clip, vae, encoder = comfy.node("SubjectModelLoader").execute(TOYBOX, "fp32").result[:4]
        photos = torch.rand(4, 96, 96, 3)
        parts = (model, clip, vae, encoder.encode(photos, CATEGORY))
        latents = model.model.process_latent_in(vae.encode(photos)).clone()
        for method in ("full", "lora"):
            _, _, per_step = node_steps(comfy, parts, photos, method, STEPS, 96)
            print(f"{method}: {1 / per_step:.1f} steps/s, {BATCH / per_step:.1f} images/s", flush=True)
    with torch.inference_mode(False):
        loop = PlainLoop(SubjectPipeline.from_checkpoint("toybox"), parts[3].embeddings, latents.clone())

        def ours() -> float:
            with torch.inference_mode():
                return node_steps(comfy, parts, photos, "full", STEPS, 96)[2]

        compare("one step, full", ours, lambda: loop.steps(STEPS), PAIRS, "at least 1.3")
    with torch.inference_mode():
        for method in METHODS:
            print(trace(comfy, parts, photos, method), flush=True)
        click_to_picture(comfy, parts, photos, 96)
    print(f"peak memory of the process: {peak_megabytes():.0f} MB")


def trace(comfy: SimpleNamespace, parts: tuple, photos: torch.Tensor, method: str, steps: int = 5) -> str:
    """What a step of the node is made of, in shares of the processor's time."""
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU])
    first = 3  # behind the first use of every kernel

    def watch(calls: int) -> None:
        if calls == first + 1:
            profiler.start()
        elif calls == first + steps + 1:
            profiler.stop()

    node_steps(comfy, parts, photos, method, first + steps, photos.shape[1], watch)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole, shares = sum(times.values()), dict.fromkeys((*KINDS, "all else"), 0.0)
    for key, spent in times.items():
        kind = next((kind for kind, names in KINDS.items() if any(name in key for name in names)), "all else")
        shares[kind] += spent / whole
    return f"{method}, a step: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def released(comfy: SimpleNamespace) -> None:
    """On a GPU, at the released size."""
    write_released_checkpoint()
    with torch.inference_mode():
        model, clip, vae, encoder = comfy.node("SubjectModelLoader").execute(NAME, "fp16").result[:4]
        photos = torch.rand(4, 512, 512, 3)
        parts = (model, clip, vae, encoder.encode(photos, CATEGORY))
        for method, goal in (("full", 20), ("lora", 8)):
            node_steps(comfy, parts, photos, method, 5, 512)  # first use of every kernel
            torch.cuda.reset_peak_memory_stats()
            _, total, per_step = node_steps(comfy, parts, photos, method, 80, 512)
            peak = torch.cuda.max_memory_allocated() / 1e9
            print(
                f"{method}: {1 / per_step:.1f} steps/s (goal 25), {BATCH / per_step:.1f} images/s, {total:.1f} s from "
                f"click to MODEL for 80 steps (goal 5), peak {peak:.1f} GB (goal {goal})", flush=True,
            )  # fmt: skip
        click_to_picture(comfy, parts, photos, 512)


def click_to_picture(comfy: SimpleNamespace, parts: tuple, photos: torch.Tensor, side: int) -> None:
    """80 steps, then a picture of 25."""
    _, clip, vae, _ = parts
    begin = time.perf_counter()
    (tuned, subject, _), total, _ = node_steps(comfy, parts, photos, "full", 80, side)
    positive = comfy.node("SubjectPromptInfix").execute(clip, subject, "on the beach")[0]
    negative = comfy.node("CLIPTextEncode")().encode(clip, "")[0]
    empty = {"samples": torch.zeros(1, 4, side // 8, side // 8)}
    sampled = comfy.node("KSampler")().sample(tuned, 0, 25, 4.0, "euler", "normal", positive, negative, empty)[0]
    vae.decode(sampled["samples"])
    seconds = time.perf_counter() - begin
    print(f"click to first picture: {seconds:.1f} s, of it {total:.1f} s for 80 steps of full", flush=True)


def main() -> None:
    print(machine())
    if torch.cuda.is_available():
        sys.path.insert(0, str(find_host()))
        import comfy.model_management  # noqa: F401 - before load_comfy asks for the CPU, so that it takes the GPU

        released(load_comfy(BASE))
    else:
        toybox(load_comfy(BASE))


if __name__ == "__main__":
    main()
