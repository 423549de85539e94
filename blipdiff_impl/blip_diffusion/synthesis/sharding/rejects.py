"""Why a photo becomes no sample: the rules, each of which is counted."""

from __future__ import annotations

NO_CAPTION = "no caption"
UNREADABLE = "unreadable picture"
TOO_SMALL = "picture too small or narrow"
BAD_MASK = "unusable mask"
NO_SUBJECT = "no subject found"
NO_TRIMAP = "no sure subject or background"
MATTING = "matting failed"
THIN = "subject covers too little of its box"
FULL = "subject covers too much of its box"
RULES = (NO_CAPTION, UNREADABLE, TOO_SMALL, BAD_MASK, NO_SUBJECT, NO_TRIMAP, MATTING, THIN, FULL)


class Rejected(Exception):
    """A photo is left out.

    Attributes:
        rule: one of `RULES`.
        reason: one sentence with the value that decided.
    """

    def __init__(self, rule: str, reason: str):
        super().__init__(f"{rule}: {reason}")
        self.rule, self.reason = rule, first_sentence(reason)


def first_sentence(text: str) -> str:
    """What a message says was wrong, without its advice, which is meant for one picture at a time."""
    return text.split(". ")[0].rstrip(".") + "."
