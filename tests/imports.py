"""Which files of the pack import which: read from their source, nothing is run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.places import ROOT

NODE_FILES = sorted(path for path in (ROOT / "nodes").rglob("*.py") if "host" not in path.relative_to(ROOT).parts)
HOST_FILES = sorted((ROOT / "nodes" / "host").rglob("*.py"))
METHOD_FILES = sorted((ROOT / "blipdiff_impl").rglob("*.py"))
SHIPPED = [ROOT / "__init__.py", *NODE_FILES, *HOST_FILES, *METHOD_FILES]


@dataclass(frozen=True)
class Import:
    """One import statement: `module` is the whole path for the pack's own (`blipdiff_impl/files`), else the name."""

    line: int
    module: tuple[str, ...]
    own: bool
    at_top: bool


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions too; `from . import a, b` counts as two."""
    tree = tree_of(path)
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        at_top = id(node) in top
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, tuple(alias.name.split(".")), False, at_top)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield Import(node.lineno, tuple(node.module.split(".")), False, at_top)
        elif isinstance(node, ast.ImportFrom):
            base = path.relative_to(ROOT).parent.parts
            base = base[: len(base) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            for reached in [base] if node.module else [(*base, alias.name) for alias in node.names]:
                yield Import(node.lineno, reached, True, at_top)


def libraries(path: Path, at_top: bool = False) -> set[str]:
    """Names of what a file imports absolutely; with `at_top`, only of what is imported when the file is."""
    return {each.module[0] for each in imports(path) if not each.own and (each.at_top or not at_top)}
