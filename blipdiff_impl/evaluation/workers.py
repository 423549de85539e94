"""Drawing spread over Ray's processes: one task for each subject's tune, then one for each prompt and seed.

A picture depends on its task alone, and is written by the process that drew it, whole. So it does not matter which
process draws what, how many there are, or where one of them ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..blip_diffusion.checkpoints.opening import TOYBOX
from ..blip_diffusion.pipeline import SubjectPipeline
from ..errors import SubjectError
from ..ray_session import load_ray, ray_session
from .benchmark import BenchmarkSubject
from .generation import GenerationSettings, Generator, missing, tune_file

# A process that is gone is started again, and what it was at is drawn again. What ends it every time (memory, as a
# rule) should end the command in time.
_RESTARTS = 4

# A subject and what to draw of it; None tunes it only.
Work = tuple[BenchmarkSubject, tuple[int, int] | None]


@dataclass(frozen=True)
class Studio:
    """Makes a process's own `Generator`.

    Attributes:
        checkpoint, device, dtype: of the pipeline.
        pictures, tunes: folders, which all processes see.
    """

    checkpoint: str
    device: str
    dtype: torch.dtype
    settings: GenerationSettings
    pictures: Path
    tunes: Path

    def open(self) -> Generator:
        """Load the model.

        Raises:
            CheckpointError: it cannot be used.
        """
        pipeline = SubjectPipeline.from_checkpoint(self.checkpoint, self.device, self.dtype)
        return Generator(pipeline, self.settings, self.pictures, self.tunes)


def draw_with_ray(
    studio: Studio,
    subjects: list[BenchmarkSubject],
    workers: int,
    address: str = "",
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Draw what is missing with `workers` processes, of one thread each on a CPU, of one GPU each on GPUs.

    Args:
        address: of a running cluster whose computers see the same files; empty starts one here for this command.
        on_picture: called with (prompts done, prompts in all).

    Raises:
        SubjectError: Ray is not installed or not there, a process met what is wrong with a subject, or ended again and
            again.
    """
    ray = load_ray()
    studio, subjects = _anywhere(studio), [replace(s, photos=tuple(p.resolve() for p in s.photos)) for s in subjects]
    left = {subject.name: missing(studio.settings, studio.pictures, subject) for subject in subjects}
    tunes = [
        (subject, None)
        for subject in subjects
        if studio.settings.finetune and left[subject.name] and not tune_file(studio.tunes, subject).exists()
    ]
    prompts = [(subject, each) for subject in subjects for each in left[subject.name]]
    if not prompts:
        return
    with ray_session(ray, workers, address):
        cards = 1 if torch.device(studio.device).type == "cuda" else 0
        made = ray.remote(num_cpus=1, num_gpus=cards, max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(_Worker)
        pool = [made.remote(studio) for _ in range(min(workers, len(prompts)))]
        for work in (tunes, prompts):  # no prompt before its subject is tuned, or two processes would tune it
            for done, _ in enumerate(_finished(ray, pool, work), 1):
                if work is prompts:
                    on_picture(done, len(prompts))


def _anywhere(studio: Studio) -> Studio:
    """The same with paths that hold in whatever folder a process works in."""
    checkpoint = studio.checkpoint if studio.checkpoint == TOYBOX else str(Path(studio.checkpoint).resolve())
    return replace(studio, checkpoint=checkpoint, pictures=studio.pictures.resolve(), tunes=studio.tunes.resolve())


def _finished(ray, pool: list, work: Iterable[Work]) -> Iterator[None]:
    """Give every process of the pool one piece of work at a time; yields as they are done."""
    left, at_work = iter(work), {}

    def give(worker) -> None:
        piece = next(left, None)
        if piece is not None:
            at_work[worker.do.remote(*piece)] = worker

    for worker in pool:
        give(worker)
    while at_work:
        (done,), _ = ray.wait(list(at_work), num_returns=1)
        worker = at_work.pop(done)
        try:
            problem = ray.get(done)
        except ray.exceptions.RayError as error:
            raise SubjectError(
                f"A process that draws ended {_RESTARTS + 1} times, or could not be started ({_first_line(error)}). "
                "What was drawn is kept: use fewer --workers, or more memory, and run the same command again."
            ) from error
        if problem:
            raise SubjectError(problem)
        give(worker)
        yield


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Worker:
    """A process's state. What is wrong with a subject travels as an answer, not as a dead process."""

    def __init__(self, studio: Studio):
        torch.set_num_threads(1)  # how a sum is rounded depends on it
        self._generator, self._problem = None, ""
        try:
            self._generator = studio.open()
        except SubjectError as error:
            self._problem = str(error)

    def do(self, subject: BenchmarkSubject, drawn: tuple[int, int] | None) -> str:
        """Draw one prompt with one seed, or tune the subject; returns what is wrong, empty if nothing is."""
        if self._generator is None:
            return self._problem
        try:
            if drawn is None:
                self._generator.prepare(subject)
            else:
                self._generator.draw_prompt(subject, *drawn)
        except SubjectError as error:
            return str(error)
        return ""
