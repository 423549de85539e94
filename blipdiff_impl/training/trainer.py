"""The training loop of both stages, on `accelerate`: one process or several, one part of a step or several.

It knows neither images nor losses by name: a task (`task`) prepares samples, holds the model and writes the result.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import SubjectError
from ..files import require_writable_folder
from ..folder_lock import only_run_in
from .averages import AveragedWeights
from .loading import BatchShare, Positions, make_loader
from .optimisers import learning_rate, make_optimiser, set_rate
from .run_checkpoints import RunFolder
from .run_log import Progress, RunLog
from .samples import BrokenSample, Sample, Source
from .settings import StageSettings
from .settings_file import to_yaml
from .task import GridTask, Task

log = logging.getLogger(__name__)


Settings = TypeVar("Settings", bound=StageSettings)


def train_stage(
    settings: Settings, open_source: Callable[[Settings], Source], make_task: Callable[[Settings], Task[Any, Any]]
) -> Path:
    """Run a stage to its end, resumed from the newest checkpoint; returns the file that it writes.

    The folder is asked for first: nothing is loaded for a run that could keep nothing.
    """
    require_writable_folder(Path(settings.out))
    source = open_source(settings)
    return Trainer(make_task(settings), source).run()


class Trainer:
    """Trains the model of a task on a source; resumes from the newest checkpoint in `settings.out`.

    Raises:
        SubjectError: accelerate or TensorBoard is missing, a batch that cannot be shared out, a checkpoint of another
            run, or another run at work in the folder.
    """

    def __init__(self, task: Task[Any, Any], source: Source):
        settings = task.settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._task, self._source, self._settings = task, source, settings
        self._accelerator = make_accelerator(settings)
        self._sharded = self._accelerator.distributed_type in ("FSDP", "DEEPSPEED", "MEGATRON_LM")
        self._refuse_what_needs_whole_weights()
        self._folder = Path(settings.out)
        main, self._number = self._accelerator.is_main_process, self._accelerator.process_index
        with ExitStack() as held:
            if main:  # the processes of one launch share the folder
                self._folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(only_run_in(self._folder))
            self._prepare(task, source, main)
            self._held = held.pop_all()

    def _prepare(self, task, source: Source, main: bool) -> None:
        """Everything that the steps need, resumed where an earlier run stopped."""
        settings = self._settings
        self._share = BatchShare(
            settings.batch_size, settings.accumulation, self._number, self._accelerator.num_processes
        )
        self._positions = Positions(source, task, settings.seed)
        set_dropout(task.model, settings.dropout)
        task.frozen.to(self._accelerator.device)
        optimiser = make_optimiser(task.model.named_parameters(), settings, task.slow, task.vectors_decay)
        self._model, self._optimiser = self._accelerator.prepare(task.model, optimiser)
        self._average = self._make_average()
        self._checkpoints = RunFolder(self._folder, self._accelerator, settings, self._average)
        self._progress = self._checkpoints.resume(self._positions.order.count)
        self._log = self._open_log() if main else None

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
        with self._held:
            self._model.train()
            parts = iter(self._loader())
            while progress.step < settings.steps:
                progress.add(self._step([next(parts) for _ in range(settings.accumulation)]))
                self._after(progress.step)
            result = self._write()
            if self._log:
                self._log.close()
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
        """Dropout is drawn from the step alone, so that a resumed run draws what an uninterrupted one does."""
        entropy = np.random.SeedSequence((self._settings.seed, 4, step, part, self._number))
        torch.manual_seed(int(entropy.generate_state(1)[0]))

    def _clip(self) -> Tensor | None:
        """The gradients' joint length before clipping. With float16 the scaler leaves out steps where it is none."""
        length: Any = self._accelerator.clip_grad_norm_(self._model.parameters(), self._settings.clip or math.inf)
        if hasattr(length, "full_tensor"):  # each process of a sharded model knows a part of it
            length = length.full_tensor()
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
        if self._log and (step % settings.log_every == 0 or last):
            self._log.note(step, self._progress.take_means(), learning_rate(step, settings))
        elif step % settings.log_every == 0:
            self._progress.take_means()
        if isinstance(self._task, GridTask):
            self._show(self._task, step)
        if step % settings.save_every == 0 or last:
            self._checkpoints.save(self._progress)

    def _show(self, task: GridTask, step: int) -> None:
        """Draw samples, where they are due."""
        every, count = task.settings.sample_every, task.settings.sample_count
        if not every or step % every:
            return
        state = self._state()
        if self._log and (samples := self._shown_samples(count)):
            self._log.show(step, task.sample(state, samples))
        self._accelerator.wait_for_everyone()

    def _shown_samples(self, count: int) -> list[Sample]:
        """The first usable ones of the run, the same every time."""
        found: list[Sample] = []
        for position in range(min(2 * count, self._positions.order.count)):
            try:
                sample = self._source[self._positions.order[position]]
                self._task.prepare(sample, np.random.default_rng(0))
            except BrokenSample:  # named where it is trained on
                continue
            found.append(sample)
        return found[:count]

    def _state(self) -> dict[str, Tensor]:
        """Weights of the model by name; those of the running mean where there is one."""
        state = self._accelerator.get_state_dict(self._model)
        return state | (self._average.state() if self._average else {})

    def _write(self) -> Path:
        path, state = self._folder / self._task.result, self._state()
        if self._log:
            self._task.write(state, path)
            log.info("Written: %s", path)
        self._accelerator.wait_for_everyone()
        return path

    def _make_average(self) -> AveragedWeights | None:
        if not self._settings.ema_decay:
            return None
        return AveragedWeights(self._accelerator.unwrap_model(self._model), self._settings.ema_decay)

    def _refuse_what_needs_whole_weights(self) -> None:
        if self._sharded and self._settings.ema_decay:
            raise SubjectError("A running mean needs whole weights in each process; set ema_decay: 0 to shard them.")
        if self._sharded and self._settings.optimiser == "muon":
            raise SubjectError("Muon needs whole matrices in each process; set optimiser: adamw to shard them.")

    def _open_log(self) -> RunLog:
        settings = self._settings
        log.info("%s", to_yaml(settings))
        log.info(
            "%d samples, %d process(es) on %s, from step %d of %d", self._positions.order.count,
            self._accelerator.num_processes, self._accelerator.device, self._progress.step, settings.steps,
        )  # fmt: skip
        return RunLog(self._folder, self._progress.step, settings.steps, settings.batch_size, settings.tensorboard)


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
        modules: list[Any] = list(getattr(model, name, nn.Module()).modules())
        for module in modules:
            if isinstance(module, nn.Dropout):
                module.p = chance
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = chance
