"""How the shipped workflows lie on the canvas, and their form in App Mode; what the front end makes of it is in
test_browser_workflows."""

import copy
import json

import pytest

from tools.arrange_workflows import LARGEST, TITLE, arranged
from tools.places import ROOT
from tools.workflow_layouts import LAYOUTS

WORKFLOWS = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
WIDGETS = json.loads((ROOT / "tests" / "reference" / "widgets.json").read_text(encoding="utf-8"))
OUTPUTS = {"SaveImage", "PreviewImage", "PreviewAny", "MaskPreview", "SubjectFinetune", "SubjectSave"}


def read(name):
    return json.loads(WORKFLOWS[name].read_text(encoding="utf-8"))


def luminance(colour):
    shares = [value / 255 for value in colour]
    linear = [share / 12.92 if share <= 0.04 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def title_contrast(colour, canvas):
    """Of a group's title with the bar behind it: the front end fills that twice, a quarter opaque."""
    colour = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
    bar = [0.75**2 * grey + (1 - 0.75**2) * value for grey, value in zip((canvas,) * 3, colour, strict=True)]
    one, other = sorted((luminance(colour), luminance(bar)))
    return (other + 0.05) / (one + 0.05)


def test_every_workflow_has_a_layout():
    assert set(LAYOUTS) == set(WORKFLOWS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_workflow_lies_as_its_layout_says(name):
    """`python -m tools.arrange_workflows` would change nothing."""
    assert arranged(copy.deepcopy(read(name)), LAYOUTS[name]) == read(name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_workflow_begins_with_its_note(name):
    nodes = read(name)["nodes"]
    (note,) = [node for node in nodes if node["type"] == "MarkdownNote"]
    assert note["pos"][1] <= min(node["pos"][1] for node in nodes) + 40  # beside nodes with a group's title above them
    right, bottom = extent(nodes)
    assert 1.4 < right / bottom < 1.8


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_fits_a_window(name):
    right, bottom = extent(read(name)["nodes"])
    assert right <= LARGEST[0] and bottom <= LARGEST[1]


def extent(nodes):
    """Width and height of all nodes, with the bars of their titles."""
    left, top = (min(node["pos"][side] - bar for node in nodes) for side, bar in ((0, 0), (1, TITLE)))
    right, bottom = (max(node["pos"][side] + node["size"][side] for node in nodes) for side in (0, 1))
    return right - left, bottom - top


@pytest.mark.parametrize("name", WORKFLOWS)
def test_titles_of_groups_are_legible_in_both_themes(name):
    """One colour is both bar and title, so no more than about two is possible on a dark canvas and a light one."""
    for group in read(name)["groups"]:
        assert min(title_contrast(group["color"], canvas) for canvas in (0x14, 0xD3)) > 1.85, group["title"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_form_names_widgets_and_pictures(name):
    workflow = read(name)
    nodes, form = {node["id"]: node for node in workflow["nodes"]}, workflow["extra"]["linearData"]
    for number, widget in form["inputs"]:
        kind = nodes[number]["type"]
        assert kind not in WIDGETS or widget in [each["name"] for each in WIDGETS[kind]["widgets"]], (kind, widget)
    assert form["inputs"] and form["outputs"]
    assert {nodes[number]["type"] for number in form["outputs"]} <= OUTPUTS
    assert "linearMode" not in workflow["extra"]  # it opens as a graph


def test_a_subgraph_in_a_workflow_is_the_blueprint_of_its_name():
    """Each file has to hold it whole; a change of one is a change of all."""
    found = {}
    for name in WORKFLOWS:
        for subgraph in read(name).get("definitions", {}).get("subgraphs", []):
            blueprint = json.loads((ROOT / "subgraphs" / f"{subgraph['name']}.json").read_text(encoding="utf-8"))
            assert blueprint["definitions"]["subgraphs"] == [subgraph], name
            found[name] = subgraph["name"]
    assert found == dict.fromkeys(("gill_scene_with_subject", "two_subjects"), "Left and right half")


def test_a_layout_that_misses_a_node_is_refused():
    workflow = read("zero_shot")
    workflow["nodes"].append({**workflow["nodes"][0], "id": 99})
    with pytest.raises(ValueError, match="99"):
        arranged(workflow, LAYOUTS["zero_shot"])


def test_a_layout_larger_than_a_window_is_refused():
    workflow = read("zero_shot")
    for node in workflow["nodes"]:
        node["type"] = "SubjectFinetune"
    with pytest.raises(ValueError, match="is more than"):
        arranged(workflow, LAYOUTS["zero_shot"])
