"""The real ComfyUI imported into this process, for tests and benchmarks that look inside it. No server is started."""

import asyncio
import importlib.util
import sys
from types import SimpleNamespace

from tools.host import find_host
from tools.places import ROOT

_loaded = None


def load_comfy(base_dir):
    """Import ComfyUI on the CPU with its models, inputs and outputs in `base_dir`, and the pack as the host loads it.

    Returns a namespace: `nodes`, `folder_paths`, `model_management`, `sd`, `utils` (the host's modules), `pack` (this
    pack's module), `node(name)`, which finds a node class of the pack or of the host's core by its id, and
    `module(name)`, a module of the pack under its name inside the pack. Importing is possible once per process: a
    second call returns the first namespace.
    """
    global _loaded
    if _loaded is None:
        _loaded = _import_comfy(find_host(), base_dir)
    return _loaded


def _import_comfy(host, base_dir):
    for name in ("custom_nodes", "input", "output", "models", "user", "temp"):
        (base_dir / name).mkdir(parents=True, exist_ok=True)
    # First on the path: the host's `nodes.py` must win over the `nodes` folder of this checkout.
    sys.path.insert(0, str(host))
    # As the host's own main.py does: its `nodes.py` may put the folder `comfy`, whose `utils` is another, before it.
    importlib.import_module("utils")
    from comfy.cli_args import args

    args.cpu = True  # read by comfy.model_management when it is imported
    args.base_directory = str(base_dir)
    import comfy.model_management
    import comfy.sd
    import comfy.utils
    import folder_paths

    import nodes

    pack, pack_nodes = load_pack()

    def node(name):
        return pack_nodes.get(name) or nodes.NODE_CLASS_MAPPINGS[name]

    def module(name):
        return importlib.import_module(f"{pack.__name__}.{name}")

    return SimpleNamespace(
        nodes=nodes,
        folder_paths=folder_paths,
        model_management=comfy.model_management,
        sd=comfy.sd,
        utils=comfy.utils,
        pack=pack,
        node=node,
        module=module,
    )


def load_pack(folder=ROOT):
    """Import the pack under the module name that the host would give it; returns the module and its nodes by id."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules[name] = pack
    spec.loader.exec_module(pack)
    return pack, asyncio.run(_list_nodes(pack))


async def _list_nodes(pack):
    extension = await _called(pack.comfy_entrypoint)
    await extension.on_load()
    return {node.define_schema().node_id: node for node in await extension.get_node_list()}


async def _called(function):
    """The result of a function that may or may not be a coroutine function: the host accepts both."""
    result = function()
    return await result if asyncio.iscoroutine(result) else result
