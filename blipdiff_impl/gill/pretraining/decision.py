"""The classifier that says whether a picture should be drawn or retrieved, from prompts that people voted on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import SubjectError, shown
from ...files import read_text
from ...settings import require_in_range
from ...untrusted import parse_json
from ..checkpoint import save_gill
from ..config import IMAGE_TOKENS
from ..decoding import decode
from ..decoding_settings import DRAW, DecodingSettings
from ..interleaving import Prompt
from ..parts import LearnedParts, make_classifier
from ..pipeline import GILL, load_gill

CLASSES = ("gen", "ret")
_SURE, _NEARLY = 4, 3


@dataclass(frozen=True)
class Labelled:
    """A prompt and what it is: 0 to draw, 1 to retrieve."""

    prompt: str
    label: int


def read_votes(path: Path) -> list[Labelled]:
    """Prompts of a file on which people agree; those for which drawing and retrieving are the same are left out.

    A line each: `{"prompt": "a robot cat", "votes": {"gen": 4, "ret": 1, "same": 0}}`. They agree with four votes for
    one, or with three where no other has more than one.

    Raises:
        SubjectError: there is no such file, a line is something else, or one class has no prompt.
    """
    found = []
    for number, line in enumerate(read_text(path, "The labelled prompts").splitlines(), 1):
        if line.strip():
            found.append(_labelled(line, f"Line {number} of {path}"))
    usable = [each for each in found if each is not None]
    for label, name in enumerate(CLASSES):
        if not any(each.label == label for each in usable):
            raise SubjectError(f"{path} has no prompt on which the votes agree for {name!r}; both are needed.")
    return usable


def _labelled(line: str, where: str) -> Labelled | None:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise SubjectError(f"{where} is no JSON ({error}).") from error
    prompt, votes = (record.get(name) for name in ("prompt", "votes")) if isinstance(record, dict) else (None, None)
    if (
        not isinstance(prompt, str)
        or not prompt.strip()
        or not isinstance(votes, dict)
        or any(name not in (*CLASSES, "same") or type(count) is not int or count < 0 for name, count in votes.items())
    ):
        raise SubjectError(
            f'{where} should be {{"prompt": "...", "votes": {{"gen": 4, "ret": 1, "same": 0}}}}, but it is '
            f"{shown(line, 80)}."
        )
    counts = sorted(((count, name) for name, count in votes.items()), reverse=True)
    most, name = counts[0] if counts else (0, "same")
    second = counts[1][0] if len(counts) > 1 else 0
    agreed = most >= _SURE or (most == _NEARLY and second <= 1)
    return Labelled(prompt, CLASSES.index(name)) if agreed and name in CLASSES else None


def states_of(gill: GILL, prompts: Sequence[str], on_prompt: Callable[[int], None] = lambda done: None) -> Tensor:
    """The last state at [IMG0] right behind each prompt, `[N, W]`, float32 on the CPU."""
    found = []
    for number, prompt in enumerate(prompts):
        embeddings = gill.embeddings(Prompt((prompt,)), IMAGE_TOKENS + 1)
        settings = DecodingSettings(mode=DRAW, max_new_tokens=1)
        found.append(decode(gill.language, embeddings, settings, gill.config.image_tokens).states[0, 0].float().cpu())
        on_prompt(number + 1)
    return torch.stack(found)


def train_classifier(
    states: Tensor, labels: Tensor, *, steps: int = 2000, rate: float = 1e-3, seed: int = 0
) -> nn.Sequential:
    """A classifier for `LearnedParts.decision_model`: all prompts in each step, as published.

    Args:
        states: `[N, W]`; labels: `[N]` of 0 and 1.

    Raises:
        SubjectError: a setting out of range.
    """
    require_in_range("steps", steps, 1, 10**6)
    require_in_range("learning_rate", rate, 1e-8, 1)
    torch.manual_seed(seed)
    classifier = make_classifier(states.shape[1]).train()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(classifier(states), labels).backward()
        optimiser.step()
    return classifier.eval().requires_grad_(False)


def macro_f1(found: Tensor, due: Tensor) -> float:
    """The mean over both classes of the harmonic mean of precision and recall."""
    scores = []
    for label in range(len(CLASSES)):
        hits = int(((found == label) & (due == label)).sum())
        both = int((found == label).sum()) + int((due == label).sum())
        scores.append(2 * hits / both if both else 0.0)
    return sum(scores) / len(scores)


def with_classifier(gill: GILL, classifier: nn.Sequential) -> dict[str, Tensor]:
    """All weights of the learned parts, with this classifier."""
    own = {name: value for name, value in gill.parts.state_dict().items() if not name.startswith("decision_model.")}
    return own | {f"decision_model.{name}": value for name, value in classifier.state_dict().items()}


def labels_of(rows: Sequence[Labelled]) -> Tensor:
    """Labels as numbers, `[N]`."""
    return torch.tensor([each.label for each in rows])


def add_classifier(
    model: Path,
    language_model: Path,
    prompts: Path,
    destination: Path,
    *,
    train: int = 600,
    steps: int = 2000,
    rate: float = 1e-3,
    seed: int = 0,
    overwrite: bool = False,
) -> str:
    """Train the classifier on the frozen model, and write all as one file; returns the report.

    Args:
        prompts: as `read_votes` takes them; the first `train` are trained on, the others judge.

    Raises:
        CheckpointError: a model cannot be used, or the file cannot be written.
        SubjectError: the prompts cannot be used, or a setting is out of range.
    """
    rows = read_votes(prompts)
    gill = load_gill(model, language_model)
    states, labels = states_of(gill, [each.prompt for each in rows]), labels_of(rows)
    count = min(train, len(rows))
    classifier = train_classifier(states[:count], labels[:count], steps=steps, rate=rate, seed=seed)
    judged = classifier(states[count:]).argmax(-1)
    score = macro_f1(judged, labels[count:]) if len(judged) else None
    parts = LearnedParts.from_tensors(replace(gill.config, decision=True), with_classifier(gill, classifier))
    save_gill(parts, destination, torch.float32, overwrite=overwrite)
    return report(rows[:count], rows[count:], score)


def report(rows: Sequence[Labelled], held_out: Sequence[Labelled], score: float | None) -> str:
    """One JSON line: how many prompts trained, how many judged, and the macro F1 on those."""
    return json.dumps({"trained_on": len(rows), "judged_on": len(held_out), "decision_f1": score})
