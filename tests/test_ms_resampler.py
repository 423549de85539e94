"""The grounding resampler against diffusers' IP-Adapter Plus projection, which has the same stack without grounding."""

import math

import pytest
import torch
from ms_fixtures import SMALL, random_adapter, released_tables

from blipdiff_impl.ms_diffusion.config import ResamplerConfig
from blipdiff_impl.ms_diffusion.resampler import GroundingResampler, fourier_features

BOXES = torch.tensor([[0.0, 0.25, 0.4, 0.75], [0.6, 0.1, 1.0, 0.93], [0.25, 0.25, 0.75, 0.75]])

# Of one block: our name, diffusers'.
RENAMED = {
    "0.norm1.": "ln0.", "0.norm2.": "ln1.", "0.to_q.": "attn.to_q.", "0.to_out.": "attn.to_out.0.", "1.0.": "ff.0.",
    "1.1.": "ff.1.net.0.proj.", "1.3.": "ff.1.net.2.",
}  # fmt: skip


def other_projection(state, latents, sizes):
    """diffusers' class with our weights under its names: it has no norm in front of proj_out, so that gets one."""
    from diffusers.models.embeddings import IPAdapterPlusImageProjection
    from torch import nn

    with torch.device("meta"):
        other = IPAdapterPlusImageProjection(
            sizes.image_width, sizes.context_width, sizes.width, sizes.depth, sizes.head_width, sizes.heads,
            sizes.queries, sizes.feed_forward,
        )  # fmt: skip
        other.proj_out = nn.Sequential(nn.LayerNorm(sizes.width), other.proj_out)
    names = {"latents": latents}
    for name, value in state.items():
        layer, _, rest = name.removeprefix("layers.").partition(".")
        if not name.startswith("layers."):
            names[name.replace("proj_out.", "proj_out.1.").replace("attention_norm.", "proj_out.0.")] = value
        elif rest == "0.to_kv.weight":
            names[f"layers.{layer}.attn.to_k.weight"], names[f"layers.{layer}.attn.to_v.weight"] = value.chunk(2)
        else:
            ours = next(part for part in RENAMED if rest.startswith(part))
            names[f"layers.{layer}.{RENAMED[ours]}{rest.removeprefix(ours)}"] = value
    names = {name: value for name, value in names.items() if not name.startswith(("grounding_latents", "latent_"))}
    other.load_state_dict(names, strict=True, assign=True)
    return other


def grounded_by_hand(state, phrase, box, sizes):
    """Queries of one subject, number by number."""
    waves = []
    for k in range(sizes.frequencies):
        frequency = 100 ** (k / sizes.frequencies)
        waves += [math.sin(frequency * edge) for edge in box] + [math.cos(frequency * edge) for edge in box]
    x = torch.cat([phrase, torch.tensor(waves)])
    x = state["latent_proj.0.weight"] @ x + state["latent_proj.0.bias"]
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    x = (state["latent_proj.2.weight"] @ x + state["latent_proj.2.bias"]).reshape(sizes.queries, sizes.width)
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * state["latent_norm.weight"] + state["latent_norm.bias"]


@torch.no_grad()
def compare(sizes, subjects):
    torch.manual_seed(1)
    ours = GroundingResampler(sizes)
    for name, parameter in ours.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    state = {name: value.detach() for name, value in ours.state_dict().items()}
    features, phrases = torch.randn(subjects, 257, sizes.image_width), torch.randn(subjects, sizes.phrase_width)
    boxes, dropped = BOXES[:subjects], torch.tensor([False, True, False])[:subjects]
    found = ours(features, phrases, boxes, dropped)
    for number in range(subjects):
        queries = grounded_by_hand(state, phrases[number], boxes[number].tolist(), sizes)
        latents = state["grounding_latents"] if dropped[number] else queries[None]
        expected = other_projection(state, latents, sizes)(features[number : number + 1])[0]
        assert (found[number] - expected).abs().max() < 1e-5
    return found


def test_parity_at_the_released_sizes():
    assert compare(ResamplerConfig(), 2).shape == (2, 16, 2048)


def test_parity_at_sizes_that_all_differ():
    sizes = ResamplerConfig(image_width=40, width=48, depth=3, heads=5, head_width=16, queries=7, feed_forward=3,
                            frequencies=6, phrase_width=20, context_width=36)  # fmt: skip
    assert compare(sizes, 3).shape == (3, 7, 36)


def test_names_and_numbers_of_the_release():
    with torch.device("meta"):
        resampler = GroundingResampler(ResamplerConfig())
    assert {name: tuple(value.shape) for name, value in resampler.state_dict().items()} == released_tables()[
        "image_proj"
    ]
    assert sum(parameter.numel() for parameter in resampler.parameters()) == 118_943_616


def test_order_and_frequencies_of_a_box():
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])
    features = fourier_features(box, 8)
    frequencies = [1, 1.778279, 3.162278, 5.623413, 10, 17.782794, 31.622777, 56.234133]
    for k, frequency in enumerate(frequencies):
        for c in range(4):
            assert float(features[8 * k + c]) == pytest.approx(math.sin(frequency * box[c]), abs=1e-5)
            assert float(features[8 * k + 4 + c]) == pytest.approx(math.cos(frequency * box[c]), abs=1e-5)
    assert fourier_features(box.half(), 8).dtype == torch.float32


def test_subjects_do_not_see_each_other():
    resampler = random_adapter().image_proj
    sizes = SMALL.resampler
    features, phrases = torch.randn(3, 9, sizes.image_width), torch.randn(3, sizes.phrase_width)
    together = resampler(features, phrases, BOXES)
    alone = torch.cat([resampler(features[i : i + 1], phrases[i : i + 1], BOXES[i : i + 1]) for i in range(3)])
    assert (together - alone).abs().max() < 1e-6


def test_phrase_and_box_matter_only_with_grounding():
    resampler = random_adapter().image_proj
    features, phrases = torch.randn(2, 9, SMALL.resampler.image_width), torch.randn(2, SMALL.resampler.phrase_width)
    dropped = torch.tensor([True, False])
    first = resampler(features, phrases, BOXES[:2], dropped)
    for other in (
        resampler(features, phrases + 1, BOXES[:2], dropped),
        resampler(features, phrases, BOXES[1:], dropped),
    ):
        assert torch.equal(other[0], first[0]) and (other[1] - first[1]).abs().max() > 1e-3
