"""Six ways of learning a subject, each from the same model, photos and noise, looked at while it learns.

Photos, masks, batch, optimiser (AdamW) and running mean are the same wherever the way lets us choose them; the host's
own trainer has neither masks nor mean. Times are those of the processor and leave out the judging.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from blipdiff_impl.blip_diffusion.finetuning.captions import plain_caption
from blipdiff_impl.blip_diffusion.finetuning.plain import frozen_text_encoder, make_tuner, with_learned
from blipdiff_impl.blip_diffusion.pipeline import SubjectPipeline
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.prompts.tokenizers import clip_ids
from blipdiff_impl.toybox.numbers_finetune import SETTINGS, Jury, draw, draw_contexts, training_pictures
from tools.numbers.headline.host_trainer import HostTrainer

RARE = "sks"
TARGET_STEPS = 80


@dataclass(frozen=True)
class Method:
    """One way of learning a subject.

    Attributes:
        title: for the plot and the table.
        rates: learning rates that were tried, as many for each way.
        rate: the best of them.
        steps: after which the subject is drawn and judged.
        learn: `learn(studio, case, rate, steps, note)` calls `note(step, draw)` after each of `steps`, where
            `draw()` makes the pictures of that moment.
    """

    title: str
    rates: tuple
    rate: float
    steps: tuple
    learn: Callable

    def curve(self, studio, case, rate=None, steps=None):
        """A record for each of the steps: step, seconds of the processor until then, scores."""
        records, watch = [], Stopwatch()

        def note(step, draw_now):
            with watch.paused():
                scores = studio.jury.score(case, draw_now())
                records.append({"step": step, "seconds": round(watch.seconds, 3), **scores})

        self.learn(studio, case, rate or self.rate, steps or self.steps, note)
        return records


class Studio:
    """What all ways share: the model as a pipeline and in the host, and the judge.

    Args:
        model: a checkpoint's path, or "toybox".
        comfy: from `load_comfy`.
    """

    def __init__(self, model, comfy):
        self._model, self._comfy = model, comfy
        self.pipeline, self.jury = SubjectPipeline.from_checkpoint(model), Jury()

    @cached_property
    def host_trainer(self):
        """The same model in the host."""
        return HostTrainer(self._comfy, self._model, self.pipeline.unet)


class Stopwatch:
    """Seconds of the processor, with pauses: what other programs do meanwhile does not count."""

    def __init__(self):
        self.seconds, self._since = 0.0, time.process_time()

    @contextmanager
    def paused(self):
        self.seconds += time.process_time() - self._since
        try:
            yield
        finally:
            self._since = time.process_time()


def _ours(method):
    def learn(studio, case, rate, steps, note):
        subject = studio.pipeline.encoder.encode(case.photos, case.category)
        _run(studio, case, subject, replace(SETTINGS, method=method, learning_rate=rate), steps, note)

    return learn


def _textual_inversion(studio, case, rate, steps, note):
    """The vectors start from the category's word; the UNet stays (Gal et al. 2022)."""
    word = frozen_text_encoder(studio.pipeline.text_encoder).embed(clip_ids(case.category)).mean(0)
    subject = _subject(studio, case, word.expand(1, 16, -1))
    _run(studio, case, subject, replace(SETTINGS, method="vectors", learning_rate=rate), steps, note)


def _dreambooth(studio, case, rate, steps, note):
    """A rare word stands for the subject, the whole UNet learns (Ruiz et al. 2022), without class pictures."""
    pipeline = studio.pipeline
    words = clip_ids(f"a {RARE} {case.category}")
    context = plain_caption(frozen_text_encoder(pipeline.text_encoder), words, padded=True)
    nothing = _subject(studio, case, torch.zeros(1, 16, pipeline.config.text_encoder.hidden_size))
    settings = replace(SETTINGS, method="full", learning_rate=rate)

    def drawn(learned):
        return draw_contexts(with_learned(pipeline, learned), rare_contexts(pipeline, case))

    # The vectors take no part: what they add has no value and no gradient.
    _run(studio, case, nothing, settings, steps, note, lambda vectors: context + 0 * vectors.sum(), drawn)


def _train_lora(studio, case, rate, steps, note):
    """The host's node, on a rare word as above."""

    def noted(step, unet):
        tuned = SubjectPipeline(studio.pipeline.config, None, studio.pipeline.text_encoder, unet, studio.pipeline.vae)
        note(step, lambda: draw_contexts(tuned, rare_contexts(studio.pipeline, case)))

    studio.host_trainer.train(case.photos, f"a {RARE} {case.category}", rate, steps, noted)


def rare_contexts(pipeline, case):
    """The case's places with the rare word in the prompt, as texts for the UNet."""
    return [pipeline.text_encoder.encode_plain(f"a {RARE} {case.category} {phrase}") for phrase in case.phrases]


def _subject(studio, case, vectors):
    return Subject(vectors, case.category, studio.pipeline.encoder.fingerprint)


def _run(studio, case, subject, settings, steps, note, context_of=None, drawn=None):
    """Fine-tune, and show what is learned after each of the steps."""
    pipeline, settings = studio.pipeline, replace(settings, steps=max(steps))
    pictures = training_pictures(pipeline, case, settings)
    tuner = make_tuner(pipeline, subject, pictures, settings, context_of=context_of)

    def with_vectors(learned):
        return draw(with_learned(pipeline, learned), replace(subject, embeddings=learned.vectors), case)

    def watch(done, losses):
        if done in steps:
            note(done, lambda: (drawn or with_vectors)(tuner.learned()))

    tuner.run(watch)


_SHORT = (0, 10, 20, 40, TARGET_STEPS)
_LONG = (0, 50, 100, 200, 400, 800)
METHODS = {
    "ours": Method("ours, full", (3e-5, 1e-4, 3e-4), 1e-4, _SHORT, _ours("full")),
    "lora": Method("ours, lora", (3e-6, 1e-5, 3e-5), 1e-5, _SHORT, _ours("lora")),
    "vectors": Method("ours, vectors", (3e-5, 1e-4, 3e-4), 1e-4, (*_SHORT, 160), _ours("vectors")),
    "dreambooth": Method("DreamBooth", (1e-4, 3e-4, 1e-3), 3e-4, _LONG, _dreambooth),
    "textual_inversion": Method("textual inversion", (1e-4, 3e-4, 1e-3), 3e-4, _LONG, _textual_inversion),
    "trainlora": Method("the host's TrainLoraNode", (3e-4, 1e-3, 3e-3), 1e-3, _LONG[:-1], _train_lora),
}
