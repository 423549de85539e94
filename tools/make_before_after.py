"""Draw the before and after picture of Subject Finetune's help page: a photo, the encoder alone, and after tuning.

    python -m tools.make_before_after

Writes web/docs/SubjectFinetune.jpg from the photos and the settings of workflows/finetune_then_generate.json.
"""

import json

import numpy as np
import torch
from PIL import Image

from blipdiff_impl.blip_diffusion.finetuning.pictures import squares
from blipdiff_impl.blip_diffusion.finetuning.plain import encode_pictures, tune
from blipdiff_impl.blip_diffusion.finetuning.settings import FinetuneSettings
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.pictures.pixels import to_pillow
from tools.places import ROOT

SIDE, STEPS, GUIDANCE, PLACES, SEED = 288, 25, 2.5, ("in the snow", "on the beach"), 1


def main():
    nodes = json.loads((ROOT / "workflows" / "finetune_then_generate.json").read_text(encoding="utf-8"))["nodes"]
    names = [node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage"]
    category = next(node["widgets_values"][0] for node in nodes if node["type"] == "SubjectEncoder")
    settings, side = _settings(nodes)
    photos = torch.cat([_read(ROOT / "workflows" / "input" / name) for name in names])
    pipeline = SubjectPipeline.from_checkpoint("toybox")
    subject = pipeline.encoder.encode(photos, category)
    pictures = encode_pictures(pipeline, squares(photos, side), settings)
    tuned = tune(pipeline, subject, pictures, settings)
    rows = [_row(photos, (pipeline, subject), (tuned.pipeline, tuned.subject), place, side) for place in PLACES]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.save(ROOT / "web" / "docs" / "SubjectFinetune.jpg", quality=88, optimize=True)


def _settings(nodes):
    """Those of the workflow's node, and its resolution; its widgets come in this order, with one of the front end's own
    after the seed."""
    values = next(node["widgets_values"] for node in nodes if node["type"] == "SubjectFinetune")
    first = ("method", "steps", "learning_rate", "batch_size", "rank", "seed")
    later = ("background_weight", "flip", "prior_weight", "ema_decay")
    settings = FinetuneSettings(**dict(zip((*first, *later), (*values[:6], *values[11:15]), strict=True)))
    return settings, values[7]


def _row(photos, before, after, place, side):
    """A photo, and the subject in a place before and after tuning, side by side."""
    how = {"steps": STEPS, "guidance": GUIDANCE, "seed": SEED, "size": (side, side)}
    drawn = [pipeline.generate(subject, place, **how) for pipeline, subject in (before, after)]
    return np.concatenate([_enlarge(picture[0]) for picture in (photos, *drawn)], axis=1)


def _enlarge(pixels):
    picture = to_pillow(pixels)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _read(path):
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32))[None] / 255


if __name__ == "__main__":
    main()
