"""diffusers' own BLIP-Diffusion classes, run in a process of their own with the libraries of their time.

    python -m tests.reference.blip_reference JOB INPUT.safetensors OUTPUT.safetensors

with the reference folder first on PYTHONPATH. Weights come from `seeded`, tensors travel as safetensors, texts in the
input's metadata. After the job it reads lines from standard input: each asks for one more run, and is answered with its
seconds and the process's peak memory in megabytes.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.blip_diffusion.blip_image_processing import BlipImageProcessor
from diffusers.pipelines.blip_diffusion.modeling_blip2 import Blip2QFormerModel
from diffusers.pipelines.blip_diffusion.modeling_ctx_clip import ContextCLIPTextModel
from diffusers.pipelines.blip_diffusion.pipeline_blip_diffusion import BlipDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Blip2Config, CLIPTextConfig, CLIPTokenizer

from blipdiff_impl.blip_diffusion.config import RELEASED
from blipdiff_impl.prompts.tokenizers import DATA, _clip_bpe
from tools.memory import peak_megabytes

from .seeded import fill

Job = Callable[[], dict[str, torch.Tensor]]


def subject_encoder() -> Blip2QFormerModel:
    """Image tower, Q-Former and projection at released size; the eps the converter forgot is set (1e-5)."""
    tower, queries = RELEASED.image_tower, RELEASED.qformer
    vocabulary = Path(tempfile.mkdtemp()) / "vocab.txt"
    vocabulary.write_bytes((DATA / "bert_uncased_vocab.txt").read_bytes())
    config = Blip2Config(
        vision_config={
            "hidden_act": "quick_gelu",
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_hidden_layers": tower.num_hidden_layers,
            "num_attention_heads": tower.num_attention_heads,
            "layer_norm_eps": tower.layer_norm_eps,
        },
        qformer_config={
            "cross_attention_frequency": 1,
            "encoder_hidden_size": tower.hidden_size,
            "vocab_size": queries.vocab_size,
        },
        num_query_tokens=queries.num_query_tokens,
        tokenizer=str(vocabulary.parent),
    )
    with torch.device("meta"):
        model = Blip2QFormerModel(config)
    return _materialise(model, "subject_encoder")


def text_encoder() -> ContextCLIPTextModel:
    """The context text encoder at released size."""
    with torch.device("meta"):
        model = ContextCLIPTextModel(CLIPTextConfig(**RELEASED.text_encoder.to_transformers()))
    return _materialise(model, "text_encoder")


def _materialise(model: torch.nn.Module, prefix: str) -> torch.nn.Module:
    """Real memory for a model built on the meta device, seeded weights, position buffers counted again."""
    model.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    fill(model, prefix)
    return model.eval()


def clip_tokenizer() -> CLIPTokenizer:
    folder = Path(tempfile.mkdtemp())
    _clip_bpe().model.save(str(folder))
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def run_subject(tensors: dict, texts: dict) -> Job:
    """Image tower rows, Q-Former rows and subject vectors of normalised pixels."""
    model = subject_encoder()

    def job() -> dict:
        caught = {}
        hooks = [
            model.visual_encoder.register_forward_hook(lambda m, i, o: caught.update(tower=o.last_hidden_state)),
            model.proj_layer.register_forward_hook(lambda m, i, o: caught.update(queries=i[0])),
        ]
        vectors = model(image_input=tensors["pixels"], text_input=[texts["category"]], return_dict=False)
        for hook in hooks:
            hook.remove()
        return {**caught, "vectors": vectors}

    return job


def run_text(tensors: dict, texts: dict) -> Job:
    """The context of a prompt with subject vectors, and of the empty prompt."""
    pipeline = _pipeline(unet=None, vae=None, qformer=_QueryCount())

    def job() -> dict:
        prompt = pipeline._build_prompt([texts["prompt"]], [texts["category"]])
        context = pipeline.encode_prompt(tensors["vectors"], prompt, "cpu")
        ids = pipeline.tokenizer([""], padding="max_length", max_length=77, return_tensors="pt").input_ids
        return {"context": context, "empty": pipeline.text_encoder(input_ids=ids, ctx_embeddings=None)[0]}

    return job


class _QueryCount(torch.nn.Module):
    """Stands where the pipeline asks its Q-Former for the number of queries."""

    config = type("Config", (), {"num_query_tokens": RELEASED.qformer.num_query_tokens})


def run_generate(tensors: dict, texts: dict) -> Job:
    """Latents of the whole pipeline from given noise; `decode` in the texts also runs the VAE."""
    pipeline = _pipeline(_component(UNet2DConditionModel, "unet"), _component(AutoencoderKL, "vae"), subject_encoder())
    decode = texts.get("decode") == "yes"
    if not decode:
        pipeline.vae.decode = lambda latents, return_dict: (latents * pipeline.vae.config.scaling_factor,)
        pipeline.image_processor.postprocess = lambda image, output_type: image
    height, width = (8 * side for side in tensors["noise"].shape[-2:])
    pipeline.get_query_embeddings = lambda image, category: pipeline.qformer(
        image_input=tensors["pixels"], text_input=category, return_dict=False
    )
    pipeline.set_progress_bar_config(disable=True)

    def job() -> dict:
        output = pipeline(
            [texts["prompt"]],
            _blank(),
            [texts["category"]],
            [texts["category"]],
            latents=tensors["noise"],
            guidance_scale=float(texts["guidance"]),
            num_inference_steps=int(texts["steps"]),
            height=height,
            width=width,
            output_type="pt",
            return_dict=False,
        )[0]
        return {"images" if decode else "latents": output}

    return job


def _component(kind: type, name: str) -> torch.nn.Module:
    with torch.device("meta"):
        model = kind(**getattr(RELEASED, name).to_diffusers())
    return _materialise(model, name)


def _pipeline(unet, vae, qformer) -> BlipDiffusionPipeline:
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, skip_prk_steps=True
    )
    parts = (clip_tokenizer(), text_encoder(), vae, unet, scheduler, qformer, BlipImageProcessor())
    return BlipDiffusionPipeline(*parts, mean=[0.48, 0.46, 0.41], std=[0.27, 0.26, 0.28])


def _blank():
    """A reference picture that is preprocessed and then not looked at: normalised pixels are given."""
    from PIL import Image

    return Image.new("RGB", (32, 32))


JOBS = {"subject": run_subject, "text": run_text, "generate": run_generate}


def main() -> None:
    job_name, source, destination = sys.argv[1:]
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        texts = file.metadata() or {}
    with torch.no_grad():
        job = JOBS[job_name](tensors, texts)
        results = job()
        save_file({name: tensor.contiguous().float() for name, tensor in results.items()}, destination)
        answer("ready")
        for _ in sys.stdin:
            start = time.perf_counter()
            job()
            seconds = time.perf_counter() - start
            answer(f"{seconds} {peak_megabytes()}")


def answer(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
