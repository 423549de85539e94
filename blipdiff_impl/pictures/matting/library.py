"""PyMatting, which an artist installs only for matting."""

from __future__ import annotations

from types import ModuleType

import torch

from ...errors import SubjectError

INSTALL = "python -m pip install pymatting"


def load_pymatting() -> ModuleType:
    """The library; the first call of a fresh installation compiles it, which takes a minute.

    PyTorch's number of threads stays: numba, which the library is written in, shares OpenMP with PyTorch and sets its
    own number for both.

    Raises:
        SubjectError: it is not installed; says how to install it.
    """
    threads = torch.get_num_threads()
    try:
        import pymatting
    except ImportError as error:
        raise SubjectError(
            f"Matting needs the library PyMatting, which cannot be imported ({error}). Install it into ComfyUI's "
            f"Python and restart ComfyUI: {INSTALL}"
        ) from error
    finally:
        torch.set_num_threads(threads)
    return pymatting
