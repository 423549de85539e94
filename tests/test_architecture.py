"""The shape of the pack: which way imports run, what the host and its Manager read without running anything, and that
importing it is light."""

import ast
import re
import subprocess
import sys

from imports import HOST_FILES, METHOD_FILES, NODE_FILES, SHIPPED, imports, libraries, name_of, tree_of

from tools.inprocess import load_pack
from tools.places import ROOT

# Rooms of blipdiff_impl, from the ground up: a room may import those of the rows above it here, and none beside it.
ROOMS = (
    ("errors", "version"),
    ("publishing", "untrusted", "folder_lock", "command", "ray_session"),
    ("files", "settings"),
    ("weights", "prompts"),
    ("pictures", "stable_diffusion", "toy_world"),
    ("attention",),
    ("training",),
    ("blip_diffusion", "gill", "ms_diffusion"),
    ("toybox", "evaluation"),
    ("toy_gill",),
    ("__init__", "__main__"),
)
METHODS = ("blip_diffusion", "gill", "ms_diffusion")
# What the nodes of one method may import: the host's shared files and those of the same method.
NODE_ROOMS = ("common", *METHODS)
# The one shared file of the host side that knows the methods: what each registers when the pack is loaded.
PUTS_TOGETHER = ROOT / "nodes" / "host" / "setup.py"

HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "comfy_config", "folder_paths", "node_helpers",
                "nodes", "server", "execution", "latent_preview", "app"}  # fmt: skip
HEAVY = {"transformers", "diffusers", "accelerate", "cv2", "scipy", "torchvision", "matplotlib", "pandas"}


def is_command_line(path):
    """Command lines talk to their user; the host never runs them."""
    return path.stem in ("__main__", "command") or path.parent.name == "toybox"


def room_of(path):
    """The folder, or the file without its ending, right in blipdiff_impl."""
    return path.relative_to(ROOT / "blipdiff_impl").parts[0].removesuffix(".py")


def found(files, is_wrong):
    """`file:line imports what` for every import that is wrong."""
    return [
        f"{name_of(path)}:{each.line} imports {'.'.join(each.module)}"
        for path in files
        for each in imports(path)
        if is_wrong(path, each)
    ]


def test_every_file_is_looked_at():
    assert len(NODE_FILES) > 15 and len(HOST_FILES) > 40 and len(METHOD_FILES) > 120
    assert sum(1 for path in SHIPPED for each in imports(path) if each.own) > 500


def test_every_room_has_its_place_in_the_table():
    listed = {room for row in ROOMS for room in row}
    assert {room_of(path) for path in METHOD_FILES} <= listed


def test_rooms_import_only_what_lies_below_them():
    floor = {room: number for number, row in enumerate(ROOMS) for room in row}

    def is_wrong(path, each):
        if not each.own or each.module[0] != "blipdiff_impl" or len(each.module) < 2:
            return False
        own, other = room_of(path), each.module[1]
        return other != own and other in floor and floor[other] >= floor[own]

    assert found(METHOD_FILES, is_wrong) == []


def test_the_methods_know_neither_host_nor_nodes():
    def is_wrong(path, each):
        return each.module[0] != "blipdiff_impl" if each.own else each.module[0] in HOST_MODULES

    assert found(METHOD_FILES, is_wrong) == []


def test_host_code_never_looks_up_to_the_nodes():
    def is_wrong(path, each):
        if each.own:
            return each.module[0] != "blipdiff_impl" and each.module[:2] != ("nodes", "host")
        return each.module[0] == "nodes"  # the host's own module of that name is an artist's face too

    assert found(HOST_FILES, is_wrong) == []


def test_shared_host_code_knows_no_method():
    shared = [path for path in HOST_FILES if path.parent.name == "host" and path != PUTS_TOGETHER]

    def is_wrong(path, each):
        return each.own and any(part in METHODS for part in each.module)

    assert len(shared) > 15 and found(shared, is_wrong) == []


def test_host_code_of_one_method_knows_no_other():
    def is_wrong(path, each):
        method = path.relative_to(ROOT / "nodes" / "host").parts[0]
        return each.own and any(part in METHODS and part != method for part in each.module)

    assert found([path for path in HOST_FILES if path.parent.name != "host"], is_wrong) == []


def test_nodes_know_the_hosts_api_and_nothing_inside_it():
    def is_wrong(path, each):
        if not each.own:
            return each.module[0] not in ("__future__", "comfy_api")
        room = path.relative_to(ROOT / "nodes").parts[0]
        if each.module[0] != "nodes" or each.module == ("nodes", "host"):
            return True
        return room in NODE_ROOMS and any(part in NODE_ROOMS and part != room for part in each.module)

    assert found(NODE_FILES, is_wrong) == []


def test_the_pack_imports_itself_relatively():
    """The host loads the pack under a name made of its path, and has a module called `nodes` of its own."""
    assert found(SHIPPED, lambda path, each: not each.own and each.module[0] == "blipdiff_impl") == []


def test_nothing_heavy_is_imported_at_the_top():
    files = [ROOT / "__init__.py", *NODE_FILES, *HOST_FILES]
    assert {name_of(path): heavy for path in files if (heavy := libraries(path, at_top=True) & HEAVY)} == {}


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
    tree = tree_of(ROOT / "__init__.py")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert "NODE_CLASS_MAPPINGS" not in names  # beside it the host ignores comfy_entrypoint
    assert "comfy_entrypoint" in defined
    assert "WEB_DIRECTORY" in names


def literal_node_ids():
    """What Manager's scanner finds: `node_id="..."` written out in the source."""
    ids = {}
    for path in NODE_FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.keyword) and node.arg == "node_id":
                assert isinstance(node.value, ast.Constant), f"{name_of(path)}: node_id is not a literal"
                ids[node.value.value] = path
    return ids


def test_node_ids_are_literals(comfy):
    _, registered = load_pack()
    assert set(literal_node_ids()) == set(registered)


CATEGORIES = {
    "blip_diffusion": "BLIP-Diffusion",
    "common": "BLIP-Diffusion",
    "ms_diffusion": "MS-Diffusion",
    "gill": "GILL",
}


def test_every_node_explains_itself(comfy):
    ids = literal_node_ids()
    for node_id in sorted(ids):
        schema = comfy.node(node_id).define_schema()
        assert schema.category == CATEGORIES[ids[node_id].parent.name], node_id
        assert schema.description and schema.display_name and schema.search_aliases, node_id
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.tooltip, f"{node_id}: {socket.id or socket.display_name} has no tooltip"


def test_every_node_has_a_help_page_that_names_all_its_sockets(comfy):
    for node_id in sorted(literal_node_ids()):
        schema = comfy.node(node_id).define_schema()
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
        names = [socket.id for socket in schema.inputs] + [socket.display_name for socket in schema.outputs]
        assert [name for name in names if f"**{name}**" not in page] == [], node_id
        assert "## Recipes" in page and "## Common mistakes" in page, node_id
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
        assert pictures and all((ROOT / "web" / "docs" / name).is_file() for name in pictures), node_id


def test_there_is_no_help_page_without_a_node():
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(literal_node_ids())


def catches_everything(node):
    return isinstance(node, ast.ExceptHandler) and (
        node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
    )


def test_shipped_code_prints_nothing_and_catches_nothing_blindly():
    faults = []
    for path in SHIPPED:
        if is_command_line(path):
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                faults.append(f"{name_of(path)}:{node.lineno} prints")
            if catches_everything(node):
                faults.append(f"{name_of(path)}:{node.lineno} catches everything")
    assert faults == []
