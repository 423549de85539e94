"""The toy language model: a small OPT, trained on the words of the corpus alone and frozen from then on.

A picture stands in it as four words, before the start token where a conversation begins with one, so that pictures have
a place in its language later.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
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
from .places import FOLDER, LANGUAGE

if TYPE_CHECKING:
    from transformers import OPTForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 768,
    "max_position_embeddings": 256,
}  # fmt: skip
START = END = 2
CAPTION_SHARE, QUESTION_WEIGHT, TOGETHER = 0.2, 0.1, 8
SHOWN, SHOWN_AT_ONCE = 0.5, 0.1  # share of the drawn pictures whose words are read, and of those behind no answer
GUIDED, GUIDANCE = 0.5, 0.3  # share of the steps that are told where to look, and what that counts in the loss
LOOK_BACK = 3  # words before, which as many heads of the first layer look at
LOOK_UP_HEADS = 2  # of the second layer
CHECKPOINT = FOLDER / "language.pt"

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


def draw_tokens(tokenizer: TextTokenizer, rng: np.random.Generator) -> tuple[list[int], list[float]]:
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
        shown = _shown(scene, tokenizer, rng) if chance < SHOWN else []
        return [*ids, *shown, END], [*weights, *[1.0] * len(shown), 1.0]
    talk = draw_conversation(rng)
    scene, shown = talk.turns[-1].drawn, []
    if scene and chance < SHOWN:
        shown = _shown(scene, tokenizer, rng)
        if chance < SHOWN_AT_ONCE and not talk.bare:
            talk = replace(talk, turns=(*talk.turns[:-1], replace(talk.turns[-1], answer="")))
    ids, weights = as_tokens(talk, tokenizer, rng)
    # Behind an answer a line ends or all does: a model that is certain of one never lets a picture come there.
    end = END if rng.uniform() < 0.5 else tokenizer.newline
    return [*ids, *shown, end], [*weights, *[1.0] * len(shown), 1.0]


def _shown(scene: Scene, tokenizer: TextTokenizer, rng: np.random.Generator) -> list[int]:
    """Ids of a drawn picture's words, in any order."""
    tags = scene.tags()
    return _tag_ids([tags[place] for place in rng.permutation(len(tags))], tokenizer)


def _tag_ids(tags: list[str], tokenizer: TextTokenizer) -> list[int]:
    """Ids of the words that stand for a picture."""
    return tokenizer.ids("".join(f" {tag}" for tag in tags))


def train_language(steps: int, batch: int = 80, rate: float = 3e-3, seed: int = 11) -> None:
    """Train for `steps` in all; resumes, then writes the folder of transformers in float16."""
    tokenizer = make_tokenizer()
    network = build_language_model(tokenizer.size, seed).to(fast_type())
    optimiser = Optimiser(network.named_parameters(), adam_only=("embed",), decay=0.99)
    network.set_attn_implementation("eager")  # which gives out what each head looks at

    def loss_of(step: int) -> torch.Tensor:
        return _loss(network, *_batch(tokenizer, seed, step, batch), GUIDANCE if step < GUIDED * steps else 0.0)

    train_steps(optimiser, CHECKPOINT, steps, rate, loss_of)
    network.float().load_state_dict(optimiser.average, strict=False)
    network.half().save_pretrained(LANGUAGE)


def _batch(tokenizer: TextTokenizer, seed: int, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[B, T]` and weights `[B, T]` of a step; of several steps together, lines of one length go into one."""
    group, place = divmod(step, TOGETHER)
    chosen = _group(tokenizer, seed, group, size)[place]
    ids = torch.ones(size, max(len(line) for line, _ in chosen), dtype=torch.long)
    weights = torch.zeros(ids.shape)
    for row, (line, counts) in enumerate(chosen):
        ids[row, : len(line)] = torch.tensor(line)
        weights[row, : len(line)] = torch.tensor(counts)
    return ids, weights


@lru_cache(maxsize=1)
def _group(tokenizer: TextTokenizer, seed: int, group: int, size: int) -> list[list[tuple[list[int], list[float]]]]:
    """Lines of the steps of a group, in an order by chance."""
    rng = np.random.default_rng((seed, group))
    lines = sorted((draw_tokens(tokenizer, rng) for _ in range(size * TOGETHER)), key=lambda line: len(line[0]))
    return [lines[size * which : size * (which + 1)] for which in rng.permutation(TOGETHER)]


def _loss(network: OPTForCausalLM, ids: torch.Tensor, weights: torch.Tensor, guided: float) -> torch.Tensor:
    counts = weights[:, 1:]
    places = counts > 0
    found = network.get_decoder()(input_ids=ids, use_cache=False, output_attentions=guided > 0)
    states = found.last_hidden_state[:, :-1][places]
    logits = network.get_output_embeddings()(states).float()
    losses = F.cross_entropy(logits, ids[:, 1:][places], reduction="none")
    loss = (losses * counts[places]).sum() / counts.sum()
    return loss + guided * _guidance(found.attentions, ids, counts == 1) if guided > 0 else loss


def _guidance(attentions: tuple[torch.Tensor, ...], ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """How far the first two layers are from looking things up (an induction head, Olsson et al. 2022).

    Heads of the first layer are to look at the words one, two and three before; two of the second layer, where an
    answer repeats what was said earlier, at the word that came next there. Which of two things stands where is read
    that way. A model of this size does not come to it by itself in four thousand steps; told where to look, in some
    hundred.

    Args:
        attentions: of each layer [B, heads, T, T].
        ids: [B, T].
        answers: bool [B, T - 1], whether the next word is one of an answer.

    Returns:
        Mean -log of the attention that lies where it should, the first layer's and the second's added: 0 at best.
    """
    first, second = attentions[0].float(), attentions[1].float()
    before = [
        -first[:, back - 1].diagonal(-back, 1, 2)[:, LOOK_BACK - back :].clamp(min=1e-4).log().mean()
        for back in range(1, LOOK_BACK + 1)
    ]
    same = (ids[:, :, None] == ids[:, None]).tril(-1)
    length, run = same.int(), same
    for back in range(1, LOOK_BACK + 1):
        run = run & F.pad(same[:, :-back, :-back], (back, 0, back, 0))
        length = length + run
    # what came next there has to be what comes next here
    length = length[:, :-1, :-1] * (ids[:, 1:, None] == ids[:, None, 1:]) * answers[..., None]
    best = (length == length.amax(-1, keepdim=True).clamp(min=1)).float()
    known = best.sum(-1) > 0
    looked = (second[:, :LOOK_UP_HEADS, :-1, 1:] * best[:, None]).sum(-1).clamp(min=1e-4).log()
    return sum(before) / LOOK_BACK - looked.transpose(1, 2)[known].sum() / (LOOK_UP_HEADS * known.sum()).clamp(min=1)


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
