"""The frozen language model: OPT from a local folder, with eight more words (docs/method.md 14.2, 14.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, shown
from ..weights.folders import exists, read_config, what_was_found
from ..weights.opening import open_tensor_file
from ..weights.transformers_folder import CONFIG_FILE, load_network, require_all, stored_in
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from transformers import Cache, OPTForCausalLM

_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_FIRST = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SIZES = {
    "hidden_size": 1 << 16,
    "word_embed_proj_dim": 1 << 16,
    "ffn_dim": 1 << 18,
    "num_hidden_layers": 256,
    "num_attention_heads": 512,
    "max_position_embeddings": 1 << 16,
    "vocab_size": 1 << 20,
}
_START = 2  # OPT begins and ends a text with </s>


@dataclass(frozen=True)
class LanguageSizes:
    """What a folder's configuration says, read before any weight is.

    Attributes:
        width: of word embeddings and of the last states; the layers inside may have another.
        positions: that a text can have.
        layers: how many there are.
    """

    width: int
    positions: int
    layers: int
    start: int
    end: int


def read_sizes(folder: Path) -> LanguageSizes:
    """The sizes of the language model in a folder.

    Raises:
        CheckpointError: there is none, it is another kind of model, or its sizes are none.
    """
    if not exists(folder / CONFIG_FILE):
        raise CheckpointError(
            f"{folder} is no folder of a language model. {what_was_found(folder, (CONFIG_FILE,))} Download the "
            "folder of facebook/opt-6.7b whole."
        )
    record = read_config(folder / CONFIG_FILE)
    if record.get("model_type") != "opt":
        raise CheckpointError(
            f"{folder} holds a model of the type {shown(record.get('model_type'))}, but GILL needs an OPT (released: "
            "OPT-6.7B). Choose another language model."
        )
    record.setdefault("word_embed_proj_dim", record.get("hidden_size"))
    for name, most in _SIZES.items():
        value = record.get(name)
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} says {name} = {shown(value)}; a whole number from 1 to {most} is due. "
                "Download it again."
            )
    start, end = (record.get(name, _START) for name in ("bos_token_id", "eos_token_id"))
    if any(type(each) is not int or not 0 <= each < record["vocab_size"] for each in (start, end)):
        raise CheckpointError(
            f"{folder / CONFIG_FILE} says that a text begins with {shown(start)} and ends with {shown(end)}; two of "
            f"its {record['vocab_size']} words are due. Download it again."
        )
    return LanguageSizes(
        record["word_embed_proj_dim"], record["max_position_embeddings"], record["num_hidden_layers"], start, end
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a model of transformers."""
    return any((folder / name).is_file() for name in _FIRST)


class LanguageModel(nn.Module):
    """An OPT that reads embeddings and gives its last states, with the words of GILL behind its own.

    Args:
        network: transformers' class; its weights stay as they are.
        tokenizer: of that model.
        sizes: of that model.
    """

    def __init__(self, network: OPTForCausalLM, tokenizer: TextTokenizer, sizes: LanguageSizes):
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.sizes = sizes

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
        """The model of a folder of transformers, on the CPU. Nothing is downloaded, and no code of the folder is run.

        Raises:
            CheckpointError: files are missing or damaged, or of another kind of model.
        """
        sizes = read_sizes(folder)
        if not has_weights(folder):
            raise CheckpointError(
                f"The language model has no weights. {what_was_found(folder, _FIRST)} Download its folder whole."
            )
        tokenizer = TextTokenizer.from_folder(folder)
        for pattern in _WEIGHTS:
            for path in sorted(folder.glob(pattern)):
                open_tensor_file(path)  # what is damaged or more than tensors is refused in a sentence of its own
        complaint = (
            f"The language model in {folder} cannot be read: a file is missing, or {CONFIG_FILE} belongs to other "
            "weights. Download the folder whole."
        )
        network, report = load_network(folder, "OPTForCausalLM", complaint, **stored_in(dtype))
        require_all(folder, report, but=("lm_head.weight",))
        return cls(network, tokenizer, sizes)

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        return self.network.device

    @torch.no_grad()
    def add_words(self, rows: Tensor, first: int) -> None:
        """Make the table of words end in these rows: shorter ones grow by zeros, longer ones are cut.

        Args:
            rows: embeddings `[N, width]`; input and output share them, as all words of OPT do.
            first: the id of the first.

        Raises:
            CheckpointError: the tokenizer has words of these ids.
        """
        if self.tokenizer.size > first:
            raise CheckpointError(
                f"The tokenizer of the language model has {self.tokenizer.size} words, but GILL's own begin at the id "
                f"{first}: it was trained with another tokenizer. Take the language model's files of one download."
            )
        old = self.network.get_input_embeddings().weight
        table = old.new_zeros(first + len(rows), old.shape[1])
        kept = min(first, len(old))
        table[:kept] = old[:kept]
        table[first:] = rows.to(table)
        words: Any = self.network.get_input_embeddings()
        shared = nn.Parameter(table, requires_grad=False)
        words.weight = shared
        words.num_embeddings = len(table)
        head: Any = self.network.get_output_embeddings()
        head.weight = shared
        head.out_features = len(table)
        self.network.config.vocab_size = len(table)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings of ids, `[1, T, width]`."""
        return self.network.get_input_embeddings()(torch.tensor([list(ids)], device=self.device, dtype=torch.long))

    def read(self, embeddings: Tensor, cache: Cache) -> Tensor:
        """The last states at the next positions, `[B, T, width]`, behind the last norm.

        Args:
            embeddings: `[B, T, width]` of what comes after all that the cache holds.
            cache: from `new_cache`; keeps keys and values of all that has been read.
        """
        decoder: Any = self.network.get_decoder()
        return decoder(
            inputs_embeds=embeddings.to(self.device, self.dtype), past_key_values=cache, use_cache=True
        ).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """The weight of each word to be the next, `[..., words]`, from last states."""
        return self.network.get_output_embeddings()(states)


def new_cache() -> Cache:
    """Nothing read yet."""
    from transformers import DynamicCache

    return DynamicCache()
