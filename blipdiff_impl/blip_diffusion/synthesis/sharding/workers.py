"""Who makes the samples: this process, or workers of Ray Data, on one computer or on a cluster. Either way outcomes
come in the order of the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict

import torch

from ....errors import SubjectError
from ....ray_session import load_ray, ray_session
from ..photo_list import Photo, parse_photo
from .sample_making import MEMBERS, Outcome, SampleMaker

_PHOTOS_OF_A_TASK = 8

# Makes a process's own `SampleMaker`.
MakerFactory = Callable[[], SampleMaker]


def make_here(factory: MakerFactory, photos: list[Photo]) -> Generator[Outcome, None, None]:
    """A plain loop."""
    maker = factory()
    for photo in photos:
        with one_thread():
            outcome = maker.make(photo)
        yield outcome


@contextmanager
def one_thread():
    """PyTorch and PyMatting's compiled functions on one thread, which is as fast for pictures of this size.

    The second thread of numba only spins while the first one works: two workers on two cores would be no faster than
    one.
    """
    import numba

    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def make_with_ray(
    factory: MakerFactory, photos: list[Photo], workers: int, address: str = ""
) -> Generator[Outcome, None, None]:
    """Ray Data with `workers` processes of one thread each.

    Args:
        address: of a running cluster; empty starts one here, of as many CPUs as workers, and ends it afterwards.

    Raises:
        SubjectError: Ray is not installed, the cluster does not answer, or a worker met what every photo would meet.
    """
    ray = load_ray()
    if not photos:
        return
    with ray_session(ray, workers, address):
        rows = [{"photo": json.dumps(asdict(photo))} for photo in photos]
        tasks = max(workers, -(-len(rows) // _PHOTOS_OF_A_TASK))
        dataset = ray.data.from_items(rows, override_num_blocks=min(tasks, len(rows)))
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        pool = ray.data.ActorPoolStrategy(size=workers)
        made = dataset.map(_Worker, fn_constructor_args=(factory,), compute=pool, num_cpus=1)
        yield from map(_from_row, made.iter_rows())


class _Worker:
    """A worker's state. A mistake that every photo would meet travels as an answer, not as a dead process."""

    def __init__(self, factory: MakerFactory):
        self._maker, self._problem = None, ""
        try:
            self._maker = factory()
        except SubjectError as error:
            self._problem = str(error)

    def __call__(self, row: dict) -> dict:
        if self._maker is None:
            return _problem_row(self._problem)
        try:
            with one_thread():
                return _to_row(self._maker.make(parse_photo(json.loads(row["photo"]))))
        except SubjectError as error:
            return _problem_row(str(error))


def _to_row(outcome: Outcome) -> dict:
    """Columns of Ray's tables: one of text, one for each member's bytes."""
    about = {name: value for name, value in vars(outcome).items() if name != "members"}
    return {"about": json.dumps(about)} | {name: outcome.members.get(name, b"") for name in MEMBERS}


def _problem_row(problem: str) -> dict:
    return {"about": json.dumps({"problem": problem})} | dict.fromkeys(MEMBERS, b"")


def _from_row(row: dict) -> Outcome:
    about = json.loads(row["about"])
    if problem := about.get("problem"):
        raise SubjectError(problem)
    members = {name: row[name] for name in MEMBERS if row[name]}
    return Outcome(members=members, **about)
