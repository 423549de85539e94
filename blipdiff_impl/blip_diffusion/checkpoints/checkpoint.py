"""An opened checkpoint: which tensors make up each part, whatever files they lie in."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...weights.fingerprint import fingerprint_of
from ...weights.renames import Rules, rename
from ...weights.strict import check_part
from ...weights.tensor_file import TensorFile, TensorInfo
from ..config import ModelConfig
from .expected_shapes import PARTS, expected_shapes
from .renames import POSITION_IDS
from .vocabulary import default_vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    file: TensorFile
    name: str

    @property
    def info(self) -> TensorInfo:
        return self.file.infos[self.name]


@dataclass
class PartTensors:
    """The tensors found for one part under canonical names, and the sentence for when there are none."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    missing: str = "This checkpoint does not hold it."

    def add(self, file: TensorFile, rules: Rules, ignored: frozenset[str] = frozenset()) -> None:
        """Take the tensors of a file under their new names; position numbers and `ignored` names are left out.

        Raises:
            CheckpointError: two tensors get the same name.
        """
        self.add_named(file, {name: rename(name, rules) for name in file.infos}, ignored)

    def add_named(self, file: TensorFile, names: Mapping[str, str], ignored: frozenset[str] = frozenset()) -> None:
        """As `add`, with the names given: name in the file -> canonical name."""
        for name, canonical in names.items():
            if canonical in ignored or canonical in POSITION_IDS:
                continue
            if canonical in self.tensors:
                raise CheckpointError(
                    f"{file.path} holds the tensor {canonical[:100]} twice, the second time as {name[:100]}. "
                    "It mixes two kinds of checkpoint; save it again with one of them."
                )
            self.tensors[canonical] = StoredTensor(file, name)


@dataclass
class Checkpoint:
    """A checkpoint of any layout. Opening reads headers only; `part` loads, strictly checked.

    Attributes:
        layout: "single file", "diffusers folder", "LAVIS folder", "state dict" or "LDM file".
        path: the file or folder it was opened from.
        config: sizes of the components.
        warnings: sentences about the weights that the user should see.
        notes: sentences about what was left aside.
    """

    layout: str
    path: Path
    config: ModelConfig
    parts: dict[str, PartTensors]
    metadata: dict[str, str] = field(default_factory=dict)
    vectors: StoredTensor | None = None
    word_pieces: list[str] | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _fingerprints: dict[str, str] = field(default_factory=dict)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Word pieces in id order: the checkpoint's own, else BERT's.

        Raises:
            CheckpointError: there are more than the Q-Former has rows for.
        """
        rows = self.config.qformer.vocab_size
        if self.word_pieces and len(self.word_pieces) > rows:
            raise CheckpointError(
                f"{self.path} comes with {len(self.word_pieces)} word pieces, but its Q-Former knows {rows}. The list "
                "belongs to another model."
            )
        return self.word_pieces or default_vocabulary(rows, self.path)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds (some tensors of) the part."""
        return bool(self.parts[_known(name)].tensors)

    def lacking(self, name: str) -> list[str]:
        """Canonical names of the tensors that the part should hold and this checkpoint does not."""
        own = self.parts[_known(name)].tensors
        return [key for key in expected_shapes(name, self.config) if key not in own]

    def check(self, name: str) -> None:
        """Compare names, shapes and types of a part with what its sizes ask for; loads no weight.

        Raises:
            CheckpointError: the part is absent, or tensors are missing, unexpected, misshapen or of a wrong type.
        """
        part = self.parts[_known(name)]
        if not part.tensors:
            raise CheckpointError(f"{self.path} has no {name.replace('_', ' ')}. {part.missing}")
        found = {canonical: stored.info for canonical, stored in part.tensors.items()}
        files = list(dict.fromkeys(stored.file.path for stored in part.tensors.values()))
        check_part(name, found, expected_shapes(name, self.config), files, self.layout)

    def with_base(self, name: str, base: Checkpoint) -> Checkpoint:
        """This checkpoint with what its part `name` lacks taken from the one it was made from, for that part alone.

        A trainer that saves only what it trained leaves parts of parts: LAVIS writes a Q-Former without the image
        tower and the projection around it. The two together are checked as one, like any other part.
        """
        own, theirs = self.parts[_known(name)].tensors, base.parts[name].tensors
        taken = {key: theirs[key] for key in self.lacking(name) if key in theirs}
        if not taken:
            return self
        note = (
            f"The {name.replace('_', ' ')} is {len(own)} tensors of {self.path.name} and {len(taken)} of its base "
            f"model {base.path.name}."
        )
        return replace(
            self,
            parts={**self.parts, name: PartTensors(own | taken)},
            metadata={key: value for key, value in self.metadata.items() if key != f"fingerprint.{name}"},
            word_pieces=self.word_pieces or base.word_pieces,
            notes=[*self.notes, note],
            _fingerprints={},
        )

    def infos(self, name: str) -> dict[str, TensorInfo]:
        """Canonical names, canonical shapes and stored types of a checked part, in canonical order."""
        self.check(name)
        stored = self.parts[name].tensors
        shapes = expected_shapes(name, self.config)
        return {canonical: TensorInfo(shape, stored[canonical].info.dtype) for canonical, shape in shapes.items()}

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one part under canonical names and in canonical order, on the CPU, types as stored.

        Raises:
            CheckpointError: see `check`.
        """
        infos = self.infos(name)
        stored = self.parts[name].tensors
        loaded: dict[tuple[Path, str], torch.Tensor] = {}
        for file in {tensor.file.path: tensor.file for tensor in stored.values()}.values():
            names = [tensor.name for tensor in stored.values() if tensor.file is file]
            loaded |= {(file.path, key): value for key, value in file.load(names).items()}
        return {
            canonical: loaded[stored[canonical].file.path, stored[canonical].name].reshape(info.shape)
            for canonical, info in infos.items()
        }

    def subject_vectors(self) -> torch.Tensor | None:
        """Fine-tuned subject vectors [1, queries, width], or None where the checkpoint holds none.

        A checkpoint saved without fine-tuning may hold zeros in their place, which count as none.

        Raises:
            CheckpointError: the vectors have another shape than the model's query tokens.
        """
        if self.vectors is None:
            return None
        vectors = self.vectors.file.load([self.vectors.name])[self.vectors.name].detach().float()
        expected = (1, self.config.qformer.num_query_tokens, self.config.qformer.hidden_size)
        if tuple(vectors.shape) != expected:
            raise CheckpointError(
                f"The subject vectors in {self.vectors.file.path} have shape {tuple(vectors.shape)}, but this model "
                f"takes {expected}. They belong to a model of another size."
            )
        return vectors if vectors.any() else None

    def fingerprint(self, name: str) -> str:
        """SHA-256 (hex) over a part's names, shapes, types and bytes; the same weights give the same in any layout.

        Files written by this pack state it; else the part is read once and the result kept.
        """
        if name not in self._fingerprints:
            stated = self.metadata.get(f"fingerprint.{_known(name)}")
            self._fingerprints[name] = stated or fingerprint_of(self.part(name))
        return self._fingerprints[name]


def _known(name: str) -> str:
    if name not in PARTS:
        raise CheckpointError(f"A checkpoint has the parts {', '.join(PARTS)}; there is no part {name!r}.")
    return name
