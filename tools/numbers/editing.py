"""A thing in a picture replaced by a held-out subject, on the built-in model: what `make numbers-edit` prints.

Half of the pictures are generated in the same run, half are the renderer's own, encoded and inverted. Everything goes
through the real ComfyUI's nodes in this process. The judge looks for the subject among 8 things of its kind, by colours
and where they lie; the zero-shot figure is the same for pictures of the same subjects in the same places, made without
an edit. The mask is that of the edit. Settings were chosen on other subjects (`TRIAL`). The last line is one JSON
object; `*_se` are standard errors.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blipdiff_impl.files import as_tensor
from blipdiff_impl.pictures.pixels import to_uint8
from blipdiff_impl.toy_world.render import PICTURE_SIZE, render_picture, render_reference
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions, subject_from_seed
from blipdiff_impl.toybox.evaluate import CANDIDATES, STEPS
from blipdiff_impl.toybox.judge import Judge, sliced_distance, subject_points
from tools.inprocess import load_comfy
from tools.problems import run_command

REPORTED = HELD_OUT_SEED + 800_000_000
TRIAL = HELD_OUT_SEED + 850_000_000
SAMPLER, SCHEDULER, GUIDANCE, SEED = "euler", "normal", 4.0, 5
CROSS_REPLACE, SELF_REPLACE, THRESHOLD = 0.8, 0.4, 0.4
INVERTED = 24  # pictures that are regenerated from their noise


@dataclass(frozen=True, eq=False)
class Case:
    """A picture with a thing in it, and the subject that replaces it."""

    source: str
    target: str
    phrase: str
    rendered: torch.Tensor  # [1, 96, 96, 3] in 0..1
    reference: torch.Tensor
    candidates: np.ndarray  # the subject first


def make_case(index, first):
    """Always the same; the kinds of thing and subject differ."""
    rng = np.random.default_rng((first, index))
    source, target = (CATEGORIES[i] for i in rng.choice(len(CATEGORIES), 2, replace=False))
    place = BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))]
    seeds = range(first + index * CANDIDATES, first + (index + 1) * CANDIDATES)
    subjects = [subject_from_seed(seed, target) for seed in seeds]
    thing = subject_from_seed(first - 1 - index, source)
    others = [render_picture(each, BACKGROUND_NAMES[rng.integers(12)], rng).picture for each in subjects]
    return Case(
        source,
        target,
        captions(place)[rng.integers(len(captions(place)))],
        _pixels(render_picture(thing, place, rng).picture),
        _pixels(render_reference(subjects[0], rng).picture),
        np.stack(others),
    )


class Studio:
    """The built-in model through the pack's nodes and the host's."""

    def __init__(self, comfy):
        self._comfy = comfy
        loaded = comfy.node("SubjectModelLoader").execute(comfy.module("nodes.host.folders").TOYBOX, "fp32").result
        self.model, self.clip, self.vae, self.encoder = loaded[:4]
        self._nothing = comfy.node("CLIPTextEncode")().encode(self.clip, "")[0]

    def call(self, node, *inputs, **named):
        """Outputs of one of the pack's nodes."""
        return self._comfy.node(node).execute(*inputs, **named).result

    def sample(self, model, positive, negative, latent, guidance=GUIDANCE, noise=True):
        """KSampler."""
        return self._comfy.nodes.common_ksampler(
            model, SEED, STEPS, guidance, SAMPLER, SCHEDULER, positive, negative, latent, disable_noise=not noise
        )[0]

    def zero_shot(self, case, subject):
        """The subject in the same place, without an edit."""
        positive = self.call("SubjectPromptInfix", self.clip, subject, case.phrase)[0]
        return self.vae.decode(self.sample(self.model, positive, self._nothing, empty())["samples"])

    def invert(self, case, method):
        """LATENT of the rendered picture's noise."""
        latent = {"samples": self.vae.encode(case.rendered)}
        return self.call(
            "SubjectInvert", self.model, self.clip, latent, case.source, case.phrase, STEPS, method=method
        )[0]

    def regenerated(self, case, inverted):
        """What comes back from the noise alone, and the picture after the VAE."""
        text = f"a {case.source} {case.phrase}"
        positive = self._comfy.node("CLIPTextEncode")().encode(self.clip, text)[0]
        latent = {"samples": inverted["samples"]}
        back = self.sample(self.model, positive, positive, latent, 1.0, noise=False)
        return self.vae.decode(back["samples"]), self.vae.decode(self.vae.encode(case.rendered))

    def edit(self, case, subject, latent, original):
        """Source, edit, mask `[1, H, W]` and the finished picture."""
        model, positive, negative, pairs = self.call(
            "SubjectP2PEdit", self.model, self.clip, latent, case.source, "", case.phrase, "", CROSS_REPLACE,
            SELF_REPLACE, THRESHOLD, subject=subject,
        )  # fmt: skip
        samples = self.sample(model, positive, negative, pairs)
        sources, edits, mask, finished = self.call("SubjectEditResult", model, samples, self.vae, original)
        return self.vae.decode(sources["samples"]), self.vae.decode(edits["samples"]), mask, finished


class Jury:
    """Whether the subject is the nearest of its candidates."""

    def __init__(self):
        self._judge = Judge.load()

    def finds(self, case, picture):
        pictures = np.concatenate([to_uint8(picture), case.candidates])
        masks = self._judge.look_at(pictures).mask
        own, *others = [subject_points(each, mask) for each, mask in zip(pictures, masks, strict=True)]
        return int(np.argmin([sliced_distance(own, other) for other in others])) == 0


def measure(comfy, count, first=REPORTED):
    """All numbers over `count` edits."""
    with torch.inference_mode():
        studio, jury = Studio(comfy), Jury()
        rows = []
        for index in range(count):
            case = make_case(index, first)
            rows.append(_edit(studio, jury, case, rendered=index % 2 == 1))
            print(f"{index + 1} of {count}: {case.source} to {case.target}, {rows[-1]}", flush=True)
        inversions = [_invert(studio, make_case(index, first)) for index in range(min(INVERTED, count))]
    numbers = {"edits": count} | _means(rows) | _means(inversions)
    numbers["edit_top1_ratio"] = round(numbers["edit_top1"] / numbers["zero_shot_top1"], 4)
    return numbers


def _edit(studio, jury, case, rendered):
    subject = studio.call("SubjectEncoder", studio.encoder, case.reference, case.target)[0]
    latent, original = (studio.invert(case, "fixed point"), case.rendered) if rendered else (empty(), None)
    source, edit, mask, finished = studio.edit(case, subject, latent, original)
    ground = source if original is None else original
    outside = mask <= 0
    return {
        "edit_top1": jury.finds(case, finished),
        "zero_shot_top1": jury.finds(case, studio.zero_shot(case, subject)),
        "outside_identical": float((finished == ground).all(dim=-1)[outside].float().mean()),
        "outside_psnr": psnr(edit[outside], source[outside]),
        "mask_share": float(mask.mean()),
    }


def _invert(studio, case):
    found = {"inversion_psnr_ddim": "DDIM", "inversion_psnr_best": "fixed point"}
    return {name: psnr(*studio.regenerated(case, studio.invert(case, method))) for name, method in found.items()}


def psnr(a, b):
    """Of pictures in 0..1, in dB; at most 99."""
    error = float((a - b).square().mean())
    return 99.0 if error < 1e-10 else float(-10 * np.log10(error))


def empty():
    """An empty LATENT of one picture."""
    return {"samples": torch.zeros(1, 4, PICTURE_SIZE // 8, PICTURE_SIZE // 8)}


def _means(rows):
    numbers = {}
    for name in rows[0]:
        values = np.array([float(row[name]) for row in rows])
        numbers[name] = round(float(values.mean()), 4)
        numbers[f"{name}_se"] = round(float(values.std(ddof=1) / len(values) ** 0.5), 4)
    return numbers


def _pixels(picture):
    return as_tensor(picture)[None]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=104)
    parser.add_argument("--trial", action="store_true", help="the subjects that settings are chosen on")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        numbers = measure(load_comfy(Path(base)), chosen.edits, TRIAL if chosen.trial else REPORTED)
    print(json.dumps(numbers))


if __name__ == "__main__":
    run_command(main)
