"""Editing against plain sampling of the same batch, and against attention control that materialises every map.

Released size with random weights, 512x512, one pair of source and edit with guidance, 2 Euler steps, float32, CPU. The
straightforward peer takes the probabilities of all 32 attention layers, puts the source's in place, and adds those of
the prompts up over the steps, layer by layer, as attention stores do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import torch

from tools.memory import peak_megabytes

from .measure import compare, machine, seconds
from .released import host_with_pytorch_attention, load_model, write_released_checkpoint

STEPS, GUIDANCE, SIDE, PAIRS = 2, 7.5, 512, 3


class Bench:
    """One loaded model and the runs that are compared."""

    def __init__(self, comfy: SimpleNamespace, parts: tuple, side: int = SIDE, steps: int = STEPS) -> None:
        self.comfy, self._steps = comfy, steps
        self.model, self.clip, _, encoder = parts
        self.subject = encoder.encode(torch.rand(1, 224, 224, 3), "dog")
        latent = {"samples": torch.zeros(1, 4, side // 8, side // 8)}
        self.edited = self.comfy.node("SubjectP2PEdit").execute(
            self.model, self.clip, latent, "cat", "dog", "on a sofa", "", 0.8, 0.4, 0.3, subject=self.subject
        ).result  # fmt: skip

    def edit(self) -> None:
        """The pack's nodes."""
        self._sample(*self.edited)

    def plain(self) -> None:
        """The same prompts and latents without the patch."""
        _, positive, negative, latent = self.edited
        self._sample(self.model, [[cond, {}] for cond, _ in positive], negative, latent)

    def straightforward(self) -> None:
        """Every map in hand."""
        _, positive, negative, latent = self.edited
        model, store = self.model.clone(), {}
        host = self.comfy.module("nodes.host.attention")
        maths = self.comfy.module("blipdiff_impl.attention.probabilities")

        def control(call, q, k, v, attend):
            probs = maths.probabilities(q, k, call.heads)
            for chunk, rows in call.chunks(len(q)):
                if chunk == host.POSITIVE:
                    probs[rows][1::2] = probs[rows][0::2]
                    place = (k.shape[1], call.block)
                    store[place] = store[place] + probs[rows] if place in store else probs[rows].clone()
            return maths.apply_probabilities(probs, v)

        for kind in (host.SELF, host.CROSS):
            host.control_attention(model, kind, control)
        self._sample(model, [[cond, {}] for cond, _ in positive], negative, latent)

    def _sample(self, model, positive, negative, latent) -> None:
        self.comfy.nodes.common_ksampler(model, 0, self._steps, GUIDANCE, "euler", "normal", positive, negative, latent)


@torch.inference_mode()
def main() -> None:
    write_released_checkpoint()
    if len(sys.argv) > 1:  # a process of its own, for its peak memory
        getattr(_bench(), sys.argv[1])()
        print(json.dumps(peak_megabytes()))
        return
    print(machine())
    _compare_times(_bench())
    own, plain, every = (_peak(name) for name in ("edit", "plain", "straightforward"))
    print(
        f"peak memory: editing {own:.0f} MB, plain sampling {plain:.0f} MB, ratio {own / plain:.3f} (goal at most "
        f"1.2); every map in hand {every:.0f} MB"
    )


def _bench() -> Bench:
    comfy = host_with_pytorch_attention()
    return Bench(comfy, load_model(comfy))


def _compare_times(bench: Bench) -> None:
    ratio = compare("editing", lambda: seconds(bench.edit), lambda: seconds(bench.plain), PAIRS, "at least 0.87")
    print(f"editing takes {1 / ratio:.3f} times as long as plain sampling (goal at most 1.15)")
    compare(
        "editing against every map in hand",
        lambda: seconds(bench.edit),
        lambda: seconds(bench.straightforward),
        PAIRS,
        "at least 1.5",
    )


def _peak(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.bench_editing", name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
