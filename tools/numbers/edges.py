"""Style transfer on the built-in model: does the result have the edges of the control picture, and the style's look?

The style is a held-out subject of one kind; the structure is a rendered picture of another kind with another look. The
prompt names the structure's kind and place. Edges are those of ComfyUI's own Canny node, in control and result alike.
F1 counts an edge pixel as met where the other picture has one within a pixel; 96 pixels are a side.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from blipdiff_impl.files import as_tensor
from blipdiff_impl.toy_world.render import PICTURE_SIZE, render_picture
from blipdiff_impl.toy_world.world import BACKGROUND_NAMES, CATEGORIES, HELD_OUT_SEED, captions, subject_from_seed
from blipdiff_impl.toybox.evaluate import GUIDANCE, STEPS
from blipdiff_impl.toybox.judge import Judge, palette_distance, subject_points
from blipdiff_impl.toybox.train_edges import WEIGHT_FILE
from tools.inprocess import load_comfy
from tools.numbers.two_subjects import GROUP, Toybox
from tools.problems import run_command

REPORTED = HELD_OUT_SEED + 970_000_000
TRIAL = HELD_OUT_SEED + 980_000_000
LOW, HIGH = 0.4, 0.8  # the node's defaults
TOLERANCE = 1
STRENGTHS = {"_without": 0.0, "": 1.0}  # name of the number -> strength of the ControlNet


def measure(comfy, count, first=REPORTED):
    """Over about `count` pictures (whole groups of 8): `edge_f1` with the ControlNet and `edge_f1_without` it, and
    `edge_f1_autoencoder`, that of the control picture itself after the VAE; `edge_style*` is the share of results whose
    main colours are nearer to those of the style than to those of the structure."""
    from comfy_extras.nodes_canny import Canny

    toybox, judge = Toybox(comfy), Judge.load()
    with torch.inference_mode():
        control = comfy.node("ControlNetLoader")().load_controlnet(WEIGHT_FILE.name)[0]
    samples = {}
    for group in range(-(-count // GROUP)):
        for name, values in _group(comfy, toybox, judge, control, Canny.execute, group, first).items():
            samples.setdefault(name, []).extend(values)
    means = {name: round(float(np.mean(values)), 4) for name, values in samples.items()}
    errors = {f"{name}_se": round(float(np.std(v) / len(v) ** 0.5), 4) for name, v in samples.items()}
    return means | errors


def edge_f1(found, wanted, tolerance=TOLERANCE):
    """Harmonic mean of the shares of `found` near `wanted` and of `wanted` near `found`; bool `[H, W]` both."""
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    square = np.ones((2 * tolerance + 1,) * 2, bool)
    precision = binary_dilation(wanted, square)[found].mean()
    recall = binary_dilation(found, square)[wanted].mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _group(comfy, toybox, judge, control, canny, group, first):
    """Eight styles on eight structures of one kind and place; a list of values for each number."""
    rng = np.random.default_rng((first, group))
    style_kind, kind = CATEGORIES[group % 12], CATEGORIES[(group * 5 + 3) % 12]
    kind = kind if kind != style_kind else CATEGORIES[(group * 5 + 4) % 12]
    background = BACKGROUND_NAMES[group * 7 % 12]
    seeds = range(first + group * GROUP, first + (group + 1) * GROUP)
    styles = toybox.subjects(seeds, style_kind, rng)
    structures = _render([subject_from_seed(seed + 1_000_000, kind) for seed in seeds], background, rng)
    looks = _render([subject_from_seed(seed, kind) for seed in seeds], background, rng)
    wanted = _edges(canny, structures)
    positive = toybox.call("SubjectPromptInfix", toybox.clip, styles, captions(background)[0], kind)[0]
    results = {"_autoencoder": _through_autoencoder(toybox, comfy, structures)}
    for name, strength in STRENGTHS.items():
        results[name] = _draw(comfy, toybox, positive, control, wanted, strength, seed=group)
    style, structure = _points(judge, looks), _points(judge, structures)
    values = {}
    for name, pictures in results.items():
        found = _edges(canny, pictures)
        values[f"edge_f1{name}"] = [edge_f1(_mask(f), _mask(w)) for f, w in zip(found, wanted, strict=True)]
        if name in STRENGTHS:
            own = zip(_points(judge, pictures), style, structure, strict=True)
            values[f"edge_style{name}"] = [palette_distance(p, a) < palette_distance(p, b) for p, a, b in own]
    return values


def _draw(comfy, toybox, positive, control, edges, strength, seed):
    side = PICTURE_SIZE // 8
    with torch.inference_mode():
        negative = comfy.node("CLIPTextEncode")().encode(toybox.clip, "")[0]
        # At strength 0 the host's node leaves the conditioning as it is.
        positive, negative = comfy.node("ControlNetApplyAdvanced")().apply_controlnet(
            positive, negative, control, edges, strength, 0.0, 1.0
        )
        latent = {"samples": torch.zeros(len(edges), 4, side, side)}
        settings = (seed, STEPS, GUIDANCE, "euler", "normal", positive, negative, latent)
        return toybox.decode(comfy.nodes.common_ksampler(toybox.model, *settings)[0])


def _through_autoencoder(toybox, comfy, pictures):
    with torch.inference_mode():
        return toybox.decode(comfy.node("VAEEncode")().encode(toybox.vae, as_tensor(pictures))[0])


def _render(subjects, background, rng):
    return np.stack([render_picture(subject, background, rng).picture for subject in subjects])


def _edges(canny, pictures):
    """The Canny node's IMAGE."""
    with torch.inference_mode():
        return canny(as_tensor(pictures), LOW, HIGH)[0]


def _mask(edges):
    return edges[..., 0].numpy() > 0.5


def _points(judge, pictures):
    masks = judge.look_at(pictures).mask
    return [subject_points(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]


def main():
    """Print the numbers as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--trial", action="store_true", help="subjects of other seeds, for choosing settings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        print(json.dumps(measure(load_comfy(Path(base)), options.pictures, TRIAL if options.trial else REPORTED)))


if __name__ == "__main__":
    run_command(main)
