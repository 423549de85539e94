"""GILL with random weights: decoding on OPT-125m's shape against whole passes, the mapper against PyTorch's module; and
memory while the built-in models draw, after a reply of GILL and after a plain text.

Memory is that of a fresh process on the CPU, where a model that has left its device still lies in the same memory: what
is compared is the peak in sampling alone, which the built-in GILL (3.9 million numbers) adds to, and how far that is
above what was resident before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import torch

from blipdiff_impl.gill.config import GILLConfig
from blipdiff_impl.gill.decoding import decode
from blipdiff_impl.gill.decoding_settings import DecodingSettings
from blipdiff_impl.gill.language_model import LanguageModel, LanguageSizes
from blipdiff_impl.gill.mapper import GILLMapper
from tools.memory import forget_peak, peak_megabytes

from .measure import compare, machine, seconds
from .released import host_with_pytorch_attention

PROMPT, WORDS, PAIRS = 64, 32, 3
PICTURES, SIDE, STEPS, GUIDANCE, TEXT = 2, 384, 2, 4.0, "a cat in the snow"
NEVER = -1  # a token that is never chosen: no reply ends early


def opt_125m() -> LanguageModel:
    """The structure of facebook/opt-125m around random weights."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(vocab_size=50274, hidden_size=768, num_hidden_layers=12, ffn_dim=3072, num_attention_heads=12,
                       max_position_embeddings=2048, word_embed_proj_dim=768)  # fmt: skip
    network = OPTForCausalLM(config).eval().requires_grad_(False)
    tokenizer: Any = SimpleNamespace(newline=NEVER, size=50265)
    return LanguageModel(network, tokenizer, LanguageSizes(768, 2048, 12, 2, NEVER))


@torch.inference_mode()
def whole_passes(model: LanguageModel, prompt: torch.Tensor, image_tokens: tuple[int, ...]) -> list[int]:
    """As published: the whole sequence again for each word."""
    sequence, ids = prompt, []
    for _ in range(WORDS):
        logits = model.network(inputs_embeds=sequence, use_cache=False).logits[0, -1].clone()
        logits[list(image_tokens)] = -torch.inf
        ids.append(int(logits.argmax()))
        sequence = torch.cat([sequence, model.embed(ids[-1:])], 1)
    return ids


@torch.inference_mode()
def memory_while_drawing(with_gill: bool) -> tuple[float, float]:
    """What is resident before KSampler and at most in it, in MB, with the built-in models."""
    comfy = host_with_pytorch_attention()
    toybox = comfy.module("nodes.host.folders").TOYBOX
    model, clip, *_ = comfy.node("SubjectModelLoader").execute(toybox, "fp32").result
    encode = comfy.node("CLIPTextEncode")().encode
    positive, negative = (encode(clip, text)[0] for text in (TEXT, ""))
    if with_gill:
        names = comfy.module("nodes.host.gill.model_folder")
        (gill,) = comfy.node("GILLLoader").execute(names.TOY, names.OWN, "fp32").result
        (prompt,) = comfy.node("GILLPrompt").execute(TEXT).result
        positive = comfy.node("GILLGenerate").execute(gill, prompt, clip=clip, model=model).result[0]
    latent = {"samples": torch.zeros(PICTURES, 4, SIDE // 8, SIDE // 8)}
    forget_peak()
    before = peak_megabytes()
    comfy.nodes.common_ksampler(model, 0, STEPS, GUIDANCE, "euler", "normal", positive, negative, latent)
    return before, peak_megabytes()


def compare_memory() -> None:
    """Both ways in processes of their own."""
    found = {}
    for name in ("reply", "plain"):
        command = [sys.executable, "-m", "benchmarks.bench_gill", name]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        found[name] = json.loads(lines[-1])
    (before, peak), (plain_before, plain_peak) = found["reply"], found["plain"]
    print(
        f"peak memory while {PICTURES} pictures of {SIDE}x{SIDE} are drawn: after a reply of GILL {peak:.0f} MB, after "
        f"a plain text {plain_peak:.0f} MB, ratio {peak / plain_peak:.3f}; above what was resident before "
        f"{peak - before:.0f} MB and {plain_peak - plain_before:.0f} MB, ratio "
        f"{(peak - before) / (plain_peak - plain_before):.3f} (goal at most 1)"
    )


@torch.inference_mode()
def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(memory_while_drawing(sys.argv[1] == "reply")))
        return
    print(machine())
    model, image_tokens = opt_125m(), GILLConfig().image_tokens
    prompt = model.embed([2, *torch.randint(4, 50265, (PROMPT - 1,)).tolist()])
    settings = DecodingSettings(mode="text only", max_new_tokens=WORDS)
    found = list(decode(model, prompt, settings, image_tokens).ids)
    print(f"same {WORDS} tokens: {found == whole_passes(model, prompt, image_tokens)}")
    compare(
        f"{WORDS} words after {PROMPT} positions, OPT-125m's shape, against whole passes",
        lambda: seconds(lambda: decode(model, prompt, settings, image_tokens)),
        lambda: seconds(lambda: whole_passes(model, prompt, image_tokens)),
        PAIRS,
        "at least 3",
    )
    config = GILLConfig()
    mapper = GILLMapper(config.mapper, config.language_width).eval()
    plain = torch.nn.Transformer(512, 4, 4, 4, 2048, dropout=0.0, norm_first=True, batch_first=True).eval()
    states, rows = torch.randn(1, 8, 4096), torch.randn(8, 4096)
    queries = mapper.query_embs.expand(1, -1, -1)
    compare(
        "mapper at released size, against PyTorch's Transformer alone",
        lambda: seconds(lambda: mapper(states, rows)),
        lambda: seconds(lambda: mapper.model(plain(mapper.fc(states + rows), queries))),
        21,
        "1.0",
    )
    compare_memory()


if __name__ == "__main__":
    main()
