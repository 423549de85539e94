"""GILL by the protocols of its paper: how like the true picture is what is drawn from a short and from a long context,
is the true picture found among all, and how well are captions foretold (docs/method.md 14.11).

Every trial's answers and scores are kept as they come, so a run resumes where it was stopped.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..blip_diffusion.pipeline import SubjectPipeline
from ..errors import SubjectError
from ..files import as_tensor, picture_paths, read_json, read_picture, write_json, write_whole
from ..gill.decoding_settings import DRAW, DecodingSettings
from ..gill.interleaving import Prompt
from ..gill.language_model import new_cache
from ..gill.pipeline import GILL
from ..pictures.pixels import as_png
from ..pictures.towers import ClipTower
from ..weights.writing import write_tensors
from .lpips import Lpips
from .report import page_of, table_of
from .stories import VISDIAL, VIST, Trial

RECALLS = (1, 5, 10)
MEMORY, SECOND = "M", "S"
# By protocol and context, (CLIP similarity, LPIPS) of Stable Diffusion 1.5 and of GILL; from memory, not read again.
PUBLISHED: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    VIST: {
        "1 caption": {"Stable Diffusion 1.5": (0.592, 0.703), "GILL": (0.581, 0.702)},
        "5 captions": {"Stable Diffusion 1.5": (0.598, 0.704), "GILL": (0.612, 0.696)},
        "5 captions, 4 images": {"GILL": (0.641, 0.693)},
    },
    VISDIAL: {
        "1 round": {"Stable Diffusion 1.5": (0.552, 0.742), "GILL": (0.528, 0.742)},
        "5 rounds": {"Stable Diffusion 1.5": (0.629, 0.722), "GILL": (0.621, 0.718)},
        "10 rounds": {"Stable Diffusion 1.5": (0.622, 0.723), "GILL": (0.645, 0.714)},
    },
}
# Of VIST with five captions and four images, as a later paper quotes them.
PUBLISHED_RECALLS = {"GILL": (0.203, 0.450, 0.537), "FROMAGe": (0.182, 0.427, 0.518)}
NOTE = (
    "Published figures marked [M] are from memory and were not read again, those marked [S] are quoted by a later "
    "paper. Look them up before you cite them."
)


@dataclass(frozen=True)
class StorySettings:
    """How pictures are drawn.

    Attributes:
        steps, guidance, seed: of the sampler; the published ones.
    """

    steps: int = 50
    guidance: float = 7.5
    seed: int = 42


@dataclass(frozen=True, eq=False)
class Judges:
    """Who compares pictures."""

    clip: ClipTower
    lpips: Lpips | None


class StoryEvaluation:
    """One evaluation in a folder.

    Args:
        pipeline: draws; None where somebody else does, from the files in `conditioning`.
        out: `conditioning/<context>/<trial>.safetensors`, `pictures/<context>/<trial>.png`, `scores/<trial>.json`.
    """

    def __init__(
        self, gill: GILL, pipeline: SubjectPipeline | None, judges: Judges, settings: StorySettings, out: Path
    ):
        self._gill, self._pipeline, self._judges, self._settings, self._out = gill, pipeline, judges, settings, out

    def run(
        self, trials: Sequence[Trial], on_trial: Callable[[int, int], None] = lambda done, total: None
    ) -> list[dict[str, Any]]:
        """Scores of all trials; those that were scored before are read."""
        found = []
        for number, trial in enumerate(trials):
            found.append(self._trial(trial))
            on_trial(number + 1, len(trials))
        return found

    def _trial(self, trial: Trial) -> dict[str, Any]:
        path = self._out / "scores" / f"{trial.name}.json"
        record = read_json(path) or {}
        target = read_picture(trial.target)
        if "picture" not in record:
            record |= {"name": trial.name, "picture": self._embedding_of(target), "contexts": {}}
            record["caption_loss"] = self._caption_loss(trial.caption, target) if trial.caption.strip() else None
        seen: Tensor | None = None
        for name, items in trial.contexts.items():
            scores = record["contexts"].setdefault(name, {})
            if "text" not in scores:
                scores |= self._answer(trial, name, items)
            drawn = self._drawn(trial, name)
            if drawn is not None and "clip" not in scores:
                seen = self._judges.clip.pictures([target])[0] if seen is None else seen
                scores["clip"] = float(self._judges.clip.pictures([drawn])[0] @ seen)
            if drawn is not None and self._judges.lpips and "lpips" not in scores:
                scores["lpips"] = self._judges.lpips.distance(drawn, target)
        write_json(path, record)
        return record

    def _answer(self, trial: Trial, name: str, items: tuple[str | Path, ...]) -> dict[str, Any]:
        """What GILL hands over, kept as a file, and its embedding for retrieval."""
        read = [item if isinstance(item, str) else as_tensor(read_picture(item))[None] for item in items]
        # The first caption ends where the next begins: nothing is put between.
        reply = self._gill.reply(Prompt(tuple(read)), DecodingSettings(mode=DRAW, max_new_tokens=1), cut=True)
        path = self._out / "conditioning" / name / f"{trial.name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"conditioning": reply.conditioning[0].contiguous()}, {}, overwrite=True)
        if self._pipeline is not None:
            self._draw(reply.conditioning, self._out / "pictures" / name / f"{trial.name}.png")
        return {"text": reply.embedding.vectors[0].tolist()}

    def _draw(self, conditioning: Tensor, path: Path) -> None:
        pipeline, settings = self._pipeline, self._settings
        assert pipeline is not None
        with torch.inference_mode():
            noise = pipeline.start_noise(1, None, settings.seed)
            empty = pipeline.text_encoder.encode_plain("")
            latents = pipeline.denoise(noise, conditioning.to(empty), empty, settings.steps, settings.guidance)
            write_whole(path, as_png(pipeline.decode(latents)[0]))

    def _drawn(self, trial: Trial, name: str) -> Image.Image | None:
        folder = self._out / "pictures" / name
        if not folder.is_dir():
            return None
        path = next((each for each in picture_paths(folder) if each.stem == trial.name), None)
        return None if path is None else read_picture(path)

    def _embedding_of(self, picture: Image.Image) -> list[float]:
        return self._gill.picture_embeddings(as_tensor(picture)[None], squash=True)[0].tolist()

    @torch.no_grad()
    def _caption_loss(self, caption: str, picture: Image.Image) -> float:
        """Mean cross-entropy of the caption's words behind the picture."""
        gill = self._gill
        language = gill.language
        ids = language.tokenizer.ids(caption)
        embeddings = gill.embeddings(Prompt((as_tensor(picture)[None], caption)), cut=True)
        states = language.read(embeddings, new_cache())
        logits = language.logits(states[0, -len(ids) - 1 : -1]).float().cpu()
        return float(F.cross_entropy(logits, torch.tensor(ids)))


def summarise(protocol: str, records: list[dict[str, Any]], title: str) -> dict[str, Any]:
    """Means by context, beside what was published.

    Raises:
        SubjectError: there is nothing to summarise.
    """
    if not records:
        raise SubjectError("There is no trial to summarise.")
    pictures = torch.tensor([record["picture"] for record in records])
    contexts = {}
    for name in records[0]["contexts"]:
        scores = [record["contexts"][name] for record in records]
        texts = torch.tensor([each["text"] for each in scores])
        found: dict[str, Any] = {f"r{k}": value for k, value in recalls(texts, pictures).items()}
        for metric in ("clip", "lpips"):
            values = [each[metric] for each in scores if metric in each]
            found[metric] = statistics.fmean(values) if values else None
        found["drawn"] = sum("clip" in each for each in scores)
        contexts[name] = found
    losses = [record["caption_loss"] for record in records if record["caption_loss"] is not None]
    published = {
        name: {row: {"clip": clip, "lpips": lpips, "source": MEMORY} for row, (clip, lpips) in rows.items()}
        for name, rows in PUBLISHED[protocol].items()
    }
    return {
        "title": title, "protocol": protocol, "trials": len(records), "contexts": contexts,
        "caption_loss": statistics.fmean(losses) if losses else None, "published": published,
        "published_recalls": PUBLISHED_RECALLS if protocol == VIST else {}, "note": NOTE,
    }  # fmt: skip


def recalls(texts: Tensor, pictures: Tensor) -> dict[int, float]:
    """Shares of the texts whose own picture is among the k nearest; both `[N, R]` of unit length, in one order."""
    scores = texts @ pictures.T
    better = (scores > scores.diagonal()[:, None]).sum(1)
    return {k: float((better < k).float().mean()) for k in RECALLS}


def write_summary(summary: dict[str, Any], out: Path) -> None:
    """`results.json` and `report.html`."""
    write_json(out / "results.json", summary)
    heads = ("", "CLIP similarity", "LPIPS", *(f"R@{k}" for k in RECALLS))
    rows = []
    for name, scores in summary["contexts"].items():
        rows.append((escape(name), *(_shown(scores[key]) for key in ("clip", "lpips", *(f"r{k}" for k in RECALLS)))))
        for row, values in summary["published"].get(name, {}).items():
            mark = f" [{values['source']}]"
            cells = (_shown(values["clip"]) + mark, _shown(values["lpips"]) + mark, *[""] * len(RECALLS))
            rows.append((f"published: {escape(row)}", *cells))
    for row, values in summary["published_recalls"].items():
        cells = ("", "", *(f"{_shown(value)} [{SECOND}]" for value in values))
        rows.append((f"published, 5 captions, 4 images: {escape(row)}", *cells))
    body = [
        f"<h1>{escape(summary['title'])}</h1>",
        f"<p>{summary['trials']} trials of {escape(summary['protocol'])}. Loss of captions: "
        f"{_shown(summary['caption_loss'])}.</p>",
        table_of(heads, rows),
        f"<p>{escape(NOTE)}</p>",
    ]
    write_whole(out / "report.html", page_of(summary["title"], body).encode())


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
