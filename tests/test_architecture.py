"""The shape of the pack: which way imports run, what the host and its Manager read without running anything, and that
importing it is light."""

import ast
import re
import subprocess
import sys

import pytest

from tools.inprocess import load_pack
from tools.places import ROOT

HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "comfy_config", "folder_paths", "node_helpers",
                "nodes", "server", "execution", "latent_preview", "app"}  # fmt: skip
HEAVY = {"transformers", "diffusers", "accelerate", "cv2", "scipy", "torchvision", "matplotlib", "pandas"}
NODE_FILES = sorted(path for path in (ROOT / "nodes").glob("*.py"))
HOST_FILES = sorted((ROOT / "nodes" / "host").rglob("*.py"))
METHOD_FILES = sorted((ROOT / "blipdiff_impl").rglob("*.py"))
SHIPPED = [ROOT / "__init__.py", *NODE_FILES, *HOST_FILES, *METHOD_FILES]


def is_command_line(path):
    """Command lines talk to their user; the host never runs them."""
    return path.stem in ("__main__", "command") or path.parent.name == "toybox"


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path, top_level_only=False):
    """(level, module) of every import of a file; level 0 is absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def absolute(path):
    return {module.split(".")[0] for level, module in imports(path) if level == 0}


def package_of(path, level, module):
    """Top folder of the pack that a relative import reaches: "nodes", "nodes/host" or "blipdiff_impl"."""
    base = path.relative_to(ROOT).parent
    for _ in range(level - 1):
        base = base.parent
    parts = [*base.parts, *module.split(".")]
    return "nodes/host" if parts[:2] == ["nodes", "host"] else parts[0]


def reached(path):
    return {package_of(path, level, module) for level, module in imports(path) if level}


def test_every_file_is_looked_at():
    assert len(NODE_FILES) > 4 and len(HOST_FILES) > 8 and len(METHOD_FILES) > 10


@pytest.mark.parametrize("path", METHOD_FILES, ids=name_of)
def test_the_method_knows_neither_host_nor_nodes(path):
    assert absolute(path).isdisjoint(HOST_MODULES)
    assert reached(path) <= {"blipdiff_impl"}


@pytest.mark.parametrize("path", HOST_FILES, ids=name_of)
def test_host_code_never_looks_up_to_the_nodes(path):
    assert reached(path) <= {"nodes/host", "blipdiff_impl"}
    assert "nodes" not in absolute(path)  # the host's own module of that name is an artist's face too


@pytest.mark.parametrize("path", NODE_FILES, ids=name_of)
def test_nodes_know_the_hosts_api_and_nothing_inside_it(path):
    assert absolute(path) <= {"__future__", "comfy_api"}
    assert reached(path) <= {"nodes", "nodes/host"}


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_the_pack_imports_itself_relatively(path):
    """The host loads the pack under a name made of its path, and has a module called `nodes` of its own."""
    assert absolute(path).isdisjoint({"blipdiff_impl"})


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *NODE_FILES, *HOST_FILES], ids=name_of)
def test_nothing_heavy_is_imported_at_the_top(path):
    assert {module.split(".")[0] for level, module in imports(path, top_level_only=True) if not level}.isdisjoint(HEAVY)


def test_importing_the_pack_loads_no_heavy_library(comfy):
    """The modules that an import of the pack adds to a host that is already up, measured in a process of its own."""
    script = (
        "import sys, tempfile, pathlib\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import tools.inprocess as inprocess\n"
        "load_pack, inprocess.load_pack = inprocess.load_pack, lambda: (None, {})\n"
        "inprocess.load_comfy(pathlib.Path(tempfile.mkdtemp()))\n"
        "before = set(sys.modules)\n"
        "load_pack()\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('transformers.models')))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    added, models = run.stdout.splitlines()[-2:]
    assert HEAVY.isdisjoint(added.split())
    assert models == ""


def test_the_entry_point_is_the_only_one():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert "NODE_CLASS_MAPPINGS" not in names  # beside it the host ignores comfy_entrypoint
    assert "comfy_entrypoint" in defined
    assert "WEB_DIRECTORY" in names


def literal_node_ids():
    """What Manager's scanner finds: `node_id="..."` written out in the source."""
    ids = {}
    for path in NODE_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "node_id":
                assert isinstance(node.value, ast.Constant), f"{name_of(path)}: node_id is not a literal"
                ids[node.value.value] = path
    return ids


def test_node_ids_are_literals(comfy):
    _, registered = load_pack()
    assert set(literal_node_ids()) == set(registered)


@pytest.mark.parametrize("node_id", sorted(literal_node_ids()))
def test_every_node_explains_itself(comfy, node_id):
    schema = comfy.node(node_id).define_schema()
    assert schema.category == "BLIP-Diffusion"
    assert schema.description and schema.display_name and schema.search_aliases
    for socket in [*schema.inputs, *schema.outputs]:
        assert socket.tooltip, f"{node_id}: {socket.id or socket.display_name} has no tooltip"


@pytest.mark.parametrize("node_id", sorted(literal_node_ids()))
def test_every_node_has_a_help_page_that_names_all_its_sockets(comfy, node_id):
    schema = comfy.node(node_id).define_schema()
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    for socket in schema.inputs:
        assert f"**{socket.id}**" in page
    for socket in schema.outputs:
        assert f"**{socket.display_name}**" in page
    assert "## Recipes" in page and "## Common mistakes" in page
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert pictures and all((ROOT / "web" / "docs" / name).is_file() for name in pictures)


def test_there_is_no_help_page_without_a_node():
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(literal_node_ids())


@pytest.mark.parametrize("path", [path for path in SHIPPED if not is_command_line(path)], ids=name_of)
def test_shipped_code_prints_nothing_and_catches_nothing_blindly(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), (
            f"print, line {node.lineno}"
        )
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except, line {node.lineno}"
            assert getattr(node.type, "id", "") not in ("Exception", "BaseException"), (
                f"broad except, line {node.lineno}"
            )
