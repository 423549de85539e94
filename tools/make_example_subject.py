"""Encode the subject that the workflow `load_saved_subject` starts from, with the embedded model.

    python -m tools.make_example_subject

Writes workflows/subjects/blipdiffusion_mug.safetensors. To be repeated when the embedded model has changed: a subject
is read by the model whose encoder made it.
"""

import numpy as np
import torch
from PIL import Image

from blipdiff_impl import SubjectEncoder
from tools.places import ROOT

NAME, CATEGORY = "blipdiffusion_mug", "mug"
WORKFLOWS = ROOT / "workflows"


def main() -> None:
    with Image.open(WORKFLOWS / "input" / f"{NAME}.png") as picture:
        photo = torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)
    subject = SubjectEncoder.from_checkpoint("toybox").encode(photo[None], CATEGORY)
    folder = WORKFLOWS / "subjects"
    folder.mkdir(exist_ok=True)
    subject.save(folder / f"{NAME}.safetensors", overwrite=True)


if __name__ == "__main__":
    main()
