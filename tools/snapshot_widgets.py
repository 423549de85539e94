"""What saved graphs rely on: the widgets, sockets and outputs of every node, kept in tests/reference/widgets.json.

    python -m tools.snapshot_widgets

writes down what was appended since the last time. It refuses to write anything when a saved graph would break; the
sentences say why. docs/development.md explains how a node or an input is renamed.
"""

import json
import sys
import tempfile
import urllib.error
from pathlib import Path

from tools.client import Client
from tools.host import running_host
from tools.places import PACK_FOLDER, ROOT
from tools.problems import Problem, run_command

SNAPSHOT = ROOT / "tests" / "reference" / "widgets.json"
COMMAND = "python -m tools.snapshot_widgets"
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_KEPT = ("default", "min", "max", "control_after_generate")


def read_forms(client):
    """The forms of the pack's nodes on a running host (tools.client.Client), by node id.

    A form is `{"sockets": {name: {"type", "optional"}}, "widgets": [{"name", "type", "optional", ...}], "outputs":
    [[type, name]]}`; widgets and outputs are in the order in which the front end numbers them. Choices that are files
    of that host are left out: they differ from one machine to the next.
    """
    files = [path.as_posix() for name in ("models", "input", "output") for path in (client.base_dir / name).rglob("*")]
    return {
        name: _form(info, files)
        for name, info in client.object_info().items()
        if info["python_module"] == f"custom_nodes.{PACK_FOLDER}"
    }


def _form(info, files):
    sockets, widgets = {}, []
    for group in ("required", "optional"):
        for name in info["input_order"].get(group, []):
            kind, options = (*info["input"][group][name], {})[:2]
            entry = {"type": kind, "optional": group == "optional"}
            if kind not in _WIDGETS or options.get("forceInput"):
                sockets[name] = entry
                continue
            kept = {key: options[key] for key in _KEPT if key in options}
            if kind == "COMBO":
                kept["choices"] = [choice for choice in options["options"] if not _is_file(choice, files)]
            widgets.append({"name": name, **entry, **kept})
    outputs = [list(pair) for pair in zip(info["output"], info["output_name"], strict=True)]
    return {"sockets": sockets, "widgets": widgets, "outputs": outputs}


def _is_file(choice, files):
    return any(path.endswith(f"/{choice}") for path in files)


def read_replacements(client):
    """The host's node replacements by old node id; none on a host that has no such route."""
    try:
        return client.get("/node_replacements")
    except urllib.error.HTTPError as missing:
        if missing.code != 404:
            raise
        return {}


def find_breaks(before, now, replacements):
    """Sentences that say which saved graphs the change from the forms `before` to the forms `now` would break."""
    found = []
    for node, form in before.items():
        if node in now:
            found += [f"{node}: {sentence}" for sentence in _form_breaks(form, now[node])]
        else:
            found += _replacement_breaks(node, form, now, replacements.get(node, []))
    return found


def _form_breaks(old, new):
    yield from _socket_breaks(old["sockets"], new["sockets"])
    yield from _widget_breaks(old["widgets"], new["widgets"])
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        yield f"links are kept by the number of the output: {old['outputs']} became {new['outputs']}"
    known = {*old["sockets"], *(widget["name"] for widget in old["widgets"])}
    for name, entry in [*new["sockets"].items(), *((widget["name"], widget) for widget in new["widgets"])]:
        if name not in known and not entry["optional"]:
            yield f"the new input {name} is required, but a saved graph has none; make it optional"


def _socket_breaks(old, new):
    for name, entry in old.items():
        if name not in new:
            yield f"the input {name} is gone"
        elif new[name]["type"] != entry["type"]:
            yield f"the input {name} was of type {entry['type']} and is of type {new[name]['type']}"
        elif entry["optional"] and not new[name]["optional"]:
            yield f"the input {name} was optional and is required"


def _widget_breaks(old, new):
    names = [[widget["name"] for widget in widgets] for widgets in (old, new)]
    if names[1][: len(names[0])] != names[0]:
        yield f"values are kept by the place of the widget: {', '.join(names[0])} became {', '.join(names[1])}"
        return
    for before, after in zip(old, new, strict=False):
        yield from (f"the widget {before['name']} {change}" for change in _value_breaks(before, after))


def _value_breaks(old, new):
    for key in ("type", "default", "control_after_generate"):
        if old.get(key) != new.get(key):
            yield f"had the {key} {old.get(key)!r} and has {new.get(key)!r}"
    if old["optional"] and not new["optional"]:
        yield "was optional and is required"
    if "min" in old and new.get("min", old["min"]) > old["min"]:
        yield f"took values from {old['min']} on and takes them from {new['min']} on"
    if "max" in old and new.get("max", old["max"]) < old["max"]:
        yield f"took values up to {old['max']} and takes them up to {new['max']}"
    if lost := [choice for choice in old.get("choices", []) if choice not in new.get("choices", [])]:
        yield f"no longer offers {lost}"


def _replacement_breaks(node, form, now, replacements):
    """What is wrong with the replacement (the host uses the first) of a node that is gone."""
    if not replacements:
        return [f"{node} is gone; register an io.NodeReplace for it"]
    new, found = replacements[0], []
    if new["new_node_id"] not in now:
        return [f"{node} is to be replaced by {new['new_node_id']}, which the pack does not have"]
    taken = {entry.get("old_id") for entry in new["input_mapping"] or []}
    names = _numbered_widgets(form)
    if lost := [name for name in [*form["sockets"], *names] if name and name not in taken]:
        found.append(f"{node}: its replacement leaves out the inputs {lost}")
    if [name or "" for name in new["old_widget_ids"] or []] != names:
        found.append(f"{node}: old_widget_ids of its replacement must be {names}, one for each saved value")
    if {entry["old_idx"] for entry in new["output_mapping"] or []} != set(range(len(form["outputs"]))):
        found.append(f"{node}: output_mapping of its replacement must name all {len(form['outputs'])} outputs")
    return found


def _numbered_widgets(form):
    """The name of every value in `widgets_values`; "" for the control that the front end puts behind a seed."""
    return [
        name
        for widget in form["widgets"]
        for name in ([widget["name"], ""] if widget.get("control_after_generate") else [widget["name"]])
    ]


def merged(before, now):
    """The snapshot after a change that breaks nothing: nodes that were replaced stay in it, so that they keep being."""
    return {**{node: form for node, form in before.items() if node not in now}, **now}


def main():
    """Renew the snapshot."""
    before = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
    with tempfile.TemporaryDirectory() as folder, running_host(Path(folder)) as host:
        client = Client(host)
        now, replacements = read_forms(client), read_replacements(client)
    if breaks := find_breaks(before, now, replacements):
        raise Problem("saved graphs would break, so the snapshot stays as it is.\n  " + "\n  ".join(breaks))
    after = merged(before, now)
    SNAPSHOT.write_text(json.dumps(after, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    changed = sum(after[node] != before.get(node) for node in after)
    sys.stdout.write(f"{SNAPSHOT.relative_to(ROOT)}: {len(after)} nodes, {changed} of them new or longer\n")


if __name__ == "__main__":
    run_command(main)
