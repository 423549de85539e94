"""What the nodes of BLIP-Diffusion refuse before anything runs; `..refusals` says how."""

from __future__ import annotations

from collections.abc import Container
from functools import partial

from ....blipdiff_impl.blip_diffusion.scene import SOCKETS, check_markers
from ....blipdiff_impl.errors import SubjectError
from ....blipdiff_impl.prompts.rows import compose
from ....blipdiff_impl.prompts.tokenizers import normalise_category
from ....blipdiff_impl.prompts.words import check_edit_words, listed, parse_weights
from ..refusals import ABSENT, first_refusal, is_linked, typed

_ANY_CATEGORY = "thing"


def category_refusal(name: str, category) -> bool | str:
    """A category that is typed in and empty."""
    return first_refusal((name, lambda: _check_category(category)))


def prompt_refusal(prompt) -> bool | str:
    """A prompt with several places for one subject."""
    text = typed(prompt)
    return first_refusal(("prompt", lambda: text is None or compose(text, _ANY_CATEGORY)))


def scene_refusal(prompt, subjects: tuple, masks: tuple, boxes: tuple) -> bool | str:
    """Markers and subjects that do not belong together, and regions without subject; of each socket what came in."""
    text = typed(prompt)
    connected, masked, boxed = (
        [socket for socket, value in zip(SOCKETS, values, strict=True) if is_linked(value)]
        for values in (subjects, masks, boxes)
    )
    return first_refusal(
        ("prompt", lambda: text is None or check_markers(text, connected)),
        *((f"mask_{socket}", partial(require_subject, "mask", socket, connected)) for socket in masked),
        *((f"box_{socket}", partial(require_subject, "box", socket, connected)) for socket in boxed),
        *((f"box_{socket}", partial(require_one_region, socket, masked)) for socket in boxed),
    )


def require_subject(kind: str, socket: str, subjects: Container[str]) -> None:
    """Raise SubjectError where a subject's region, a mask or a box, is there without it."""
    if socket not in subjects:
        raise SubjectError(f"{kind}_{socket} is connected, but subject_{socket} is not. Connect both or neither.")


def require_one_region(socket: str, masks: Container[str]) -> None:
    """Raise SubjectError where a subject with a box has a mask too."""
    if socket in masks:
        raise SubjectError(f"Both mask_{socket} and box_{socket} are connected, and they may differ. Connect one.")


def edit_refusal(source_category, target_category, prompt, target_prompt, blend_words, reweight, subject) -> bool | str:
    """Things without a name, and words that neither prompt holds."""
    target = typed(target_category)
    texts = [typed(text) for text in (source_category, prompt, "" if target_prompt is ABSENT else target_prompt)]
    words, weights = ("" if value is ABSENT else typed(value) for value in (blend_words, reweight))
    known = [text for text in [*texts, target] if text is not None]
    if len(known) <= len(texts) or not (target and target.strip()):
        known = []  # a text is linked in, or the thing is called what the subject is

    def check_target() -> None:
        if target is not None and not target.strip() and not is_linked(subject):
            raise SubjectError("The thing that comes instead has no name. Write it, or connect a subject.")

    return first_refusal(
        ("source_category", lambda: _check_category(source_category)),
        ("target_category", check_target),
        ("reweight", lambda: weights and parse_weights(weights)),
        ("blend_words", lambda: known and words and check_edit_words(["a", *known], listed(words))),
        ("reweight", lambda: known and weights and check_edit_words(["a", *known], parse_weights(weights))),
    )


def _check_category(category) -> None:
    if (word := typed(category)) is not None:
        normalise_category(word)
