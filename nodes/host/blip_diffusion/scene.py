"""Several subjects in one prompt, encoded by the host's CLIP, each held to a region of the picture.

A causal text encoder carries what one subject looks like into every later column. So where there are regions, each
subject with one is encoded alone: the prompt in words is what all of the picture sees, and the columns of a subject,
taken from a prompt in which it is the only one, are added behind it. Without regions all stand in one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from comfy.hooks import HookGroup
from torch import Tensor

from ....blipdiff_impl.attention.boxes import boxes_from_pixels, mask_from_boxes
from ....blipdiff_impl.blip_diffusion.scene import SOCKETS, Regions, Scene, checked_mask, lay_out, parse, soften
from ....blipdiff_impl.blip_diffusion.subject import Subject
from ....blipdiff_impl.errors import SubjectError, first_few
from ....blipdiff_impl.prompts.rows import ROW, SENTINEL, lookalikes
from ..conditioning_tags import require_prompt_width
from ..notices import tell
from ..prompt_rows import Conditioning, batched, content, framed
from ..regions import REGIONS_KEY, regions_hook, with_regions
from ..token_columns import tagged, word_pieces
from .prompt import require_fitting
from .refusals import require_one_region, require_subject

__all__ = ["SOCKETS", "compose_scene"]

# How much the picture's own prompt counts inside a region, where the subject's counts 1; elsewhere it is alone.
BACKGROUND_STRENGTH = 0.1


@dataclass(frozen=True)
class _Encoded:
    """A prompt `[N, T, W]` for each scheduled hook, the columns of its subjects, and the piece of a word in each."""

    conditioning: Conditioning
    spans: dict[str, tuple[int, int]]
    pieces: list[str | None]


def compose_scene(
    clip,
    prompt: str,
    subjects: Mapping[str, Subject],
    masks: Mapping[str, Tensor] | None = None,
    soft_edge: int = 0,
    model=None,
    boxes: Mapping[str, object] | None = None,
    canvas: tuple[int, int] = (512, 512),
) -> tuple[Conditioning, object]:
    """CONDITIONING for a prompt with several subjects, and the MODEL that shows it.

    Args:
        clip: a CLIP of Stable Diffusion 1.5.
        prompt: with a marker for each subject; see `scene.parse`.
        subjects: by letter of the socket. Batches are of one length, single subjects serve every item.
        masks: regions `[N or 1, H, W]` by letter; a subject without one may be anywhere. They may overlap: there both
            subjects are seen.
        soft_edge: pixels over which a region's edge fades.
        model: None holds regions through the conditioning masks of the host, with one entry for each.
        boxes: regions as BOUNDING_BOX in any form of the host, by letter, in place of masks; a subject with several
            may be in each of them.
        canvas: (width, height) in pixels that they were drawn on.

    Raises:
        SubjectError: a prompt, marker, mask, box, batch or CLIP that does not fit.
    """
    for socket, subject in subjects.items():
        require_fitting(clip, subject)
        _require_vectors(socket, subject)
    _require_one_encoder(subjects)
    scene = parse(prompt, {socket: subject.category for socket, subject in subjects.items()})
    if alike := lookalikes(prompt, [*SOCKETS, *scene.words.values(), "subject"], "[<"):
        tell(f"{first_few(alike)} in the prompt is read as words. The places of subjects stand in braces, like {{a}}.")
    masks = _regions({**(masks or {}), **_boxed(boxes or {}, masks or {}, subjects, canvas)}, subjects, soft_edge)
    _require_equal_batches(subjects, masks)
    if not masks:
        whole = _encode(clip, scene, subjects)
        return tagged(whole.conditioning, whole.pieces, _vector_columns(subjects, whole.spans)), model
    if model is None:
        return _by_conditioning_masks(clip, scene, subjects, masks), None
    conditioning = _by_attention(clip, scene, subjects, masks)
    require_prompt_width(model, conditioning)
    return conditioning, with_regions(model)


def _by_attention(clip, scene: Scene, subjects: Mapping[str, Subject], masks: dict[str, Tensor]) -> Conditioning:
    """The prompt in words (subjects without a region in full), then the columns of each subject with a region."""
    shared = _encode(clip, scene, {socket: subject for socket, subject in subjects.items() if socket not in masks})
    alone = {socket: _encode(clip, scene, {socket: subjects[socket]}) for socket in masks}
    seen = [(*shared.spans[socket], number) for number, socket in enumerate(masks)]
    pieces, places = [*shared.pieces], {socket: shared.spans[socket] for socket in subjects}
    for number, (socket, own) in enumerate(alone.items()):
        start = len(pieces)
        pieces += own.pieces[slice(*own.spans[socket])]
        places[socket] = (start, len(pieces))
        seen.append((start, len(pieces), number))
    # The host batches a prompt with the negative one only if both consist of whole rows; what fills the last row is
    # seen nowhere.
    filling = -len(pieces) % ROW
    seen.append((len(pieces), len(pieces) + filling, len(masks)))
    pieces += [None] * filling
    regions = Regions(len(pieces), tuple(seen), (*masks.values(), torch.zeros(1, 1, 1)))
    hook, entries = regions_hook(), []
    for index, (full, options) in enumerate(shared.conditioning):
        columns = [own.conditioning[index][0][:, slice(*own.spans[socket])] for socket, own in alone.items()]
        context = _side_by_side([full, *columns, full[:, -1:].expand(-1, filling, -1)])
        hooks = HookGroup.combine_all_hooks([options.get("hooks"), hook])
        entries.append([context, {**options, REGIONS_KEY: regions, "hooks": hooks}])
    return tagged(entries, pieces, _vector_columns(subjects, places))


def _vector_columns(subjects: Mapping[str, Subject], spans: Mapping[str, tuple[int, int]]) -> tuple:
    """Category and columns of the vectors of each subject; a span begins with them."""
    return tuple(
        (subject.category, tuple(range(spans[socket][0], spans[socket][0] + subject.num_tokens)))
        for socket, subject in subjects.items()
    )


def _by_conditioning_masks(
    clip, scene: Scene, subjects: Mapping[str, Subject], masks: dict[str, Tensor]
) -> Conditioning:
    """An entry for each region, with its subject alone, and one for the whole picture with the subjects that have no
    region."""
    free = {socket: subject for socket, subject in subjects.items() if socket not in masks}
    entries = []
    for socket, mask in masks.items():
        options = {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": True}
        own = _encode(clip, scene.only([socket]), {socket: subjects[socket]})
        entries += [[cond, {**given, **options}] for cond, given in own.conditioning]
    whole = _encode(clip, scene.only(free), free)
    return entries + [[cond, {**given, "strength": BACKGROUND_STRENGTH}] for cond, given in whole.conditioning]


def _encode(clip, scene: Scene, subjects: Mapping[str, Subject]) -> _Encoded:
    """The scene through the CLIP, with the vectors of `subjects`; the others are words."""
    tokens, sentinel = content(clip, scene.text()), [item for item, _ in content(clip, SENTINEL)]
    words = [[item for item, _ in content(clip, scene.words[socket])] for socket in scene.sockets]
    items = []
    for number in range(max(map(len, subjects.values()), default=1)):
        vectors = [_vectors(subjects.get(socket), number) for socket in scene.sockets]
        layout = lay_out(tokens, sentinel, vectors, words)
        rows = framed(clip, layout.rows)
        items.append(clip.encode_from_tokens_scheduled({"l": rows}))
    return _Encoded(batched(items), dict(zip(scene.sockets, layout.spans, strict=True)), word_pieces(clip, rows))


def _vectors(subject: Subject | None, number: int) -> Tensor | None:
    return None if subject is None else subject.embeddings[number if len(subject) > 1 else 0]


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """`[N or 1, T, W]` each to `[N, sum of T, W]`."""
    count = max(map(len, parts))
    return torch.cat([part.expand(count, -1, -1) for part in parts], dim=1)


def _boxed(boxes: Mapping[str, object], masks: Mapping, subjects: Mapping, canvas: tuple[int, int]) -> dict:
    """Masks of the subjects that have boxes."""
    for socket in boxes:
        require_subject("box", socket, subjects)
        require_one_region(socket, masks)
    return {socket: mask_from_boxes(boxes_from_pixels(value, canvas), canvas) for socket, value in boxes.items()}


def _regions(masks: Mapping[str, Tensor], subjects: Mapping[str, Subject], soft_edge: int) -> dict[str, Tensor]:
    """Checked and softened masks of the subjects that have a region."""
    found = {}
    for socket, mask in masks.items():
        require_subject("mask", socket, subjects)
        if (checked := checked_mask(mask, f"mask_{socket}")) is not None:
            found[socket] = soften(checked, soft_edge)
    return found


def _require_one_encoder(subjects: Mapping[str, Subject]) -> None:
    if len({subject.encoder_fingerprint for subject in subjects.values()}) > 1:
        made = ", ".join(f"subject_{socket} ({s.category}, {s.source or 'unknown'})" for socket, s in subjects.items())
        raise SubjectError(
            f"These subjects were made by the encoders of different models: {made}. Encode them all with the model "
            "that generates."
        )


def _require_vectors(socket: str, subject: Subject) -> None:
    if not subject.embeddings.flatten(1).any(dim=1).all():
        raise SubjectError(
            f"subject_{socket} ({subject.category}) holds vectors that are all zero: there is no subject in it. Blend "
            "or encode it again."
        )


def _require_equal_batches(subjects: Mapping[str, Subject], masks: Mapping[str, Tensor]) -> None:
    lengths = {f"subject_{socket}": len(subject) for socket, subject in subjects.items()}
    lengths |= {f"mask_{socket}": len(mask) for socket, mask in masks.items()}
    if len(set(lengths.values()) - {1}) > 1:
        given = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise SubjectError(f"The batches do not match: {given}. Use single ones or batches of one length.")
