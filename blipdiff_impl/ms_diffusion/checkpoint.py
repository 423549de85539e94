"""Files of an adapter: the released one, and one `.safetensors` in 16 bit with its sizes (docs/method.md 13.6).

Both hold the same tensors under the same names; only that of this pack says how large its model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..weights.folders import exists, listing, what_was_found
from ..weights.kinds import what_it_is
from ..weights.opening import open_tensor_file
from ..weights.safetensors_file import SafetensorsFile, require_version
from ..weights.shapes import Shapes
from ..weights.strict import check_part
from ..weights.tensor_file import TensorFile, TensorInfo
from ..weights.writing import write_model
from .adapter import DUMMIES, MSAdapter
from .config import RELEASED, AdapterConfig
from .file_names import RELEASED_FILE

FORMAT = "msdiffusion"
FORMAT_VERSION = "1"
_SIGNS = ("ms_adapter.", "image_proj.grounding_latents", DUMMIES)


@dataclass(frozen=True)
class AdapterFile:
    """An opened and strictly checked file; the weights are read when they are asked for.

    Attributes:
        shapes: of all tensors by name, in the order of the model.
    """

    file: TensorFile
    config: AdapterConfig
    shapes: Shapes

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Names, shapes and stored types, in the order of the model."""
        return {name: TensorInfo(shape, self.file.infos[name].dtype) for name, shape in self.shapes.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors on the CPU, in the types of the file."""
        loaded = self.file.load(list(self.file.infos))
        return {name: loaded[name].reshape(shape) for name, shape in self.shapes.items()}

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        return self.file.load([name])[name].reshape(self.shapes[name])

    def load(self) -> MSAdapter:
        """The adapter around the file's tensors."""
        return MSAdapter.from_tensors(self.config, self.tensors())


def expected_shapes(config: AdapterConfig) -> Shapes:
    """Every tensor that a file must have, by name."""
    with torch.device("meta"):
        adapter = MSAdapter(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    dummies = {DUMMIES: (1, config.dummy_tokens, config.resampler.context_width)} if config.dummy_tokens else {}
    return shapes | dummies


def is_adapter(path: str | Path) -> bool:
    """Whether a file is an adapter, by the names in it; false for folders and where nothing is.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = Path(path)
    return exists(path) and not path.is_dir() and _has_signs(open_tensor_file(path).infos)


def open_adapter(path: str | Path) -> AdapterFile:
    """Open and check a file; only names and headers are read.

    Args:
        path: the released file, the same tensors as safetensors, or what this pack wrote.

    Raises:
        CheckpointError: there is none, it cannot be read or is another kind of model; or tensors are missing,
            unexpected or misshapen.
    """
    path = Path(path)
    if not exists(path):
        raise CheckpointError(
            f"There is no MS-Diffusion adapter {path.name}. {what_was_found(path.parent, (path.name,))}"
        )
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; an MS-Diffusion adapter is one file, {RELEASED_FILE} or a .safetensors. "
            f"Found there: {listing(path)}."
        )
    return _opened(open_tensor_file(path))


def convert_adapter(
    source: str | Path, destination: str | Path, dtype: torch.dtype | None = None, *, overwrite: bool = False
) -> None:
    """Write an adapter's file as one `.safetensors` with its sizes; one tensor is in memory at a time.

    Args:
        dtype: to store the weights in; float16 by default.

    Raises:
        CheckpointError: the source cannot be used, a weight is not finite in that type, or the file cannot be written.
    """
    opened = open_adapter(source)
    _write(Path(destination), opened.config, opened.tensor, dtype or torch.float16, overwrite)


def save_adapter(adapter: MSAdapter, destination: str | Path, dtype: torch.dtype, *, overwrite: bool = False) -> None:
    """Write an adapter that is in memory; dummy tokens are written as zeros where its sizes have any.

    Raises:
        CheckpointError: a weight is not finite in that type, or the file cannot be written.
    """
    shape = (1, adapter.config.dummy_tokens, adapter.config.resampler.context_width)
    tensors: Mapping[str, Tensor] = {**adapter.state_dict(), DUMMIES: torch.zeros(shape)}
    _write(Path(destination), adapter.config, tensors.__getitem__, dtype, overwrite)


def _opened(file: TensorFile) -> AdapterFile:
    if not _has_signs(file.infos):
        raise CheckpointError(
            f"{file.path} is no MS-Diffusion adapter: {what_it_is(file.infos)}. Choose {RELEASED_FILE} or a "
            ".safetensors made from it."
        )
    config = RELEASED
    if isinstance(file, SafetensorsFile) and file.metadata.get("format") == FORMAT:
        require_version(file, FORMAT_VERSION, "convert the adapter again")
        config = AdapterConfig.from_json(file.metadata.get("config", ""))
    shapes = expected_shapes(config)
    check_part("MS-Diffusion adapter", file.infos, shapes, [file.path], "single file")
    return AdapterFile(file, config, shapes)


def _has_signs(names: Iterable[str]) -> bool:
    return any(name.startswith(_SIGNS) for name in names)


def _write(
    path: Path, config: AdapterConfig, tensor: Callable[[str], Tensor], dtype: torch.dtype, overwrite: bool
) -> None:
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": config.to_json()}
    write_model(
        path,
        expected_shapes(config),
        tensor,
        dtype,
        metadata,
        lambda written: _opened(SafetensorsFile(written)),
        overwrite,
    )
