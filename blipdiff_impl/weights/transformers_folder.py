"""Networks of `transformers` from local folders: nothing is downloaded, and no code that lies in a folder is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, first_few
from ..untrusted import DAMAGE

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def load_from(folder: Path, kind: str, complaint: str, **options) -> Any:
    """What a class of transformers makes of a folder.

    Args:
        kind: name of the class, "AutoProcessor".
        complaint: the message where that fails.
        options: more arguments for its `from_pretrained`.

    Raises:
        CheckpointError: a file is missing or damaged, states what cannot be, or needs code of its own.
    """
    import transformers
    from huggingface_hub import errors
    from safetensors import SafetensorError

    # Newer releases check a configuration's types, with an error that is no ValueError.
    wrong_type = getattr(errors, "StrictDataclassError", TypeError)
    loader = getattr(transformers, kind)
    try:
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (SafetensorError, wrong_type, *DAMAGE):
        raise CheckpointError(complaint) from None


def load_network(folder: Path, kind: str, complaint: str, **options) -> tuple[Any, dict[str, Any]]:
    """A network on the CPU, in evaluation mode and without gradients, and the library's report of its weights.

    Args:
        kind, complaint, options: as for `load_from`.

    Raises:
        CheckpointError: as `load_from`. Weights that are missing are in the report only: see `require_all`.
    """
    network, report = load_from(folder, kind, complaint, output_loading_info=True, **options)
    return network.requires_grad_(False).eval(), report


def stored_in(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The option that loads weights in a type; its name has changed with version 5 of the library."""
    import transformers

    return {"dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype": dtype}


def require_all(folder: Path, report: dict[str, Any], but: tuple[str, ...] = ()) -> None:
    """Refuse a network some of whose weights the library has drawn by chance, as it found none.

    Args:
        but: endings of names that old files lack, and that hold nothing learned.

    Raises:
        CheckpointError: names a weight.
    """
    if missing := sorted(name for name in report["missing_keys"] if not name.endswith(but)):
        raise CheckpointError(f"The weights in {folder} lack {first_few(missing, 1)}; get them whole.")
