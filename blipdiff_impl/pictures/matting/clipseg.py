"""CLIPSeg (Lueddecke and Ecker: Image Segmentation Using Text and Image Prompts): where in a photo a category is.

The network is that of `transformers`, loaded from a local folder; pixels and words are prepared here, so that the
folder needs no files beside configuration and weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...errors import CheckpointError, SubjectError, first_few
from ...files import as_tensor
from ...prompts.tokenizers import CLIP_END, CLIP_START, clip_ids, normalise_category
from ...weights.folders import read_config
from ...weights.safetensors_file import SafetensorsFile
from ...weights.transformers_folder import CONFIG_FILE, WEIGHTS_FILE, load_network
from ..pixels import to_pillow

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation

FILES = CONFIG_FILE, WEIGHTS_FILE

SIDE = 352  # what the released network was trained on; a photo is squashed to it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Below this nothing in the photo is taken for the category. Stretching to 0..1 would blow noise up to a subject.
LEAST_CONFIDENCE = 0.1


def load_clipseg(folder: str | Path) -> CLIPSegForImageSegmentation:
    """The segmenter of a folder with `FILES`, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: files are missing or damaged, or hold another network; says which weights do not fit.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise CheckpointError(
            f"The CLIPSeg folder {folder} has no {' and no '.join(missing)}. It should hold {' and '.join(FILES)} of "
            "CIDAS/clipseg-rd64-refined."
        )
    read_config(folder / CONFIG_FILE)
    SafetensorsFile(folder / WEIGHTS_FILE)
    complaint = (
        f"The CLIPSeg model in {folder} cannot be read: {CONFIG_FILE} states what no CLIPSeg has, or belongs to other "
        "weights. Download both again."
    )
    network, report = load_network(
        folder, "CLIPSegForImageSegmentation", complaint, use_safetensors=True, ignore_mismatched_sizes=True
    )
    _require_all_weights(folder, report)
    return network


@torch.no_grad()
def confidence(network: CLIPSegForImageSegmentation, photo: Tensor, category: str) -> Tensor:
    """Probability `[H, W]`, 0..1, that a pixel belongs to the category.

    Args:
        network: from `load_clipseg`, on any device.
        photo: `[H, W, 3]` in 0..1.

    Raises:
        SubjectError: an empty or very long category, or nothing of the kind in the photo.
    """
    parameter = next(network.parameters())
    pixels = pixels_of(photo).to(parameter.device, parameter.dtype)
    sizes: Any = network.config.text_config  # annotated as what it is made from
    ids = category_ids(category, sizes.max_position_embeddings).to(parameter.device)
    logits = network(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
    found = torch.sigmoid(logits.float()).reshape(1, 1, *logits.shape[-2:]).cpu()
    if not found.max() >= LEAST_CONFIDENCE:
        raise SubjectError(
            f"No foreground was found: CLIPSeg sees no '{category}' (its highest confidence is "
            f"{float(found.max()):.2f}). Try a more general word, or connect a rough mask."
        )
    return F.interpolate(found, photo.shape[:2], mode="bilinear", antialias=True)[0, 0]


def pixels_of(photo: Tensor) -> Tensor:
    """`[H, W, 3]` in 0..1 to `[1, 3, 352, 352]`: Pillow's bilinear resize on 8-bit pixels, mean and deviation."""
    squashed = as_tensor(to_pillow(photo).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return ((squashed - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]


def category_ids(category: str, positions: int = 77) -> Tensor:
    """CLIP's token ids of a category, `[1, T]` with start and end.

    Raises:
        SubjectError: no letter in it, or more words than the network has positions.
    """
    ids = [CLIP_START, *clip_ids(normalise_category(category)), CLIP_END]
    if len(ids) > positions:
        raise SubjectError(
            f"The category {category[:60]!r}... has {len(ids)} tokens, CLIPSeg reads at most {positions}. Name the "
            "subject in a word or two."
        )
    return torch.tensor([ids])


def _require_all_weights(folder: Path, report: dict) -> None:
    wrong = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    wrong += [
        f"{name} is {list(found)} instead of {list(due)}" for name, found, due in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise CheckpointError(
            f"The weights in {folder} are not those of this CLIPSeg: {first_few(wrong, 3, '; ')}. Take config.json "
            "and model.safetensors from the same download."
        )
