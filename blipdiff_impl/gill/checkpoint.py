"""Files of GILL's learned parts: the released folder, and one `.safetensors` with its sizes (docs/method.md 14.8).

Both hold the same tensors; this pack's names are the released ones without `model.` in front, and the classifier's
stand behind `decision_model.`, the name of its file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..weights.folders import entries, exists, read_config, what_was_found
from ..weights.kinds import what_it_is
from ..weights.opening import open_tensor_file
from ..weights.safetensors_file import SafetensorsFile, require_version
from ..weights.shapes import Shapes
from ..weights.strict import check_part
from ..weights.tensor_file import TensorFile, TensorInfo
from ..weights.writing import write_model
from .companions import LANGUAGE, VISION, Companions, stored, tables_of
from .config import GILLConfig, MapperConfig, apply_model_args
from .file_names import ARGS_FILE, DECISION_FILE, RELEASED, RELEASED_FILE
from .language_model import LanguageModel
from .parts import LearnedParts
from .vision import ClipVision

FORMAT, FORMAT_VERSION = "gill", "1"
_SIGN = re.compile(r"(?:module\.)?(?:model\.)?(?:gen_text_hidden_fcs|visual_embeddings|ret_text_hidden_fcs)\.")
_DECISION = "decision_model."
_DECISION_SHAPES = {"1.weight": 2, "1.bias": 1}  # dimensions


@dataclass(frozen=True)
class GILLFile:
    """An opened and strictly checked model; the weights are read when they are asked for.

    Attributes:
        sources: for each name of this pack, the file that holds it and its name there.
        shapes: of all tensors by name, in the order of the model.
        companions: sizes of the language model and the picture encoder that the file brings; None for neither.
        tokenizer: of that language model, as `companions.tables_of` takes it.
    """

    path: Path
    config: GILLConfig
    sources: Mapping[str, tuple[TensorFile, str]]
    shapes: Shapes
    companions: Companions | None = None
    tokenizer: str = ""

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Names, shapes and stored types, in the order of the model."""
        found = {}
        for name, shape in self.shapes.items():
            file, there = self.sources[name]
            found[name] = TensorInfo(shape, file.infos[there].dtype)
        return found

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, in the type of the file."""
        file, there = self.sources[name]
        return file.load([there])[there].reshape(self.shapes[name])

    def load(self) -> LearnedParts:
        """The learned parts in float32, in which they compute.

        Raises:
            CheckpointError: a weight is not finite.
        """
        tensors = {name: self._finite(name).float() for name in expected_shapes(self.config)}
        return LearnedParts.from_tensors(self.config, tensors)

    def language_model(self, dtype: torch.dtype = torch.float32) -> LanguageModel:
        """The language model that the file brings, on the CPU.

        Raises:
            CheckpointError: it brings none, or a weight is not finite.
        """
        if self.companions is None:
            raise CheckpointError(
                f"{self.path.name} has no language model in it. Choose the folder of one: facebook/opt-6.7b for the "
                "released weights."
            )
        return self.companions.make_language_model(self._finite, tables_of(self.tokenizer), dtype)

    def picture_encoder(self) -> ClipVision | None:
        """The picture encoder that the file brings, on the CPU.

        Raises:
            CheckpointError: a weight is not finite.
        """
        return None if self.companions is None else self.companions.make_picture_encoder(self._finite)

    def _finite(self, name: str) -> Tensor:
        return _finite(self.path, name, self.tensor(name))


def expected_shapes(config: GILLConfig) -> Shapes:
    """Every tensor that a model must have, by this pack's names."""
    with torch.device("meta"):
        parts = LearnedParts(config)
    return {name: tuple(tensor.shape) for name, tensor in parts.state_dict().items()}


def is_gill(path: str | Path) -> bool:
    """Whether a file holds GILL's parts, or a folder the released file; by names alone.

    Raises:
        CheckpointError: the file cannot be read.
    """
    path = Path(path)
    if not exists(path):
        return False
    if path.is_dir():
        return RELEASED_FILE in entries(path)
    return path.suffix != "" and _has_signs(open_tensor_file(path).infos)


def open_gill(path: str | Path) -> GILLFile:
    """Open and check a model; only names and headers are read.

    Args:
        path: the released file, its folder, or what this pack wrote. Beside the released file its `model_args.json`
            must lie; `decision_model.pth.tar` may.

    Raises:
        CheckpointError: there is none, it cannot be read or is another kind of model; or tensors are missing,
            unexpected or misshapen.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RELEASED_FILE
    if not exists(path):
        raise CheckpointError(f"There is no GILL model {path.name}. {what_was_found(path.parent, RELEASED)}")
    file = open_tensor_file(path)
    if not _has_signs(file.infos):
        raise CheckpointError(f"{path} is no GILL model: {what_it_is(file.infos)}. Choose {_CHOICES}.")
    if isinstance(file, SafetensorsFile) and file.metadata.get("format") == FORMAT:
        return _own(file)
    return _released(file)


def convert_gill(
    source: str | Path, destination: str | Path, dtype: torch.dtype | None = None, *, overwrite: bool = False
) -> None:
    """Write a model as one `.safetensors` with its sizes, the classifier in it where there is one.

    Args:
        dtype: to store the weights in; bfloat16 by default, as released.

    Raises:
        CheckpointError: the source cannot be used, a weight is not finite in that type, or the file cannot be written.
    """
    opened = open_gill(source)
    _write(
        Path(destination), opened.config, opened.tensor, dtype or torch.bfloat16, overwrite, opened.companions,
        opened.tokenizer,
    )  # fmt: skip


def save_gill(parts: LearnedParts, destination: str | Path, dtype: torch.dtype, *, overwrite: bool = False) -> None:
    """Write parts that are in memory.

    Raises:
        CheckpointError: a weight is not finite in that type, or the file cannot be written.
    """
    _write(Path(destination), parts.config, parts.state_dict().__getitem__, dtype, overwrite)


def save_whole_gill(
    parts: LearnedParts,
    language: LanguageModel,
    vision: ClipVision,
    companions: Companions,
    destination: str | Path,
    dtype: torch.dtype,
    *,
    overwrite: bool = False,
) -> None:
    """Write parts, language model and picture encoder as one file that needs no other.

    Args:
        language: without words of GILL.
        companions: sizes of both networks.

    Raises:
        CheckpointError: a weight is not finite in that type, or the file cannot be written.
    """
    tensors = dict(parts.state_dict())
    tensors |= {f"{LANGUAGE}{name}": value for name, value in stored(language.network).items()}
    tensors |= {f"{VISION}{name}": value for name, value in stored(vision.network).items()}
    tokenizer = language.tokenizer.to_json()
    _write(Path(destination), parts.config, tensors.__getitem__, dtype, overwrite, companions, tokenizer)


_CHOICES = f"{RELEASED_FILE} or a .safetensors made from it"


def _own(file: SafetensorsFile) -> GILLFile:
    require_version(file, FORMAT_VERSION, "convert the model again")
    config = GILLConfig.from_json(file.metadata.get("config", ""))
    companions = None
    if "companions" in file.metadata:
        companions = Companions.from_json(file.metadata["companions"])
        if companions.language.hidden_size != config.language_width or companions.vision.width != config.vision_width:
            raise CheckpointError(
                f"{file.path} brings a language model and a picture encoder of other widths than it was trained for. "
                "Download it again."
            )
    sources = {name: (file, name) for name in file.infos}
    return _checked(file.path, config, sources, [file.path], companions, file.metadata.get("tokenizer", ""))


def _released(file: TensorFile) -> GILLFile:
    folder = file.path.parent
    sources = {_short(name): (file, name) for name in file.infos}
    config = _sizes_of({name: file.infos[there].shape for name, (file, there) in sources.items()}, file.path)
    if not exists(folder / ARGS_FILE):
        raise CheckpointError(
            f"The GILL model {file.path.name} needs its {ARGS_FILE} beside it. {what_was_found(folder, (ARGS_FILE,))}"
        )
    config = apply_model_args(config, read_config(folder / ARGS_FILE), str(folder / ARGS_FILE))
    files = [file.path]
    if exists(folder / DECISION_FILE):
        classifier = open_decision(folder / DECISION_FILE)
        sources |= {f"{_DECISION}{name}": (classifier, name) for name in classifier.infos}
        config, files = replace(config, decision=True), [*files, folder / DECISION_FILE]
    return _checked(file.path, config, sources, files)


def open_decision(path: Path) -> TensorFile:
    """The file of a decision classifier; its shapes are checked with the model it belongs to.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    file = open_tensor_file(path)
    if {name: len(info.shape) for name, info in file.infos.items()} != _DECISION_SHAPES:
        raise CheckpointError(
            f"{path} is no decision classifier of GILL: {what_it_is(file.infos)}. Take {DECISION_FILE} from the "
            "model's own download, or leave it out."
        )
    return file


def _checked(
    path: Path,
    config: GILLConfig,
    sources: Mapping[str, tuple[TensorFile, str]],
    files: list[Path],
    companions: Companions | None = None,
    tokenizer: str = "",
) -> GILLFile:
    shapes = _all_shapes(config, companions)
    found = {name: file.infos[there] for name, (file, there) in sources.items()}
    check_part("GILL model", found, shapes, files, "single file")
    return GILLFile(path, config, sources, shapes, companions, tokenizer)


def _all_shapes(config: GILLConfig, companions: Companions | None) -> Shapes:
    return {**expected_shapes(config), **(companions.shapes() if companions else {})}


def _sizes_of(shapes: Mapping[str, tuple[int, ...]], path: Path) -> GILLConfig:
    """The sizes that a file without a record has, read off its tensors; what is not there is as released."""
    due, mapper = GILLConfig(), MapperConfig()
    prefix = "gen_text_hidden_fcs.0."

    def size(name: str, axis: int, default: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) > axis else default

    def layers(stack: str, default: int) -> int:
        numbers = {
            int(hit[1])
            for name in shapes
            if (hit := re.match(rf"{re.escape(prefix)}tfm\.{stack}\.layers\.(\d{{1,4}})\.", name))
        }
        return max(numbers, default=default - 1) + 1

    width = size("input_embeddings.weight", 1, due.language_width)
    prefixes = size("visual_embeddings.weight", 0, width * due.visual_tokens)
    return GILLConfig(
        language_width=width,
        vision_width=size("visual_fc.weight", 1, due.vision_width),
        visual_tokens=max(1, prefixes // max(1, width)),
        retrieval_width=size("visual_fc.weight", 0, due.retrieval_width),
        mapper=MapperConfig(
            width=size(f"{prefix}fc.weight", 0, mapper.width),
            encoder_layers=layers("encoder", mapper.encoder_layers),
            decoder_layers=layers("decoder", mapper.decoder_layers),
            feed_forward=size(f"{prefix}tfm.encoder.layers.0.linear1.weight", 0, mapper.feed_forward),
            queries=size(f"{prefix}query_embs", 1, mapper.queries),
            output_width=size(f"{prefix}model.weight", 0, mapper.output_width),
        ),
    )


def _short(name: str) -> str:
    """The pack's name for a released one: parallel training and the module around all have left theirs in front."""
    return name.removeprefix("module.").removeprefix("model.")


def _has_signs(names: Iterable[str]) -> bool:
    return any(_SIGN.match(name) for name in names)


def _write(
    path: Path,
    config: GILLConfig,
    tensor: Callable[[str], Tensor],
    dtype: torch.dtype,
    overwrite: bool,
    companions: Companions | None = None,
    tokenizer: str = "",
) -> None:
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": config.to_json()}
    if companions:
        metadata |= {"companions": companions.to_json(), "tokenizer": tokenizer}
    write_model(
        path,
        _all_shapes(config, companions),
        tensor,
        dtype,
        metadata,
        lambda written: _own(SafetensorsFile(written)),
        overwrite,
    )


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"The weight {name} in {path} holds NaN or infinite numbers. Download the file again.")
    return tensor
