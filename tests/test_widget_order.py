"""Saved graphs keep working: every node against tests/reference/widgets.json.

A saved graph keeps the value of a widget by its place, a link into a node by the input's name and a link out of it by
the output's number; a script's prompt keeps everything by name. So inputs and outputs are only ever appended, and new
inputs are optional. After appending: `python -m tools.snapshot_widgets`.

Renaming a node, or an input, goes through the host's node replacement (ComfyUI 0.30.0 and 0.16.3 have it): the node
gets a new id, and the extension's `on_load` registers an `io.NodeReplace` from the old id, with every old input, every
saved value and every output in its mappings. The server then rewrites prompts of scripts, and the front end offers to
replace the node in saved graphs. An input cannot be renamed under the old id: the host replaces only ids that are gone.
"""

import copy
import inspect
import json

import pytest

from tools.snapshot_widgets import COMMAND, SNAPSHOT, find_breaks, merged, read_forms, read_replacements

OLD = {
    "sockets": {"clip": {"type": "CLIP", "optional": False}, "mask": {"type": "MASK", "optional": True}},
    "widgets": [
        {"name": "steps", "type": "INT", "optional": False, "default": 20, "min": 1, "max": 100},
        {"name": "seed", "type": "INT", "optional": False, "default": 0, "control_after_generate": True},
        {"name": "fit", "type": "COMBO", "optional": True, "default": "crop", "choices": ["crop", "pad"]},
    ],
    "outputs": [["MODEL", "MODEL"], ["IMAGE", "IMAGE"]],
}
REPLACEMENT = {
    "new_node_id": "New",
    "old_node_id": "Old",
    "old_widget_ids": ["steps", "seed", "", "fit"],
    "input_mapping": [{"new_id": name, "old_id": name} for name in ("clip", "mask", "steps", "seed", "fit")],
    "output_mapping": [{"new_idx": 0, "old_idx": 0}, {"new_idx": 1, "old_idx": 1}],
}


@pytest.fixture(scope="module")
def snapshot():
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def forms(host):
    return read_forms(host)


def test_no_saved_graph_breaks(host, snapshot, forms):
    breaks = find_breaks(snapshot, forms, read_replacements(host))
    assert not breaks, "saved graphs would break; append instead, or see docs/development.md:\n" + "\n".join(breaks)


def test_the_snapshot_is_up_to_date(snapshot, forms):
    after = merged(snapshot, forms)
    changed = [node for node in after if after[node] != snapshot.get(node)]
    assert not changed, f"{changed} have more than the snapshot says: run `{COMMAND}` and commit {SNAPSHOT.name}"


def test_every_node_of_the_pack_is_held(host, comfy, snapshot):
    """By the list that the pack itself gives, so that a wrong filter cannot make the tests above empty."""
    listed = {node.define_schema().node_id for node in comfy.pack.NODES}
    assert listed and listed <= set(snapshot) and listed <= set(host.object_info())


def changed(**edits):
    """OLD after some edits: key -> function of that part."""
    form = copy.deepcopy(OLD)
    for part, edit in edits.items():
        edit(form[part])
    return form


def widget(index, **values):
    return lambda widgets: widgets[index].update(values)


@pytest.mark.parametrize(
    "form, sentence",
    [
        (changed(widgets=lambda w: w.insert(1, {**w[2], "name": "new"})), "place of the widget"),
        (changed(widgets=lambda w: w.reverse()), "place of the widget"),
        (changed(widgets=lambda w: w.pop()), "place of the widget"),
        (changed(widgets=widget(0, name="step_count")), "place of the widget"),
        (changed(widgets=widget(0, type="FLOAT")), "had the type 'INT' and has 'FLOAT'"),
        (changed(widgets=widget(0, default=30)), "had the default 20 and has 30"),
        (changed(widgets=widget(1, control_after_generate=None)), "control_after_generate"),
        (changed(widgets=widget(0, min=2)), "took values from 1 on"),
        (changed(widgets=widget(0, max=50)), "took values up to 100"),
        (changed(widgets=widget(2, choices=["crop", "squash"])), "no longer offers ['pad']"),
        (changed(widgets=widget(2, optional=False)), "was optional and is required"),
        (changed(widgets=lambda w: w.append({**w[0], "name": "new"})), "the new input new is required"),
        (changed(sockets=lambda s: s.pop("clip")), "the input clip is gone"),
        (changed(sockets=lambda s: s.update(clip={"type": "MODEL", "optional": False})), "was of type CLIP"),
        (changed(sockets=lambda s: s.update(mask={"type": "MASK", "optional": False})), "was optional"),
        (changed(sockets=lambda s: s.update(vae={"type": "VAE", "optional": False})), "the new input vae is required"),
        (changed(outputs=lambda o: o.insert(0, ["MASK", "MASK"])), "number of the output"),
        (changed(outputs=lambda o: o.pop()), "number of the output"),
    ],
)  # fmt: skip
def test_changes_that_break_are_found(form, sentence):
    found = find_breaks({"Node": OLD}, {"Node": form}, {})
    assert any(line.startswith("Node: ") and sentence in line for line in found), found


@pytest.mark.parametrize(
    "form",
    [
        OLD,
        changed(widgets=lambda w: w.append({**w[2], "name": "new"})),
        changed(widgets=widget(0, min=0, max=200)),
        changed(widgets=widget(2, choices=["squash", "crop", "pad"])),
        changed(sockets=lambda s: s.update(vae={"type": "VAE", "optional": True})),
        changed(sockets=lambda s: s.update(clip={"type": "CLIP", "optional": True})),
        changed(outputs=lambda o: o.append(["MASK", "MASK"])),
    ],
)
def test_what_is_appended_breaks_nothing(form):
    assert find_breaks({"Node": OLD}, {"Node": form, "Another": OLD}, {}) == []


@pytest.mark.parametrize(
    "replacement, sentence",
    [
        (None, "register an io.NodeReplace"),
        ({**REPLACEMENT, "new_node_id": "Nothing"}, "which the pack does not have"),
        ({**REPLACEMENT, "input_mapping": REPLACEMENT["input_mapping"][1:]}, "leaves out the inputs ['clip']"),
        ({**REPLACEMENT, "old_widget_ids": ["steps", "seed", "fit"]}, "one for each saved value"),
        ({**REPLACEMENT, "output_mapping": None}, "must name all 2 outputs"),
    ],
)
def test_a_node_that_goes_needs_a_whole_replacement(replacement, sentence):
    replacements = {"Old": [replacement]} if replacement else {}
    (found,) = find_breaks({"Old": OLD}, {"New": OLD}, replacements)
    assert sentence in found


def test_a_replaced_node_stays_in_the_snapshot():
    assert find_breaks({"Old": OLD}, {"New": OLD}, {"Old": [REPLACEMENT]}) == []
    assert merged({"Old": OLD}, {"New": OLD}) == {"Old": OLD, "New": OLD}


def test_the_host_replaces_a_renamed_node(comfy):
    """What the docstring above promises, by the host's own code: id, inputs and links of a script's prompt."""
    from app.node_replace_manager import NodeReplaceManager
    from comfy_api.latest import io

    manager = NodeReplaceManager()
    mapping = [{"new_id": "image", "old_id": "picture"}, {"new_id": "upscale_method", "set_value": "bicubic"}]
    manager.register(
        io.NodeReplace("ImageScale", "ScaleOfOld", ["way"], mapping, output_mapping=[{"new_idx": 0, "old_idx": 2}])
    )
    prompt = {
        "1": {"class_type": "ScaleOfOld", "inputs": {"picture": ["0", 0], "way": "nearest"}, "_meta": {}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 2]}, "_meta": {}},
    }
    manager.apply_replacements(prompt)
    assert prompt["1"]["class_type"] == "ImageScale"
    assert prompt["1"]["inputs"] == {"image": ["0", 0], "upscale_method": "bicubic"}
    assert prompt["2"]["inputs"]["images"] == ["1", 0]


def test_pictures_on_a_node_outlast_its_run(comfy):
    """Without this mark the host forgets them as soon as the node's result comes from its cache."""
    showing = [node for node in comfy.pack.NODES if "ui=" in inspect.getsource(node)]
    kept = [node for node in showing if node.define_schema().has_intermediate_output]
    assert len(showing) >= 5 and kept == showing
