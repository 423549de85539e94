"""A pytest plugin: the checkout's root is a plain folder to pytest.

The root holds the `__init__.py` that ComfyUI imports; pytest would take it for a test package and import it without
the host around it.
"""

import pytest

from .places import ROOT


@pytest.hookimpl
def pytest_collect_directory(path, parent):
    """Collect the root without importing its `__init__.py`; other folders are left to pytest."""
    return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None
