"""What SECURITY.md says of the shipped code, by its source: what it never imports or calls, and how it loads."""

import ast

from tools.places import ROOT

SHIPPED = [
    ROOT / "__init__.py",
    *sorted((ROOT / "nodes").rglob("*.py")),
    *sorted((ROOT / "blipdiff_impl").rglob("*.py")),
]
# Connections, processes, and formats that run what they hold.
NEVER_IMPORTED = {
    "aiohttp", "asyncio", "cloudpickle", "ctypes", "dill", "ftplib", "http", "httpx", "joblib", "marshal",
    "multiprocessing", "pty", "requests", "shelve", "smtplib", "socket", "subprocess", "urllib", "urllib3",
    "webbrowser",
}  # fmt: skip
NEVER_CALLED = {
    "breakpoint", "compile", "eval", "exec", "os.getenv", "os.popen", "os.system", "pickle.Unpickler", "pickle.load",
    "pickle.loads",
    "torch.hub.load", "yaml.load",
}  # fmt: skip
HARMLESS = {"urllib.parse.quote"}
# What makes something of a file by code of its own, and what each call has to say in so many words; in tests too.
LOADING = {
    "from_pretrained": {"local_files_only": True, "trust_remote_code": False},
    "from_config": {"trust_remote_code": False},
    "from_single_file": {"local_files_only": True},
    "torch.load": {"weights_only": True},
}
EVERY_FILE = [
    path
    for folder in ("blipdiff_impl", "nodes", "tools", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def dotted(node):
    """`torch.load` of the expression, as far as it is a chain of names."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def nodes_of(kind, files=SHIPPED):
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def imported(node):
    """Names that an absolute import brings."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return set() if node.level else {f"{node.module}.{alias.name}" for alias in node.names}


def told(call, name, value):
    return any(
        word.arg == name and isinstance(word.value, ast.Constant) and word.value.value is value
        for word in call.keywords
    )


def test_nothing_that_opens_connections_or_starts_processes_is_imported():
    found = [
        (place, name)
        for place, node in nodes_of((ast.Import, ast.ImportFrom))
        for name in imported(node) - HARMLESS
        if name.partition(".")[0] in NEVER_IMPORTED
    ]
    assert found == []


def test_nothing_is_evaluated_unpickled_or_read_from_the_environment():
    calls = [(place, dotted(node.func)) for place, node in nodes_of(ast.Call) if dotted(node.func) in NEVER_CALLED]
    environment = [place for place, node in nodes_of(ast.Attribute) if dotted(node) in ("os.environ", "os.environb")]
    assert calls + environment == []


def test_arrays_are_loaded_without_pickles():
    loads = [(place, call) for place, call in nodes_of(ast.Call) if dotted(call.func) == "np.load"]
    assert loads and [place for place, call in loads if told(call, "allow_pickle", True)] == []


def test_no_library_asks_the_net_or_runs_a_models_own_code():
    """By their default the libraries ask at the terminal, or do what a folder's configuration says."""
    found = {name: [] for name in LOADING}
    for place, call in nodes_of(ast.Call, EVERY_FILE):
        name = dotted(call.func) if dotted(call.func) == "torch.load" else getattr(call.func, "attr", "")
        if name in LOADING:
            found[name].append((place, [word for word, value in LOADING[name].items() if not told(call, word, value)]))
    assert found["from_pretrained"] and found["torch.load"]
    assert {name: [each for each in calls if each[1]] for name, calls in found.items()} == {
        name: [] for name in LOADING
    }
