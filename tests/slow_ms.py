"""MS-Diffusion the slow and obvious way, on diffusers' UNet: explicit probabilities, a loop over the places of a layer,
Euler steps by hand. Nothing here comes from the pack but the random weights."""

from contextlib import contextmanager
from fractions import Fraction
from math import ceil, floor

import torch

ADVICE = 100.0  # where the frequencies of a box would end


def softmax_attention(q, k, v, heads):
    """`[B, n, heads * dim]` each, and the probabilities `[B, heads, n, keys]`."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    probs = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    return (probs @ v).transpose(1, 2).flatten(2), probs


def covers(box, row, column, height, width):
    x1, y1, x2, y2 = (Fraction(str(edge)) for edge in box)
    return floor(x1 * width) <= column < ceil(x2 * width) and floor(y1 * height) <= row < ceil(y2 * height)


def sines_and_cosines(box):
    found = []
    for k in range(8):
        angles = torch.tensor([ADVICE ** (k / 8) * edge for edge in box])
        found += [angles.sin(), angles.cos()]
    return torch.cat(found)


class SlowSubjects:
    """Tokens of the subjects, and what is asked of them.

    Args:
        adapter: whose weights are used.
        features, phrases: of the libraries' own encoders, a row for each subject.
        columns: of each phrase in the prompt, for auto layout.
        first: the evaluation from which on it holds.
    """

    def __init__(self, adapter, features, phrases, boxes, strengths, columns=None, first=5):
        self.first = first
        self.weights, self.boxes, self.strengths, self.columns = adapter.state_dict(), boxes, strengths, columns
        resampler = adapter.image_proj
        self.tokens = []
        for picture, phrase, box in zip(features, phrases, boxes, strict=True):
            grounding = torch.cat([phrase, sines_and_cosines(box)])
            queries = resampler.latent_norm(resampler.latent_proj(grounding).view(1, 4, 32))
            x = resampler.proj_in(picture[None])
            for attention, feed_forward in resampler.layers:
                own = attention.norm2(queries)
                k, v = attention.to_kv(torch.cat([attention.norm1(x), own], dim=1)).split(32, dim=-1)
                queries = queries + attention.to_out(softmax_attention(attention.to_q(own), k, v, 2)[0])
                queries = queries + feed_forward(queries)
            self.tokens.append(resampler.norm_out(resampler.proj_out(resampler.attention_norm(queries)))[0])
        self.maps = {}


class SlowLayer:
    """diffusers' processor of the attention layer with this number among all."""

    def __init__(self, number, subjects, grids):
        self.number, self.subjects, self.grids = number, subjects, grids

    def __call__(self, attn, hidden, encoder_hidden_states=None, attention_mask=None, **others):
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden
        q = attn.to_q(hidden)
        out, probs = softmax_attention(q, attn.to_k(context), attn.to_v(context), attn.heads)
        if is_cross and self.subjects is not None:
            out = out.clone()
            for row in range(len(q) // 2, len(q)):  # the negative prompt comes first
                out[row] += self.image(attn, q[row], probs[row], row)
        return attn.to_out[0](out)

    def image(self, attn, q, probs, row):
        asked = self.subjects
        keys = [tokens @ asked.weights[f"ms_adapter.{self.number}.to_k_ip.weight"].T for tokens in asked.tokens]
        values = [
            strength * tokens @ asked.weights[f"ms_adapter.{self.number}.to_v_ip.weight"].T
            for strength, tokens in zip(asked.strengths, asked.tokens, strict=True)
        ]
        seen = self.seen(probs, row)
        found = torch.zeros_like(q)
        for place in range(len(q)):
            who = [number for number in range(len(asked.boxes)) if seen[number][place]]
            if who:
                k, v = (torch.cat([each[number] for number in who])[None] for each in (keys, values))
                found[place] = softmax_attention(q[None, place : place + 1], k, v, attn.heads)[0][0, 0]
        return found

    def seen(self, probs, row):
        height, width = self.grids[-1]
        asked = self.subjects
        by_boxes = [
            [covers(box, place // width, place % width, height, width) for place in range(height * width)]
            for box in asked.boxes
        ]
        if asked.columns is None:
            return by_boxes
        maps = asked.maps.setdefault((self.number, row), [])
        maps.append([probs[:, :, list(columns)].mean(dim=(0, 2)) for columns in asked.columns])
        if len(maps) < asked.first:
            return by_boxes
        found = []
        for number in range(len(asked.boxes)):
            mean = sum(each[number] for each in maps) / len(maps)
            found.append(((mean - mean.min()) / (mean.max() - mean.min() + 1e-5) > 0.5).tolist())
        return found


@contextmanager
def slow_layers(unet, subjects):
    """The UNet with slow layers, for a while."""
    grids, hooks = [], []
    for module in unet.modules():
        if type(module).__name__ == "Transformer2DModel":
            hooks.append(module.register_forward_pre_hook(lambda _, args: grids.append(args[0].shape[-2:])))
    before = dict(unet.attn_processors)
    unet.set_attn_processor({name: SlowLayer(number, subjects, grids) for number, name in enumerate(before)})
    try:
        yield unet
    finally:
        unet.set_attn_processor(before)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def slow_latents(unet, subjects, noise, sigmas, positive, negative, cfg, scale_factor):
    """Euler from this noise along these levels, as samplers give latents.

    Args:
        positive, negative: text `[1, tokens, width]` and pooled `[1, width]`.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    levels = ((1 - alphas) / alphas).sqrt()
    count, (height, width) = len(noise), (8 * side for side in noise.shape[-2:])
    text = torch.cat([negative[0].expand(count, -1, -1), positive[0].expand(count, -1, -1)])
    pooled = torch.cat([negative[1].expand(count, -1), positive[1].expand(count, -1)])
    ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(2 * count, -1)
    x = noise * (1 + sigmas[0] ** 2) ** 0.5
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        timestep = int((levels.log() - sigma.double().log()).abs().argmin())
        given = torch.cat([x, x]) / (1 + sigma**2) ** 0.5
        more = {"text_embeds": pooled, "time_ids": ids}
        with slow_layers(unet, subjects):
            without, wanted = unet(given, timestep, text, added_cond_kwargs=more).sample.chunk(2)
        x = x + (following - sigma) * (without + cfg * (wanted - without))
    return x / scale_factor
