"""The toy language model: a small OPT, trained on the words of the corpus alone and frozen from then on.

A picture stands in it as four words, before the start token where a conversation begins with one, so that pictures have
a place in its language later. There are two lessons: the language, and then to look up at once what is asked for.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ..files import write_whole
from ..gill.companions import LanguageConfig
from ..gill.tokenizer import MERGES, SPECIAL, VOCABULARY, TextTokenizer
from ..toybox.training import Optimiser, train_steps
from ..training.optimisers import fast_type
from .corpus import Conversation, Scene, draw_caption, draw_conversation, draw_view, words
from .looks import ThingWords, finds_places, looks_back, looks_up
from .places import FOLDER, LANGUAGE

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import OPTForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 768,
    "max_position_embeddings": 256,
}  # fmt: skip
START = END = 2
BATCH = 80
CAPTION_SHARE, QUESTION_WEIGHT, TOGETHER = 0.2, 0.1, 8
GUIDANCE = 0.3  # what being told where to look counts in the loss
CHECKPOINT, LOOK_UP_CHECKPOINT = FOLDER / "language.pt", FOLDER / "look_up.pt"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is read, and what is told beside.

    Attributes:
        rate, seed: learning rate at first, and where all chance comes from.
        shown: share of the drawn pictures whose words are read.
        at_once, thing_at_once: share of the conversations, and of those about two things, in which these words are the
            whole answer.
        at_once_weight: what such words count.
        guided: share of the steps that are told where to look.
        look_back: words before, which as many heads of the first layer look at.
        places: whether where things are is looked up, too.
    """

    rate: float
    seed: int
    shown: float
    at_once: float
    thing_at_once: float
    at_once_weight: float
    guided: float
    look_back: int
    places: bool


LANGUAGE_LESSON = Lesson(
    rate=3e-3, seed=11, shown=0.5, at_once=0.1, thing_at_once=0.1, at_once_weight=1.0, guided=0.5, look_back=3,
    places=False,
)  # fmt: skip
LOOK_UP_LESSON = Lesson(
    rate=1.5e-3, seed=12, shown=0.55, at_once=0.15, thing_at_once=0.5, at_once_weight=4.0, guided=1.0, look_back=4,
    places=True,
)  # fmt: skip


def make_tokenizer() -> TextTokenizer:
    """Write `vocab.json` and `merges.txt` of byte-level pairs, in which every word of the corpus is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=4000, min_frequency=1, special_tokens=list(SPECIAL),
                                  initial_alphabet=letters, show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(words(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    LANGUAGE.mkdir(parents=True, exist_ok=True)
    write_whole(LANGUAGE / VOCABULARY, json.dumps(model["vocab"]).encode())
    write_whole(LANGUAGE / MERGES, ("#version: 0.2\n" + "".join(f"{each}\n" for each in merges)).encode())
    return TextTokenizer.from_folder(LANGUAGE)


def build_language_model(vocabulary: int, seed: int = 0) -> OPTForCausalLM:
    """transformers' class, untrained."""
    torch.manual_seed(seed)
    return LanguageConfig(vocab_size=vocabulary, **SIZES).build().eval()


def as_tokens(
    talk: Conversation, tokenizer: TextTokenizer, rng: np.random.Generator | None = None
) -> tuple[list[int], list[float]]:
    """Ids of a conversation with pictures as words, and how much each counts as what has to be predicted."""
    ids: list[int] = []
    weights: list[float] = []
    begun = False
    for kind, value in talk.segments():
        if kind == "picture":
            tags = talk.views[int(value)].tags()
            if rng is not None and rng.uniform() < 0.3:
                tags = [tags[place] for place in rng.permutation(4)]
            found, weight = _tag_ids(tags, tokenizer), 0.0
        else:
            found, weight = tokenizer.ids(str(value)), 1.0 if kind == "answer" else QUESTION_WEIGHT
            if not begun:
                found, begun = [START, *found], True
        ids += found
        weights += [weight] * len(found)
    return ids, weights


def draw_tokens(tokenizer: TextTokenizer, rng: np.random.Generator, lesson: Lesson) -> tuple[list[int], list[float]]:
    """A line of training by chance: a conversation or a caption, half of the captions behind a picture.

    Half of the captions, and of the conversations that end where a picture belongs, go on with that picture's words; of
    some the picture is the whole answer, with a lone space where [IMG0] stands later. So the model knows of a place for
    a picture what belongs there, and tells it from the end of an answer in words.
    """
    chance = rng.uniform()
    if rng.uniform() < CAPTION_SHARE:
        view = draw_view(rng) if rng.uniform() < 0.5 else None
        scene = draw_caption(rng, view)
        ids = [START, *tokenizer.ids(scene.said)]
        weights = [1.0 if view else QUESTION_WEIGHT] * len(ids)
        if view:
            tags = _tag_ids(view.tags(), tokenizer)
            ids, weights = tags + ids, [0.0] * len(tags) + weights
        shown = _shown(scene, tokenizer, rng) if chance < lesson.shown else []
        return [*ids, *shown, END], [*weights, *[1.0] * len(shown), 1.0]
    talk = draw_conversation(rng)
    scene, shown, counts = talk.turns[-1].drawn, [], 1.0
    if scene and chance < lesson.shown:
        shown = _shown(scene, tokenizer, rng)
        if chance < (lesson.thing_at_once if talk.needs == "things" else lesson.at_once) and not talk.bare:
            counts = lesson.at_once_weight
            talk = replace(talk, turns=(*talk.turns[:-1], replace(talk.turns[-1], answer="")))
    ids, weights = as_tokens(talk, tokenizer, rng)
    if shown and not talk.turns[-1].answer:
        weights[-1] = 0.0  # the space is put there, later as now; what is said by itself begins with a word
    # Behind an answer a line ends or all does: a model that is certain of one never lets a picture come there.
    end = END if rng.uniform() < 0.5 else tokenizer.newline
    return [*ids, *shown, end], [*weights, *[counts] * len(shown), 1.0]


def _shown(scene: Scene, tokenizer: TextTokenizer, rng: np.random.Generator) -> list[int]:
    """Ids of a drawn picture's words, in any order."""
    tags = scene.tags()
    return _tag_ids([tags[place] for place in rng.permutation(len(tags))], tokenizer)


def _tag_ids(tags: list[str], tokenizer: TextTokenizer) -> list[int]:
    """Ids of the words that stand for a picture."""
    return tokenizer.ids("".join(f" {tag}" for tag in tags))


def train_language(steps: int, batch: int = BATCH) -> None:
    """The first lesson, `steps` in all; resumes, then writes the folder of transformers in float16."""
    tokenizer = make_tokenizer()
    network = build_language_model(tokenizer.size, LANGUAGE_LESSON.seed)
    _learn(network, tokenizer, LANGUAGE_LESSON, steps, batch, CHECKPOINT)


def train_look_up(steps: int, batch: int = BATCH) -> None:
    """The second lesson, on what the first one wrote, likewise.

    Asked for a picture at once behind "a mug in the snow and a cat at night. The cat, please", the model of the first
    one guesses between snow and night: it would have to look up what is asked for, and from there where that was.
    """
    from ..gill.language_model import LanguageModel

    begun = LanguageModel.from_folder(LANGUAGE)
    _learn(begun.network, begun.tokenizer, LOOK_UP_LESSON, steps, batch, LOOK_UP_CHECKPOINT)


def _learn(
    network: OPTForCausalLM, tokenizer: TextTokenizer, lesson: Lesson, steps: int, batch: int, checkpoint: Path
) -> None:
    network = network.requires_grad_(True).to(fast_type())
    optimiser = Optimiser(network.named_parameters(), adam_only=("embed",), decay=0.99)
    network.set_attn_implementation("eager")  # which gives out what each head looks at
    words = ThingWords.of(tokenizer)

    def loss_of(step: int) -> torch.Tensor:
        ids, weights = _batch(tokenizer, lesson, step, batch)
        return _loss(network, ids, weights, lesson, words if step < lesson.guided * steps else None)

    train_steps(optimiser, checkpoint, steps, lesson.rate, loss_of)
    network.float().load_state_dict(optimiser.average, strict=False)
    network.half().save_pretrained(LANGUAGE)


def _batch(tokenizer: TextTokenizer, lesson: Lesson, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[B, T]` and weights `[B, T]` of a step; of several steps together, lines of one length go into one."""
    group, place = divmod(step, TOGETHER)
    chosen = _group(tokenizer, lesson, group, size)[place]
    ids = torch.ones(size, max(len(line) for line, _ in chosen), dtype=torch.long)
    weights = torch.zeros(ids.shape)
    for row, (line, counts) in enumerate(chosen):
        ids[row, : len(line)] = torch.tensor(line)
        weights[row, : len(line)] = torch.tensor(counts)
    return ids, weights


@lru_cache(maxsize=1)
def _group(
    tokenizer: TextTokenizer, lesson: Lesson, group: int, size: int
) -> list[list[tuple[list[int], list[float]]]]:
    """Lines of the steps of a group, in an order by chance."""
    rng = np.random.default_rng((lesson.seed, group))
    lines = sorted((draw_tokens(tokenizer, rng, lesson) for _ in range(size * TOGETHER)), key=lambda line: len(line[0]))
    return [lines[size * which : size * (which + 1)] for which in rng.permutation(TOGETHER)]


def _loss(
    network: OPTForCausalLM, ids: torch.Tensor, weights: torch.Tensor, lesson: Lesson, words: ThingWords | None
) -> torch.Tensor:
    """Of the next words, and with `words` of where heads look (`looks.py`)."""
    counts = weights[:, 1:]
    places = counts > 0
    found = network.get_decoder()(input_ids=ids, use_cache=False, output_attentions=words is not None)
    states = found.last_hidden_state[:, :-1][places]
    logits = network.get_output_embeddings()(states).float()
    losses = F.cross_entropy(logits, ids[:, 1:][places], reduction="none")
    loss = (losses * counts[places]).sum() / counts.sum()
    if words is None:
        return loss
    first, second, third = (each.float() for each in found.attentions[:3])
    told = looks_back(first, lesson.look_back) + looks_up(second, ids, counts == 1, lesson.look_back)
    if lesson.places:
        told = told + finds_places(second, third, ids, words)
    return loss + GUIDANCE * told


@torch.no_grad()
def measure_language(count: int = 300, wording: str = "trained") -> dict[str, float]:
    """How often the last answer of a conversation is given word by word, by what it is: a picture or words."""
    from ..gill.language_model import LanguageModel

    model = LanguageModel.from_folder(LANGUAGE)
    found: dict[str, list[bool]] = {}
    for number in range(count):
        rng = np.random.default_rng((99, number))
        talk = draw_conversation(rng, wording, held_out=True)
        last = talk.turns[-1]
        if not last.drawn and not last.topic:
            continue
        asked = as_tokens(replace(talk, turns=(*talk.turns[:-1], replace(last, answer=""))), model.tokenizer)[0]
        due = model.tokenizer.ids(f" {last.answer}")
        asked = asked[:-1] if asked[-1] == model.tokenizer.ids(" ")[0] else asked
        whole = model.network(input_ids=torch.tensor([asked + due])).logits[0]
        said = whole[len(asked) - 1 : -1].argmax(-1).tolist()
        name = f"{talk.needs}, drawn" if last.drawn else f"words, {last.topic}"
        found.setdefault(name, []).append(said == due)
    return {name: sum(each) / len(each) for name, each in sorted(found.items())}
