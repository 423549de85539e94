"""The toy language model: a small OPT, trained on the words of the corpus alone and frozen from then on.

There are two lessons: the language, and then to look up at once what is asked for (`lines.py`).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
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
from .corpus import draw_conversation, words
from .lines import LANGUAGE_LESSON, LOOK_UP_LESSON, Lesson, Line, as_line, draw_line
from .looks import ThingWords, finds_places, looks_back, looks_up
from .places import FOLDER, LANGUAGE

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import OPTForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 768,
    "max_position_embeddings": 256,
}  # fmt: skip
PADDING = 1
BATCH, TOGETHER = 80, 8
GUIDANCE = 0.3  # what being told where to look counts in the loss
CHECKPOINT, LOOK_UP_CHECKPOINT = FOLDER / "language.pt", FOLDER / "look_up.pt"

log = logging.getLogger(__name__)


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
        read = _batch(tokenizer, lesson, step, batch)
        return _loss(network, read, lesson, step, words if step < lesson.guided * steps else None)

    train_steps(optimiser, checkpoint, steps, lesson.rate, loss_of)
    network.float().load_state_dict(optimiser.average, strict=False)
    network.half().save_pretrained(LANGUAGE)


@dataclass(frozen=True)
class _Read:
    """Lines of a step: ids, weights, and ids whose embeddings are added (padding: none), each `[B, T]`."""

    ids: torch.Tensor
    weights: torch.Tensor
    beside: torch.Tensor


def _batch(tokenizer: TextTokenizer, lesson: Lesson, step: int, size: int) -> _Read:
    """Of several steps together, lines of one length go into one."""
    group, place = divmod(step, TOGETHER)
    return _together(_group(tokenizer, lesson, group, size)[place])


def _together(lines: list[Line]) -> _Read:
    ids = torch.full((len(lines), max(len(line.ids) for line in lines)), PADDING)
    beside = ids.clone()
    weights = torch.zeros(ids.shape)
    for row, line in enumerate(lines):
        ids[row, : len(line.ids)] = torch.tensor(line.ids)
        weights[row, : len(line.ids)] = torch.tensor(line.weights)
        for at, second in line.beside.items():
            beside[row, at] = second
    return _Read(ids, weights, beside)


@lru_cache(maxsize=1)
def _group(tokenizer: TextTokenizer, lesson: Lesson, group: int, size: int) -> list[list[Line]]:
    """Lines of the steps of a group, in an order by chance."""
    rng = np.random.default_rng((lesson.seed, group))
    lines = sorted((draw_line(tokenizer, rng, lesson) for _ in range(size * TOGETHER)), key=lambda line: len(line.ids))
    return [lines[size * which : size * (which + 1)] for which in rng.permutation(TOGETHER)]


def _loss(network: OPTForCausalLM, read: _Read, lesson: Lesson, step: int, words: ThingWords | None) -> torch.Tensor:
    """Of the next words, and with `words` of where heads look (`looks.py`)."""
    ids, counts = read.ids, read.weights[:, 1:]
    places = counts > 0
    embedded = _embedded(network, read)
    if lesson.blur is not None:
        embedded = embedded + _blur(read, embedded, lesson.blur, lesson.seed * 10**6 + step)
    found = network.get_decoder()(inputs_embeds=embedded, use_cache=False, output_attentions=words is not None)
    states = found.last_hidden_state[:, :-1][places]
    logits = network.get_output_embeddings()(states).float()
    losses = F.cross_entropy(logits, ids[:, 1:][places], reduction="none")
    loss = (losses * counts[places]).sum() / counts.sum()
    if words is None:
        return loss
    first, second, third = (each.float() for each in found.attentions[:3])
    told = looks_back(first) + looks_up(second, ids, counts == 1)
    if lesson.places:
        told = told + finds_places(second, third, ids, words)
    return loss + GUIDANCE * told


def _embedded(network: OPTForCausalLM, read: _Read) -> torch.Tensor:
    """Embeddings `[B, T, width]`; where two words are read at once, their sum."""
    table = network.get_input_embeddings()
    return table(read.ids) + table(read.beside) * (read.beside != PADDING)[..., None]


def _blur(read: _Read, like: torch.Tensor, deviation: float, seed: int) -> torch.Tensor:
    """Noise on the three positions of a picture, `[B, T, width]`: its encoder will not be sure of its words, either."""
    last = read.beside != PADDING
    picture = last | F.pad(last, (-1, 1)) | F.pad(last, (-2, 2))
    noise = deviation * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return (noise * picture[..., None]).to(like)


@torch.no_grad()
def measure_language(count: int = 300, as_prefix: bool = False) -> dict[str, float]:
    """How often the last answer of a conversation is given word by word, by what it is: a picture or words.

    Args:
        as_prefix: pictures are as the second lesson has them, without noise.
    """
    from ..gill.language_model import LanguageModel

    model = LanguageModel.from_folder(LANGUAGE)
    found: dict[str, list[bool]] = {}
    for number in range(count):
        talk = draw_conversation(np.random.default_rng((99, number)), held_out=True)
        last = talk.turns[-1]
        if not last.drawn and not last.topic:
            continue
        line = as_line(talk, model.tokenizer, as_prefix=as_prefix)
        due = model.tokenizer.ids(f" {last.answer}")  # what the line ends in
        logits = model.network(inputs_embeds=_embedded(model.network, _together([line]))).logits[0]
        said = logits[-len(due) - 1 : -1].argmax(-1).tolist()
        name = f"{talk.needs}, drawn" if last.drawn else f"words, {last.topic}"
        found.setdefault(name, []).append(said == due)
    return {name: sum(each) / len(each) for name, each in sorted(found.items())}
