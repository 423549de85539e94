"""Ray, for commands that spread their work over processes: one computer's, or a cluster's."""

from __future__ import annotations

import logging
from contextlib import contextmanager

from .errors import SubjectError, shown

MOST_WORKERS = 1024


def check_workers(workers: int, address: str) -> None:
    """Refuse an impossible `--workers`, or `--ray-address` without it.

    Raises:
        SubjectError: either of them.
    """
    if not 0 <= workers <= MOST_WORKERS:
        raise SubjectError(f"--workers {shown(workers)} is not possible; it may be 0 (a plain loop) to {MOST_WORKERS}.")
    if address and not workers:
        raise SubjectError("--ray-address goes with --workers: say how many processes the cluster should run.")


def load_ray():
    """Ray with Ray Data.

    Raises:
        SubjectError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SubjectError(
            f'--workers needs Ray, which cannot be imported ({error}). Install it with `pip install ".[synthesis]"` in '
            "the checkout, or leave --workers out."
        ) from error
    return ray


@contextmanager
def ray_session(ray, workers: int, address: str):
    """A cluster: the caller's own if there is one in this process, the one at `address`, or a fresh local one."""
    if ray.is_initialized():
        yield
        return
    # "local" also when the environment names a cluster: where work is done is said by the command alone. A cluster
    # started here sends no usage statistics (Ray's own default for releases).
    where = {"address": address} if address else {"address": "local", "num_cpus": workers, "include_dashboard": False}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SubjectError(f"Ray cannot be started with address = {address or 'local'!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
