"""GILL with random weights: decoding on OPT-125m's shape against whole passes, the mapper against PyTorch's module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from blipdiff_impl.gill.config import GILLConfig
from blipdiff_impl.gill.decoding import decode
from blipdiff_impl.gill.decoding_settings import DecodingSettings
from blipdiff_impl.gill.language_model import LanguageModel, LanguageSizes
from blipdiff_impl.gill.mapper import GILLMapper

from .measure import compare, machine, seconds

PROMPT, WORDS, PAIRS = 64, 32, 3
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
def main() -> None:
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


if __name__ == "__main__":
    main()
