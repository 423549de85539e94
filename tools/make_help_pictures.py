"""Draw the pictures of help pages that are not thumbnails of a workflow, with the built-in model.

    python -m tools.make_help_pictures [NODE ID ...]

Writes web/docs/<node id>.jpg, of all that are in PICTURES where none is named.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from blipdiff_impl.files import as_tensor, read_picture
from blipdiff_impl.pictures.contact_sheet import contact_sheet
from blipdiff_impl.pictures.pixels import to_pillow
from tools.inprocess import load_comfy
from tools.numbers import editing
from tools.numbers.two_subjects import Toybox
from tools.places import ROOT
from tools.problems import run_command

PHOTO = ROOT / "workflows" / "input" / "blipdiffusion_mug.png"
PLACE, GUIDANCE, STEPS, SEED = "on the beach", 2.5, 25, 0
editing.STEPS = 8  # of inversion: few, so that the difference can be seen


class Painter:
    """The example mug and what the nodes make of it."""

    def __init__(self, comfy):
        self.comfy, self.toybox = comfy, Toybox(comfy)
        self.photo = torch.from_numpy(np.array(Image.open(PHOTO).convert("RGB"))).float()[None] / 255
        self.mug, self.seen = self.toybox.call("SubjectEncoder", self.toybox.encoder, self.photo, "mug")[:2]

    def draw(self, positive, sampler="euler", steps=STEPS, guidance=GUIDANCE):
        """`[1, 96, 96, 3]`; the sampler "pndm" is the pack's, with its schedule."""
        toybox, empty = self.toybox, {"samples": torch.zeros(1, 4, 12, 12)}
        with torch.inference_mode():
            negative = self.comfy.node("CLIPTextEncode")().encode(toybox.clip, "")[0]
            if sampler == "pndm":
                from comfy_extras.nodes_custom_sampler import SamplerCustom

                pndm = toybox.call("SubjectSamplerPNDM")[0]
                sigmas = toybox.call("SubjectSchedulePNDM", toybox.model, steps)[0]
                settings = (True, SEED, guidance, positive, negative, pndm, sigmas, empty)
                latent = SamplerCustom.execute(toybox.model, *settings)[0]
            else:
                settings = (SEED, steps, guidance, sampler, "normal", positive, negative, empty)
                latent = self.comfy.nodes.common_ksampler(toybox.model, *settings)[0]
        return torch.from_numpy(toybox.decode(latent)).float() / 255

    def prompt(self, **options):
        return self.toybox.call("SubjectPromptInfix", self.toybox.clip, self.mug, PLACE, **options)[0]


def encoder(painter):
    """The photo, what the encoder saw of it, and the subject in two places."""
    drawn = [painter.draw(painter.prompt()), painter.draw(painter.prompt(category="hat"))]
    pictures = [_square(picture) for picture in (painter.photo, painter.seen, *drawn)]
    return contact_sheet(torch.cat(pictures), 4, ["photo", "what the encoder sees", PLACE, "the same look on a hat"])


def loader(painter):
    """Plain words, without a subject: some of the built-in model's world."""
    texts = ["a robot in the snow", "a boat in the water", "a cat on the grass", "a rocket at night"]
    with torch.inference_mode():
        prompts = [painter.comfy.node("CLIPTextEncode")().encode(painter.toybox.clip, text)[0] for text in texts]
    return contact_sheet(torch.cat([painter.draw(prompt) for prompt in prompts]), 4, texts)


def prompt(painter):
    """Strengths of the subject."""
    strengths = (0.0, 0.25, 0.5, 1.0, 1.5)
    pictures = [painter.draw(painter.prompt(subject_strength=strength)) for strength in strengths]
    return contact_sheet(torch.cat(pictures), 5, [f"subject_strength {strength:g}" for strength in strengths])


def schedule(painter):
    """A subject that begins later and later, and one that ceases earlier and earlier."""
    parts = [("start", share) for share in (0, 0.3, 0.5, 0.7, 0.9)] + [
        ("end", share) for share in (1, 0.5, 0.3, 0.2, 0.1)
    ]
    inputs = (painter.toybox.clip, painter.mug, PLACE)
    prompts = [
        painter.toybox.call("SubjectPromptSchedule", *inputs, **{name: float(share)})[0] for name, share in parts
    ]
    pictures = [painter.draw(positive) for positive in prompts]
    return contact_sheet(torch.cat(pictures), 5, [f"{name} {share:g}" for name, share in parts])


def pndm(painter):
    """Few and many steps, with the pack's sampler and schedule and with the host's euler."""
    runs = [(sampler, steps) for sampler in ("pndm", "euler") for steps in (5, 10, 25, 50)]
    pictures = [painter.draw(painter.prompt(), sampler, steps) for sampler, steps in runs]
    return contact_sheet(torch.cat(pictures), 4, [f"{sampler}, {steps} steps" for sampler, steps in runs])


def inversion(painter):
    """A picture, and what comes back from its noise by both methods."""
    studio = editing.Studio(painter.comfy)
    case = editing.make_case(2, editing.TRIAL)
    with torch.inference_mode():
        back = [studio.regenerated(case, studio.invert(case, method))[0] for method in ("DDIM", "fixed point")]
    return contact_sheet(torch.cat([case.rendered, *back]), 3, ["picture", "DDIM, 8 steps", "fixed point, 8 steps"])


def boxes(painter):
    """What Apply MS-Diffusion shows of three drawn things; no adapter is needed for that."""
    things = [("house", "house", (0.3, 0.05, 0.75, 0.6)), ("mug", "mug", (0.05, 0.45, 0.4, 0.95)),
              ("robot_1", "robot", (0.6, 0.4, 0.97, 0.97))]  # fmt: skip
    placed = None
    for name, phrase, edges in things:
        photo = as_tensor(read_picture(PHOTO.parent / f"blipdiffusion_{name}.png"))[None]
        given = {"canvas_width": 1216, "canvas_height": 832, "previous": placed}
        placed = painter.toybox.call("MSDiffusionSubject", photo, phrase, *edges, 1.0, **given)[0]
    return painter.comfy.module("blipdiff_impl.ms_diffusion.box_sheet").box_sheet(placed.placed)


def conversation(_):
    """How a conversation becomes a picture, as a drawing: no model is needed for it."""
    sheet = Image.new("RGB", (900, 250), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    boxes = [
        (15, 25, 150, 95, "pictures"), (15, 150, 150, 220, "words"), (200, 25, 335, 95, "CLIP vision"),
        (385, 25, 545, 220, "language\nmodel (OPT)"), (595, 25, 730, 95, "reply"),
        (595, 150, 730, 220, "mapper\n77 rows"), (780, 150, 885, 220, "sampler"),
    ]  # fmt: skip
    for left, top, right, bottom, name in boxes:
        draw.rounded_rectangle((left, top, right, bottom), 12, "#eef3fb", "#4a6fa5", 2)
        middle = ((left + right) / 2, (top + bottom) / 2)
        draw.multiline_text(middle, name, "#222222", font, anchor="mm", align="center")
    for left, right, height in (
        (150, 200, 60),
        (335, 385, 60),
        (150, 385, 185),
        (545, 595, 60),
        (545, 595, 185),
        (730, 780, 185),
    ):
        draw.line((left + 4, height, right - 8, height), "#4a6fa5", 3)
        draw.polygon([(right - 3, height), (right - 13, height - 6), (right - 13, height + 6)], "#4a6fa5")
    draw.text((570, 122), "[IMG0] ... [IMG7]", "#777777", font, anchor="lm")
    return as_tensor(sheet)[None]


PICTURES = {
    "SubjectModelLoader": loader,
    "SubjectEncoder": encoder,
    "SubjectPromptInfix": prompt,
    "SubjectPromptSchedule": schedule,
    "SubjectSamplerPNDM": pndm,
    "SubjectInvert": inversion,
    "MSDiffusionApply": boxes,
    "GILL": conversation,
}


def main(names=tuple(sys.argv[1:])):
    """Draw the named pictures, or all."""
    with tempfile.TemporaryDirectory() as base:
        painter = Painter(load_comfy(Path(base)))
        for name in names or PICTURES:
            to_pillow(PICTURES[name](painter)[0]).save(ROOT / "web" / "docs" / f"{name}.jpg", quality=88, optimize=True)


def _square(picture):
    """At the size of the drawn ones."""
    return torch.nn.functional.interpolate(picture.movedim(-1, 1), (96, 96), mode="area").movedim(1, -1)


if __name__ == "__main__":
    run_command(main)
