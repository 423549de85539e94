"""Write a model as this pack's single safetensors file, tensor by tensor, so that memory holds one part at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...weights.fingerprint import combine, tensor_bytes, tensor_line
from ...weights.safetensors_file import SafetensorsFile
from ...weights.strict import check_part
from ...weights.tensor_file import TensorInfo
from ...weights.writing import complete_file, safetensors_header
from ..config import ModelConfig
from .expected_shapes import PARTS, expected_shapes
from .layout_single import FORMAT, FORMAT_VERSION, VECTORS, open_single_file

Progress = Callable[[int, int], None]
_UNKNOWN_FINGERPRINT = "0" * 64


def write_single_file(
    path: str | Path,
    parts: Mapping[str, Mapping[str, torch.Tensor]],
    config: ModelConfig,
    vocabulary: list[str],
    dtype: torch.dtype | None = None,
    *,
    subject_vectors: torch.Tensor | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write parts (canonical names) as one `.safetensors`; the file appears under its name when it is complete.

    Args:
        parts: any of "subject_encoder", "text_encoder", "unet", "vae", each complete.
        vocabulary: word pieces in id order; empty where the file holds no subject encoder.
        dtype: type to store weights in; None keeps the types given.
        subject_vectors: fine-tuned vectors [1, queries, width], kept as float32.
        progress: called with (bytes written, bytes in all); an exception in it ends the writing.

    Raises:
        CheckpointError: a part is incomplete, a weight is not finite, the file exists, or the disk is full.
    """
    infos = {}
    for name in (part for part in PARTS if part in parts):
        found = {key: TensorInfo(tuple(tensor.shape), tensor.dtype) for key, tensor in parts[name].items()}
        shapes = expected_shapes(name, config)
        check_part(name, found, shapes, [], "given tensors")
        infos[name] = {key: TensorInfo(shape, found[key].dtype) for key, shape in shapes.items()}
    content = SingleFile(infos, parts.__getitem__, config, vocabulary, dtype, subject_vectors, {})
    content.write(Path(path), overwrite, progress)


@dataclass(frozen=True)
class _Entry:
    """One tensor of the file to be: its part (empty for the subject vectors), name, stored type and shape."""

    part: str
    name: str
    info: TensorInfo

    @property
    def key(self) -> str:
        return f"{self.part}.{self.name}" if self.part else self.name

    @property
    def size(self) -> int:
        return math.prod(self.info.shape) * self.dtype.itemsize

    @property
    def dtype(self) -> torch.dtype:
        assert isinstance(self.info.dtype, torch.dtype)  # other types are refused when a part is checked
        return self.info.dtype


@dataclass(frozen=True)
class SingleFile:
    """What is to be written: headers of all parts, and a function that loads one part when its turn comes."""

    infos: Mapping[str, Mapping[str, TensorInfo]]
    load_part: Callable[[str], Mapping[str, torch.Tensor]]
    config: ModelConfig
    vocabulary: list[str]
    dtype: torch.dtype | None
    subject_vectors: torch.Tensor | None
    notes: Mapping[str, str]

    def write(self, path: Path, overwrite: bool, progress: Progress | None) -> None:
        """Write to a temporary name beside `path`, reopen and check it, then rename."""
        entries = self._entries()
        size = sum(entry.size for entry in entries)
        with complete_file(path, size, overwrite, CheckpointError, self._check_written) as file:
            self._write_entries(file, entries, progress)

    def _entries(self) -> list[_Entry]:
        """Wide types first, so that every tensor starts at a multiple of its item size."""
        entries = [
            _Entry(part, name, TensorInfo(info.shape, self.dtype or info.dtype))
            for part, infos in self.infos.items()
            for name, info in infos.items()
        ]
        if self.subject_vectors is not None:
            entries.append(_Entry("", VECTORS, TensorInfo(tuple(self.subject_vectors.shape), torch.float32)))
        return sorted(entries, key=lambda entry: -entry.dtype.itemsize)

    def _write_entries(self, file, entries: list[_Entry], progress: Progress | None) -> None:
        """The header holds the fingerprints, which are known last: it is written twice, at the same length."""
        header = self._header(entries, dict.fromkeys(self.infos, _UNKNOWN_FINGERPRINT))
        file.write(header)
        lines: dict[str, dict[str, str]] = {part: {} for part in self.infos}
        total, done = sum(entry.size for entry in entries), 0
        for entry, tensor in self._stored_tensors(entries):
            if entry.part:
                lines[entry.part][entry.name] = tensor_line(entry.name, tensor)
            file.write(tensor_bytes(tensor))
            done += entry.size
            if progress:
                progress(done, total)
        fingerprints = {part: combine(lines[part][name] for name in infos) for part, infos in self.infos.items()}
        file.seek(0)
        file.write(self._header(entries, fingerprints))

    def _stored_tensors(self, entries: list[_Entry]) -> Iterator[tuple[_Entry, torch.Tensor]]:
        """The tensors in the order of the file; a part is let go before the next one is loaded."""
        loaded_name: str | None = None
        loaded: Mapping[str, torch.Tensor] = {}
        for entry in entries:
            if entry.part != loaded_name:
                loaded = {}
                loaded_name = entry.part
                loaded = self.load_part(entry.part) if entry.part else self._vectors()
            yield entry, _stored(loaded[entry.name], entry)

    def _vectors(self) -> dict[str, torch.Tensor]:
        return {} if self.subject_vectors is None else {VECTORS: self.subject_vectors}

    def _header(self, entries: list[_Entry], fingerprints: Mapping[str, str]) -> bytes:
        metadata = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "config": self.config.to_json(),
            "vocabulary": "\n".join(self.vocabulary),
            **{f"fingerprint.{part}": value for part, value in fingerprints.items()},
            **self.notes,
        }
        return safetensors_header(((entry.key, entry.dtype, entry.info.shape) for entry in entries), metadata)

    def _check_written(self, path: Path) -> None:
        checkpoint = open_single_file(SafetensorsFile(path))
        for part in self.infos:
            checkpoint.check(part)


def _stored(tensor: torch.Tensor, entry: _Entry) -> torch.Tensor:
    """The tensor as it goes into the file; every number must survive the change of type."""
    stored = tensor.detach().to("cpu", entry.dtype).reshape(entry.info.shape).contiguous()
    if not bool(torch.isfinite(stored).all()):
        became = "" if not bool(torch.isfinite(tensor).all()) else f" as {entry.info.dtype}; choose a wider type"
        raise CheckpointError(f"The weight {entry.key} has numbers that are not finite{became}. Nothing was written.")
    return stored
