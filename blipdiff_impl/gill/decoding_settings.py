"""How a reply is chosen, word by word (docs/method.md 14.6)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SubjectError
from ..settings import MAX_SEED, require_in_range, require_one_of

DRAW, DECIDE, TEXT = MODES = ("force picture", "let it decide", "text only")
MOST_TOKENS, MOST_PICTURES, MOST_BIAS, MOST_TEMPERATURE = 1024, 16, 1000.0, 10.0


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How a reply is chosen.

    Attributes:
        mode: "force picture": one comes after `min_words` steps, or earlier where the reply ends. "let it decide":
            where [IMG0] wins. "text only": never.
        max_new_tokens: steps at most; a picture counts as one.
        min_words: steps before which no picture comes.
        picture_bias: the weight of [IMG0] is its absolute value times this; 1 changes nothing.
        temperature: 0 takes the likeliest word; above, words are drawn by chance.
        top_p: share of probability that is drawn from, the likeliest words first.
        seed: of that chance.
        max_pictures: the reply ends with that many.
    """

    mode: str = DECIDE
    max_new_tokens: int = 32
    min_words: int = 0
    picture_bias: float = 1.0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_pictures: int = 1

    def __post_init__(self):
        """Refuse what is not possible.

        Raises:
            SubjectError: names the setting, its value and the limits.
        """
        require_one_of("mode", self.mode, MODES)
        require_in_range("max_new_tokens", self.max_new_tokens, 1, MOST_TOKENS)
        require_in_range("min_words", self.min_words, 0, MOST_TOKENS)
        require_in_range("picture_bias", self.picture_bias, 0.0, MOST_BIAS, hint="1 changes nothing")
        require_in_range("temperature", self.temperature, 0.0, MOST_TEMPERATURE)
        require_in_range("top_p", self.top_p, 0.01, 1.0)
        require_in_range("seed", self.seed, 0, MAX_SEED)
        require_in_range("max_pictures", self.max_pictures, 1, MOST_PICTURES)
        if self.temperature == 0 and self.top_p < 1:
            raise SubjectError(
                f"top_p = {self.top_p:g} has nothing to choose from at temperature 0, which always takes the likeliest "
                "word. Set top_p to 1, or the temperature above 0."
            )

    @property
    def most_positions(self) -> int:
        """How many positions a reply can take, with eight for each picture."""
        pictures = 0 if self.mode == TEXT else self.max_pictures
        return self.max_new_tokens + 8 * pictures
