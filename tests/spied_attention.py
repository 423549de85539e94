"""What the cross-attention layers of a MODEL got, and maps computed from it in the obvious way."""

import torch


def spied(comfy, model):
    """A clone of the MODEL that keeps what each cross-attention layer got, evaluation by evaluation."""
    attention = comfy.module("nodes.host.attention")
    model, seen = model.clone(), []

    def spy(call, q, k, v, attend):
        seen.append((call, q, k))
        return attend(q, k, v)

    attention.control_attention(model, attention.CROSS, spy)
    return model, seen


def expected_maps(seen, columns, size, keep=lambda call: True):
    """The mean map of these columns in the positive chunk, `[B, 1, *size]`, from explicit probabilities in float64."""
    total, count = 0, 0
    for call, q, k in seen:
        for kind, rows in call.chunks(len(q)):
            if kind == 0 and keep(call):
                qs, ks = (x[rows].double().unflatten(-1, (call.heads, -1)).transpose(1, 2) for x in (q, k))
                probs = torch.softmax(qs @ ks.mT / qs.shape[-1] ** 0.5, dim=-1)
                found = probs[..., list(columns)].mean(dim=(1, 3)).unflatten(1, call.size)
                total = total + torch.nn.functional.interpolate(found[:, None], size=size, mode="bilinear")
                count += 1
    return (total / count).float()
