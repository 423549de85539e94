"""What a folder of shards holds and what it was made from: `manifest.json` and `rejects.jsonl`.

Both are brought up to date after each shard, so that a killed run resumes behind the last one that is whole. Nothing in
them depends on time, on the number of workers, or on whether the run was ever interrupted.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ....errors import SubjectError, one_line
from ....files import read_json, sha256_of, write_json, write_whole
from ....settings import require_same
from ..photo_list import Photo
from .rejects import RULES
from .sample_making import Outcome

MANIFEST, REJECTS = "manifest.json", "rejects.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardRecord:
    """One shard in the manifest.

    Attributes:
        samples, photos: in it, and of the list that were looked at for it, those left out included.
        bytes, sha256: of the tar file.
        source: SHA-256 over those photos' lines in the list.
    """

    name: str
    samples: int
    photos: int
    bytes: int
    sha256: str
    source: str


class Manifest:
    """The state of an output folder.

    Args:
        folder: of the shards.
        made_from: settings and digests that decide what is in the shards.

    Raises:
        SubjectError: the folder holds shards made from something else, or a damaged manifest.
    """

    def __init__(self, folder: Path, made_from: dict):
        self.folder, self.made_from = folder, made_from
        self.shards: list[ShardRecord] = []
        self.complete = False
        self._rejects: list[str] = []  # lines of finished shards
        self._rules: Counter[str] = Counter()  # of those lines
        if record := read_json(folder / MANIFEST):
            self._take_up(record)

    @property
    def photos(self) -> int:
        """Photos of the list that finished shards account for."""
        return sum(shard.photos for shard in self.shards)

    @property
    def samples(self) -> int:
        """Samples in finished shards."""
        return sum(shard.samples for shard in self.shards)

    def rejected(self) -> dict[str, int]:
        """Photos left out, by rule; every rule is there."""
        return {rule: self._rules[rule] for rule in RULES}

    def add(self, shard: ShardRecord, rejects: list[Outcome]) -> None:
        """Note a shard that now has its name, and the photos left out on the way to it."""
        self.shards.append(shard)
        self._note(rejects)

    def finish(self, rejects: list[Outcome]) -> None:
        """Note that the list is at its end, and the photos left out behind the last shard."""
        self.complete = True
        self._note(rejects)

    def _note(self, rejects: list[Outcome]) -> None:
        self._rejects += [reject_line(outcome) for outcome in rejects]
        self._rules.update(outcome.rule for outcome in rejects)
        write_whole(self.folder / REJECTS, "".join(self._rejects).encode())
        write_json(self.folder / MANIFEST, self._record())

    def _record(self) -> dict:
        return {
            "complete": self.complete,
            "photos": self.samples + len(self._rejects),
            "samples": self.samples,
            "rejected": self.rejected(),
            "made_from": self.made_from,
            "shards": [asdict(shard) for shard in self.shards],
        }

    def _take_up(self, record: dict) -> None:
        try:
            before, shards = record["made_from"], [ShardRecord(**shard) for shard in record["shards"]]
            self.complete = record["complete"]
            left_out = sum(record["rejected"].values())
            counts = [count for shard in shards for count in (shard.samples, shard.photos, shard.bytes)]
            texts = [text for shard in shards for text in (shard.name, shard.sha256, shard.source)]
            if not (isinstance(before, dict) and _all_of(int, [*counts, left_out]) and _all_of(str, texts)):
                raise TypeError("values of other kinds")
        except (KeyError, TypeError, AttributeError) as error:
            raise SubjectError(
                f"{self.folder / MANIFEST} is no manifest of shards ({one_line(error)}). Choose another --out."
            ) from error
        complaint = f"{self.folder} holds shards that were made from something else"
        require_same(before, self.made_from, complaint, "Use that again, or another --out.")
        self.shards = _whole(self.folder, shards)
        self.complete = self.complete is True and len(self.shards) == len(shards)
        self._read_rejects(left_out if self.complete else self.photos - self.samples)

    def _read_rejects(self, count: int) -> None:
        """Take up the lines of finished shards; later ones belong to photos that are looked at again."""
        path = self.folder / REJECTS
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:count]
            self._rules.update(json.loads(line)["rule"] for line in lines)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SubjectError(
                f"{path} does not hold the {count} lines that {MANIFEST} names ({error}). Remove both, and the "
                "shards are made again."
            ) from error
        self._rejects = [line + "\n" for line in lines]


def reject_line(outcome: Outcome) -> str:
    """A line of `rejects.jsonl`."""
    record = {"key": outcome.key, "rule": outcome.rule, "reason": outcome.reason}
    return json.dumps(record, ensure_ascii=False) + "\n"


def source_digest(photos: Iterable[Photo]) -> str:
    """SHA-256 over what the list says of photos."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(json.dumps(asdict(photo)).encode() + b"\n")
    return digest.hexdigest()


def _all_of(kind: type, values: list) -> bool:
    return all(type(value) is kind for value in values)


def _whole(folder: Path, shards: list[ShardRecord]) -> list[ShardRecord]:
    """The shards before the first one that is missing or holds other bytes, which is said: it is made again."""
    for count, shard in enumerate(shards):
        path = folder / shard.name
        if Path(shard.name).name != shard.name or not path.is_file() or path.stat().st_size != shard.bytes:
            return shards[:count]
        if sha256_of(path) != shard.sha256:
            log.warning("%s does not hold the bytes that were written: it is made again, with all behind it.", path)
            return shards[:count]
    return shards
