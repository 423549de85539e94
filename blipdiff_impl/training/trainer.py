"""The training loop of both stages, on `accelerate`: one process or several, one part of a step or several.

It knows neither images nor losses by name: a task (`stage1_task`, `stage2_task`) prepares samples, holds the model and
writes the result.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import SubjectError
from .averaging import AveragedWeights
from .loading import Positions, Share, make_loader
from .optimisers import learning_rate, make_optimiser, set_rate
from .progress import Diary, Progress
from .run_folder import RunFolder
from .samples import BrokenSample, Sample, Source
from .settings import StageSettings
from .settings_file import to_yaml

log = logging.getLogger(__name__)


class Trainer:
    """Trains the model of a task on a source; goes on from the newest checkpoint in `settings.out`.

    Raises:
        SubjectError: accelerate or TensorBoard is missing, a batch that cannot be shared out, a checkpoint of another
            run.
    """

    def __init__(self, task, source: Source):
        settings: StageSettings = task.settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._task, self._source, self._settings = task, source, settings
        self._accelerator = make_accelerator(settings)
        main, self._number = self._accelerator.is_main_process, self._accelerator.process_index
        self._share = Share(settings.batch_size, settings.accumulation, self._number, self._accelerator.num_processes)
        self._positions = Positions(source, task, settings.seed)
        self._folder = Path(settings.out)
        set_dropout(task.model, settings.dropout)
        task.frozen.to(self._accelerator.device)
        optimiser = make_optimiser(task.model.named_parameters(), settings, task.slow, task.vectors_decay)
        self._model, self._optimiser = self._accelerator.prepare(task.model, optimiser)
        self._average = self._make_average()
        self._checkpoints = RunFolder(self._folder, self._accelerator, settings, self._average)
        self._progress = self._checkpoints.resume(self._positions.order.count)
        self._diary = self._open_diary() if main else None

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        return self._progress

    def run(self) -> Path:
        """Train to the last step and write the result; returns its path.

        Raises:
            SubjectError: a loss that is no number (the step is named), or data that cannot be used.
        """
        settings, progress = self._settings, self._progress
        self._model.train()
        parts = iter(self._loader())
        while progress.step < settings.steps:
            progress.add(self._step([next(parts) for _ in range(settings.accumulation)]))
            self._after(progress.step)
        result = self._write()
        if self._diary:
            self._diary.close()
        return result

    def _loader(self):
        first, last = self._progress.step, self._settings.steps
        return make_loader(self._positions, self._task.collate, self._share, first, last, self._settings.workers)

    def _step(self, parts: list[dict[str, Tensor]]) -> dict[str, float]:
        """One optimiser step; the losses are means over parts and processes."""
        step = self._progress.step + 1
        set_rate(self._optimiser, learning_rate(step, self._settings))
        sums: dict[str, Tensor] = {}
        length = None
        for number, raw in enumerate(parts):
            self._seed(step, number)
            with self._accelerator.accumulate(self._model):
                losses = self._losses(raw)
                self._accelerator.backward(sum(losses.values()))
                if self._accelerator.sync_gradients:
                    length = self._clip()
                self._optimiser.step()
                self._optimiser.zero_grad()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach().float() / len(parts)
        self._accelerator.unwrap_model(self._model).after_step()
        if self._average:
            self._average.update()
        means = self._agree(step, sums)
        self._require_finite(step, "The length of the gradient", length)
        return means

    def _losses(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        on_device = {name: tensor.to(self._accelerator.device) for name, tensor in raw.items()}
        with self._accelerator.autocast():
            return self._model(self._task.batch(on_device))

    def _seed(self, step: int, part: int) -> None:
        """Dropout is drawn from the step alone, so that a run that goes on draws what an unbroken one does."""
        entropy = np.random.SeedSequence((self._settings.seed, 4, step, part, self._number))
        torch.manual_seed(int(entropy.generate_state(1)[0]))

    def _clip(self) -> Tensor | None:
        """The gradients' joint length before clipping. With float16 the scaler leaves out steps where it is none."""
        length = self._accelerator.clip_grad_norm_(self._model.parameters(), self._settings.clip or math.inf)
        return None if self._settings.precision == "fp16" else length

    def _agree(self, step: int, losses: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes."""
        means = self._accelerator.reduce(torch.stack(list(losses.values())), "mean").tolist()
        for name, mean in zip(losses, means, strict=True):
            self._require_finite(step, f"The loss of {name}", mean)
        return dict(zip(losses, means, strict=True))

    def _require_finite(self, step: int, what: str, value: float | Tensor | None) -> None:
        if value is None or math.isfinite(float(value)):
            return
        newest = self._checkpoints.latest()
        where = f"The newest checkpoint is {newest}. " if newest else ""
        advice = "Lower the learning rate, or clip gradients further (clip)."
        raise SubjectError(f"{what} is {float(value)} in step {step}. {where}{advice}")

    def _after(self, step: int) -> None:
        """What is due after a step."""
        settings, last = self._settings, step == self._settings.steps
        if self._diary and (step % settings.log_every == 0 or last):
            self._diary.note(step, self._progress.take_means(), learning_rate(step, settings))
        elif step % settings.log_every == 0:
            self._progress.take_means()
        every = getattr(settings, "sample_every", 0)
        if every and step % every == 0:
            self._show(step)
        if step % settings.save_every == 0 or last:
            self._checkpoints.save(self._progress)

    def _show(self, step: int) -> None:
        state = self._state()
        samples = self._shown_samples() if self._diary else []
        if samples:
            self._diary.show(step, self._task.sample(state, samples))
        self._accelerator.wait_for_everyone()

    def _shown_samples(self) -> list[Sample]:
        """The first usable ones of the run, the same every time."""
        found: list[Sample] = []
        for position in range(min(2 * self._settings.sample_count, self._positions.order.count)):
            try:
                sample = self._source[self._positions.order[position]]
                self._task.prepare(sample, np.random.default_rng(0))
            except BrokenSample:  # named where it is trained on
                continue
            found.append(sample)
        return found[: self._settings.sample_count]

    def _state(self) -> dict[str, Tensor]:
        """Weights of the model by name; those of the running mean where there is one."""
        state = self._accelerator.get_state_dict(self._model)
        return state | (self._average.state() if self._average else {})

    def _write(self) -> Path:
        path, state = self._folder / self._task.result, self._state()
        if self._diary:
            self._task.write(state, path)
            log.info("Written: %s", path)
        self._accelerator.wait_for_everyone()
        return path

    def _make_average(self) -> AveragedWeights | None:
        if not self._settings.ema_decay:
            return None
        if self._accelerator.distributed_type in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise SubjectError("A running mean needs whole weights in each process; set ema_decay: 0 to shard them.")
        return AveragedWeights(self._accelerator.unwrap_model(self._model), self._settings.ema_decay)

    def _open_diary(self) -> Diary:
        settings = self._settings
        self._folder.mkdir(parents=True, exist_ok=True)
        log.info("%s", to_yaml(settings))
        log.info(
            "%d samples, %d process(es) on %s, from step %d of %d", self._positions.order.count,
            self._accelerator.num_processes, self._accelerator.device, self._progress.step, settings.steps,
        )  # fmt: skip
        return Diary(self._folder, self._progress.step, settings.steps, settings.batch_size, settings.tensorboard)


def make_accelerator(settings: StageSettings):
    """`accelerate.Accelerator` for these settings; how many processes there are is the launcher's choice.

    Raises:
        SubjectError: accelerate is not installed, or the precision is not possible here.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import GradientAccumulationPlugin
    except ImportError as error:
        raise SubjectError("Pre-training needs accelerate. Install it with `pip install accelerate`.") from error
    parts = GradientAccumulationPlugin(num_steps=settings.accumulation, sync_with_dataloader=False)
    try:
        # Without a GPU it has to be told so, or processes of one launch would not know of each other.
        on_cpu = not torch.accelerator.is_available()
        return Accelerator(mixed_precision=settings.precision, gradient_accumulation_plugin=parts, cpu=on_cpu)
    except ValueError as error:
        raise SubjectError(f"precision = {settings.precision} is not possible here: {error}") from error


def set_dropout(model: nn.Module, chance: float) -> None:
    """Give every dropout inside Q-Former and projection this chance; the other parts have none."""
    for name in ("qformer", "proj_layer"):
        for module in getattr(model, name, nn.Module()).modules():
            if isinstance(module, nn.Dropout):
                module.p = chance
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = chance
