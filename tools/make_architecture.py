"""Write the list of modules in docs/architecture.md: `python -m tools.make_architecture`.

Each line is the first sentence of a module's docstring, so that the map says what the file says of itself. A test fails
when the page is not what this writes.
"""

import ast
import re

from tools.places import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules: written by tools/make_architecture.py -->", "<!-- end of modules -->"
TOPS = ("blipdiff_impl", "nodes")


def modules():
    """Every module's path and the first sentence of its docstring, folder by folder."""
    found = {}
    for top in TOPS:
        for path in sorted(
            (ROOT / top).rglob("*.py"), key=lambda path: (path.parent.parts, path.name != "__init__.py", path.name)
        ):
            found[path] = first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    return found


def first_sentence(text):
    """Up to the first full stop that ends a sentence; on one line."""
    text = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9)`\"'?!][.?!]) (?=[A-Z`])", text)[0]


def listing():
    """The part of the page between its marks."""
    lines, folder = [], None
    for path, sentence in modules().items():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"### {folder.relative_to(ROOT)}/", ""]
            if path.name == "__init__.py":
                lines += [sentence, ""]
                continue
        lines.append(f"- `{path.name}`: {sentence}")
    return "\n".join(lines).strip()


def page(text):
    """The page with its list written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{listing()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
