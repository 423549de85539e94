"""How fast samples are made: a line now and then, and a summary. None of it goes into the shards' manifest."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, field

from .sample_making import STAGES, Outcome

_EVERY = 10.0  # seconds

log = logging.getLogger(__name__)


@dataclass
class Speed:
    """Photos made and the time they took: from the beginning of the first one to the end of the last, so that starting
    workers and loading models is not counted.

    Attributes:
        total: photos to come; cores: processes that make them.
        seconds: added up over all photos, by stage, in the processes' own clocks.
    """

    total: int
    cores: int
    done: int = 0
    rejected: int = 0
    seconds: Counter = field(default_factory=Counter)
    _began: float = math.inf
    _ended: float = -math.inf
    _shown: float = field(default_factory=time.monotonic)
    _warned: set[str] = field(default_factory=set)

    def note(self, outcome: Outcome) -> None:
        """Count an outcome; says how things stand every ten seconds, and each warning once."""
        self.done += 1
        self.rejected += bool(outcome.rule)
        self.seconds.update(outcome.seconds)
        self._began, self._ended = min(self._began, outcome.began), max(self._ended, outcome.ended)
        for warning in outcome.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                log.warning("%s", warning)
        if time.monotonic() - self._shown >= _EVERY:
            self._shown = time.monotonic()
            log.info("%s", self.line())

    @property
    def photos_per_second(self) -> float:
        """All cores together; 0 where nothing was done."""
        return self.done / (self._ended - self._began) if self._ended > self._began else 0.0

    def line(self) -> str:
        """Where the run stands."""
        rate = self.photos_per_second
        left = f", {(self.total - self.done) / rate / 60:.0f} minutes left" if rate and self.done < self.total else ""
        return (
            f"{self.done} of {self.total} photos, {self.rejected} left out, {rate:.2f} photos/s, "
            f"{rate / self.cores:.2f} photos/s/core{left}"
        )

    def stages(self) -> str:
        """Mean seconds of a photo in each stage."""
        parts = (f"{stage} {self.seconds[stage] / max(1, self.done):.3f}" for stage in STAGES)
        return f"seconds a photo: {', '.join(parts)}"
