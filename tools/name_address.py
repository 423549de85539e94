"""`make name-address`: write into pyproject.toml what only the one who publishes the pack knows.

    make name-address REPOSITORY=https://github.com/OWNER/NAME PUBLISHER=ID

The address gives the Registry its links, icon and banner. A second call with other values replaces the first one's.
"""

import argparse
import os
import re

from tools.places import ROOT
from tools.problems import Problem, run_command

REPOSITORY = re.compile(r"https://github\.com/([A-Za-z0-9-]+)/([A-Za-z0-9._-]+?)(?:\.git)?/?")
PUBLISHER = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
BRANCH = "main"


def main():
    """Rewrite pyproject.toml."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", help="https://github.com/OWNER/NAME")
    parser.add_argument("publisher", help="publisher's id in the ComfyUI Registry")
    options = parser.parse_args()
    path = ROOT / "pyproject.toml"
    text = with_address(path.read_text(encoding="utf-8"), options.repository, options.publisher)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    print(f"{path.name} names {options.repository} and {options.publisher}; now `make archive`.")


def with_address(text, repository, publisher):
    """The text of pyproject.toml with links, icon, banner and publisher.

    Raises Problem for an address or id that the Registry could not use.
    """
    address = REPOSITORY.fullmatch(repository)
    if not address:
        raise Problem(f"REPOSITORY={repository!r} should look like https://github.com/OWNER/NAME.")
    if not PUBLISHER.fullmatch(publisher):
        raise Problem(f"PUBLISHER={publisher!r} should be lower-case letters, digits and single hyphens.")
    place = "/".join(address.groups())
    pictures = f"https://raw.githubusercontent.com/{place}/{BRANCH}/docs/brand"
    text = _with_table(text, "project.urls", {
        "Repository": f"https://github.com/{place}",
        "Documentation": f"https://github.com/{place}/blob/{BRANCH}/README.md",
        "Issues": f"https://github.com/{place}/issues",
    })  # fmt: skip
    return _with_table(text, "tool.comfy", {
        "PublisherId": publisher, "Icon": f"{pictures}/icon.png", "Banner": f"{pictures}/banner.png",
    })  # fmt: skip


def _with_table(text, name, values):
    """Set values in a table of TOML text; a table that is missing is put before `[tool.comfy]`."""
    heading = f"[{name}]\n"
    if heading not in text:
        text = text.replace("[tool.comfy]\n", f"{heading}\n[tool.comfy]\n")
    before, _, rest = text.partition(heading)
    table, separator, after = rest.partition("\n[")
    for key, value in values.items():
        line = f'{key} = "{value}"\n'
        there = re.compile(rf"^{key} = .*\n", re.MULTILINE)
        table = there.sub(lambda _, line=line: line, table) if there.search(table) else line + table
    return before + heading + table + separator + after


if __name__ == "__main__":
    run_command(main)
