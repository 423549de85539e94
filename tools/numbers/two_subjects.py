"""Two held-out subjects of different kinds in two halves of one picture: is each found where its mask is?

Each half is judged as a picture of its own, by the protocol of the built-in model's own numbers: the subject is looked
for among 8 things of its kind by colours and where they lie. It is swapped where the other subject is nearer than all
of these. The route was chosen on other subjects (`TRIAL`).
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.pictures.pixels import to_uint8
from blipdiff_impl.toy_world.render import PICTURE_SIZE, render_picture, render_reference
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions, subject_from_seed
from blipdiff_impl.toybox.evaluate import CANDIDATES, GUIDANCE, STEPS
from blipdiff_impl.toybox.judge import Judge, sliced_distance, subject_points
from tools.inprocess import load_comfy
from tools.problems import run_command

REPORTED = HELD_OUT_SEED + 900_000_000
TRIAL = HELD_OUT_SEED + 950_000_000
GROUP = 8  # pairs that are drawn as one batch
SEED = 5


@dataclass(frozen=True, eq=False)
class Side:
    """The subjects of one half: a SUBJECT batch, and each one's candidates (own first) as points for the judge."""

    category: str
    subjects: object
    candidates: list[list[np.ndarray]]


class Toybox:
    """The built-in model through the pack's nodes and the host's."""

    def __init__(self, comfy):
        from comfy_extras.nodes_custom_sampler import SamplerCustom  # one of the host's that `comfy.node` does not know

        self._node = comfy.node
        self._sample = SamplerCustom.execute
        with torch.inference_mode():
            loaded = self._node("SubjectModelLoader").execute(comfy.module("nodes.host.folders").TOYBOX, "fp32")
            self.model, self.clip, self.vae, self.encoder = loaded[0], loaded[1], loaded[2], loaded[3]
            self._negative = self.words("")
            self._sampler = self._node("SubjectSamplerPNDM").execute()[0]
            self._sigmas = self._node("SubjectSchedulePNDM").execute(self.model, STEPS)[0]

    def call(self, node, *inputs, **named):
        """Outputs of a V3 node."""
        with torch.inference_mode():
            return self._node(node).execute(*inputs, **named).result

    def with_lora(self, model, clip, name, strength=1.0):
        """MODEL and CLIP with a LoRA, by the host's own node."""
        with torch.inference_mode():
            return self._node("LoraLoader")().load_lora(model, clip, name, strength, strength)

    def words(self, text):
        """CONDITIONING of a text without subjects."""
        with torch.inference_mode():
            return self._node("CLIPTextEncode")().encode(self.clip, text)[0]

    def sample(self, model, positive, count, width=PICTURE_SIZE, height=PICTURE_SIZE):
        """LATENT of `count` pictures, made as in the built-in model's own numbers."""
        latent = {"samples": torch.zeros(count, 4, height // 8, width // 8)}
        settings = (True, SEED, GUIDANCE, positive, self._negative, self._sampler, self._sigmas, latent)
        with torch.inference_mode():
            return self._sample(model, *settings)[0]

    def decode(self, latent):
        """Pictures uint8 `[N, H, W, 3]`."""
        with torch.inference_mode():
            pictures = self._node("VAEDecode")().decode(self.vae, latent)[0]
        return to_uint8(pictures)

    def draw(self, model, positive, count, width=PICTURE_SIZE, height=PICTURE_SIZE):
        """Sample and decode."""
        return self.decode(self.sample(model, positive, count, width, height))

    def subjects(self, seeds, category, rng):
        """A SUBJECT batch of the subjects with these seeds, each from one reference picture."""
        encoded = []
        for seed in seeds:
            photo = torch.from_numpy(render_reference(subject_from_seed(seed, category), rng).picture.copy())
            encoded.append(self.call("SubjectEncoder", self.encoder, photo[None].float() / 255, category)[0])
        vectors = torch.cat([subject.embeddings for subject in encoded])
        return type(encoded[0])(vectors, category, encoded[0].encoder_fingerprint, "references")


class Jury:
    """Finds the nearest candidate; `judge` is another than the usual one."""

    def __init__(self, judge=None):
        self.judge = judge or Judge.load()

    def points(self, pictures):
        """What the judge compares of each picture."""
        masks = self.judge.look_at(pictures).mask
        return [subject_points(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]

    @staticmethod
    def nearest(points, candidates):
        """Number of the candidate that points are nearest to."""
        return int(np.argmin([sliced_distance(points, other) for other in candidates]))

    def found(self, pictures, side):
        """Whether each subject is nearest among things of its kind."""
        return [self.nearest(p, own) == 0 for p, own in zip(self.points(pictures), side.candidates, strict=True)]

    def swapped(self, pictures, side, other):
        """Whether the other half's subject is nearer than everything of the own kind."""
        triples = zip(self.points(pictures), side.candidates, other.candidates, strict=True)
        return [self.nearest(p, [*own, foreign[0]]) == len(own) for p, own, foreign in triples]


def measure(comfy, count, first=REPORTED, soft_edge=8):
    """Numbers over about `count` pairs (whole groups of 8), with the MODEL patch; `*_by_masks` are those of the host's
    conditioning masks alone, `*_without_masks` those of the prompt alone."""
    toybox, jury = Toybox(comfy), Jury()
    left = torch.zeros(1, PICTURE_SIZE, 2 * PICTURE_SIZE)
    left[..., :PICTURE_SIZE] = 1
    masks = {"mask_a": left, "mask_b": 1 - left, "soft_edge": soft_edge}
    routes = {"": masks | {"model": toybox.model}, "_by_masks": masks, "_without_masks": {"model": toybox.model}}
    tops, swaps = {name: [] for name in ("single", *routes)}, {name: [] for name in routes}
    for group in range(-(-count // GROUP)):
        sides, phrase = _group(toybox, jury, group, first)
        for side in sides:
            positive = toybox.call("SubjectPromptInfix", toybox.clip, side.subjects, phrase)[0]
            tops["single"] += jury.found(toybox.draw(toybox.model, positive, GROUP), side)
        for name, inputs in routes.items():
            subjects = (side.subjects for side in sides)
            scene = toybox.call("SubjectScene", toybox.clip, f"a {{a}} and a {{b}} {phrase}", *subjects, **inputs)
            model = scene[1] if "model" in inputs else toybox.model
            pictures = toybox.draw(model, scene[0], GROUP, 2 * PICTURE_SIZE)
            halves = pictures[:, :, :PICTURE_SIZE], pictures[:, :, PICTURE_SIZE:]
            for half, side, other in zip(halves, sides, sides[::-1], strict=True):
                tops[name] += jury.found(half, side)
                swaps[name] += jury.swapped(half, side, other)
    return _numbers(tops, swaps)


def _numbers(tops, swaps):
    single = np.mean(tops["single"])
    numbers = {"two_subjects_single_top1": _rounded(single)}
    for name, swapped in swaps.items():
        top = np.array(tops[name], float)
        numbers[f"two_subjects_top1{name}"] = _rounded(top.mean())
        numbers[f"two_subjects_top1_ratio{name}"] = _rounded(top.mean() / single)
        numbers[f"two_subjects_top1_ratio{name}_se"] = _rounded(top.std() / len(top) ** 0.5 / single)
        numbers[f"two_subjects_swapped{name}"] = _rounded(np.mean(swapped))
    return numbers


def _group(toybox, jury, group, first):
    """Two sides of one group, and where they are; kinds and places come in turn."""
    rng = np.random.default_rng((first, group))
    categories = CATEGORIES[group % 12], CATEGORIES[(group + 1 + group // 12 * 2 + 4) % 12]
    phrases = captions(BACKGROUND_NAMES[group * 5 % 12])
    sides = []
    for number, category in enumerate(categories):
        start = first + (group * 2 + number) * GROUP * CANDIDATES
        seeds = range(start, start + GROUP * CANDIDATES, CANDIDATES)
        subjects = toybox.subjects(seeds, category, rng)
        pictures = [
            render_picture(
                subject_from_seed(seed + k, category), BACKGROUND_NAMES[rng.integers(12)], rng, bank=True
            ).picture
            for seed in seeds
            for k in range(CANDIDATES)
        ]
        points = jury.points(np.stack(pictures))
        sides.append(Side(category, subjects, [points[i : i + CANDIDATES] for i in range(0, len(points), CANDIDATES)]))
    return sides, phrases[rng.integers(len(phrases))]


def _rounded(value):
    return round(float(value), 4)


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--trial", action="store_true", help="the subjects that the route was chosen on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        comfy = load_comfy(Path(base))
        print(json.dumps(measure(comfy, options.pairs, TRIAL if options.trial else REPORTED)))


if __name__ == "__main__":
    run_command(main)
