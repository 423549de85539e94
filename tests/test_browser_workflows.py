"""The shipped workflows in the real front end, in headless Chromium: opened as an artist does, without complaint."""

from itertools import combinations
from typing import NamedTuple

import pytest
from front_end import (
    RUNNABLE,
    WORKFLOWS,
    complaints,
    is_blank,
    names_released_model,
    open_template,
    queue,
    read,
    use_nodes_2,
)

from tools.browser import open_front_end
from tools.places import ROOT

# [name, left, top, right, bottom] of all nodes, with their titles' bars, and of all groups. In Nodes 2.0 a node is as
# large as its element, which its content may have stretched.
BOXES = """(() => {
    const drawn = (node) => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`)
        const {width, height} = element?.getBoundingClientRect() ?? {width: 0, height: 0}
        return [width, height].map(side => side / app.canvas.ds.scale)
    }
    const sides = (item, bar) => {
        const [width, height] = bar ? drawn(item) : [0, 0]
        return [item.pos[0], item.pos[1] - bar, item.pos[0] + Math.max(item.size[0], width - 1),
                item.pos[1] + Math.max(item.size[1], height - bar - 1)]
    }
    return [app.graph.nodes.map(node => [`${node.type} ${node.id}`, ...sides(node, LiteGraph.NODE_TITLE_HEIGHT)]),
            app.graph.groups.map(group => [group.title, ...sides(group, 0)])]
})()"""
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
WIDGETS_IN_VIEW = """[...document.querySelectorAll('[data-testid=app-mode-widget-item]')].filter((item) => {
    const {left, right} = item.getBoundingClientRect()
    return left >= 0 && right > left && right <= innerWidth
}).length"""
BYPASSED = 4  # `mode` of a node


class Box(NamedTuple):
    """Sides on the canvas; y points down."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other):
        return max(self.left, other.left) < min(self.right, other.right) and max(self.top, other.top) < min(
            self.bottom, other.bottom
        )

    def is_inside(self, other):
        return (
            other.left <= self.left
            and other.top <= self.top
            and self.right <= other.right
            and (self.bottom <= other.bottom)
        )


def test_there_are_workflows():
    assert "zero_shot" in [path.stem for path in WORKFLOWS]


@pytest.fixture(scope="module", params=WORKFLOWS, ids=lambda path: path.stem)
def opened(request, browser, host):
    """Each workflow in turn, opened in a fresh profile: its path and the page that shows it."""
    with open_front_end(browser, host.url) as page:
        open_template(page, request.param)
        yield request.param, page


def test_workflow_opens_without_complaint(opened):
    path, page = opened
    shown = complaints(page)
    if names_released_model(read(path)):
        missing = sum(len(node["properties"].get("models", ())) for node in read(path)["nodes"])
        # Of several it gives the number, in which those whose names have no ending that it knows do not count.
        numbered = [f"{count} {word} found" for count in range(2, missing + 1) for word in ("errors", "issues")]
        expected = ("missing a required model", *numbered)
        shown = [text for text in shown if not any(part in text for part in expected)]
    assert shown == []
    assert page.errors == []


def test_no_node_is_on_its_way_out(opened):
    _, page = opened
    assert page.evaluate("app.graph.nodes.filter(n => n.constructor.nodeData?.deprecated).map(n => n.type)") == []


def test_graph_opens_readable(opened):
    """The classic canvas draws no text at 56 % or less."""
    _, page = opened
    assert page.evaluate("app.canvas.ds.scale") >= 0.6


def test_graph_is_tidy(opened):
    _, page = opened
    require_tidy(page)


def test_graph_is_tidy_in_nodes_2(opened):
    """Also where a node is drawn larger because its file is missing."""
    _, page = opened
    require_tidy_in_nodes_2(page)


def test_it_is_a_form_in_app_mode(opened):
    """With all widgets that it lists, those of bypassed nodes once they are on; it opens as a graph all the same."""
    path, page = opened
    workflow = read(path)
    bypassed = {node["id"] for node in workflow["nodes"] if node["mode"] == BYPASSED}
    listed = [widget for node, widget in workflow["extra"]["linearData"]["inputs"] if node not in bypassed]
    assert page.locator('[data-testid="linear-widgets"]').count() == 0
    page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
    page.wait_for_selector('[data-testid="linear-widgets"]')
    page.wait_for_function(f"document.querySelectorAll('[data-testid=app-mode-widget-item]').length === {len(listed)}")
    page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
    page.wait_for_selector('[data-testid="linear-widgets"]', state="detached")
    use_nodes_2(page, False)


def test_the_form_fits_a_phone(browser, host):
    """Whatever App Mode lists lies between the sides of a small screen, the button in view below it."""
    with open_front_end(browser, host.url, **PHONE) as page:
        for path in RUNNABLE:
            workflow = read(path)
            bypassed = {node["id"] for node in workflow["nodes"] if node["mode"] == BYPASSED}
            listed = [widget for node, widget in workflow["extra"]["linearData"]["inputs"] if node not in bypassed]
            page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
            page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
            page.get_by_text("Edit & Run").click()
            page.wait_for_function(f"{WIDGETS_IN_VIEW} === {len(listed)}")
            button = page.locator('[data-testid="linear-run-button"]').bounding_box()
            assert button["y"] + button["height"] <= PHONE["viewport"]["height"], path.stem


def require_tidy_in_nodes_2(page):
    use_nodes_2(page, True)
    page.wait_for_selector("[data-node-id]")
    page.wait_for_timeout(1000)  # until each has its size
    require_tidy(page)
    use_nodes_2(page, False)


def require_tidy(page):
    """As the front end draws them: no node lies on another, each but the notes lies in a group, groups stay apart."""
    nodes, groups = ({title: Box(*sides) for title, *sides in boxes} for boxes in page.evaluate(BOXES))
    assert [pair for pair in combinations(nodes, 2) if nodes[pair[0]].meets(nodes[pair[1]])] == []
    assert [pair for pair in combinations(groups, 2) if groups[pair[0]].meets(groups[pair[1]])] == []
    framed = {title for title, box in nodes.items() if any(box.is_inside(group) for group in groups.values())}
    assert {title for title in nodes if not title.startswith("MarkdownNote")} == framed


def test_the_converter_agrees_with_the_front_end(opened, host):
    """The API prompt that `make demo` and the tests make from a workflow is the one that the browser would queue."""
    path, page = opened
    queued = page.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    own = {str(node["id"]) for node in read(path)["nodes"]}
    assert by_own_numbers(host.to_api(path), own) == by_own_numbers(queued, own)


def by_own_numbers(prompt, own):
    """Class and inputs of each node. Those inside a subgraph, which the converter and the front end number each in its
    own way, are counted in their order."""
    inside = sorted((key for key in prompt if key not in own), key=lambda key: int(key.rpartition(":")[2]))
    numbers = {key: f"inside {place}" for place, key in enumerate(inside)}

    def value_of(value):
        return [numbers.get(value[0], value[0]), *value[1:]] if isinstance(value, list) and value else value

    return {
        numbers.get(key, key): (node["class_type"], {name: value_of(value) for name, value in node["inputs"].items()})
        for key, node in prompt.items()
    }


def test_the_packs_sockets_have_colours(browser_page):
    browser_page.evaluate("workflow => app.loadGraphData(workflow)", read(ROOT / "workflows" / "zero_shot.json"))
    kinds = ("SUBJECT", "SUBJECT_ENCODER", "MS_ADAPTER", "MS_SUBJECTS", "GILL_MODEL", "GILL_PROMPT")
    for kind in kinds:
        browser_page.wait_for_function(f"LGraphCanvas.link_type_colors.{kind}?.startsWith('#')")
        assert browser_page.evaluate(f"app.canvas.default_connection_color_byType.{kind}").startswith("#")
    variable = "name => getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${name}`).trim()"
    colours = [browser_page.evaluate(variable, kind) for kind in kinds]
    assert all(colour.startswith("#") for colour in colours)
    background = "getComputedStyle(document.body).getPropertyValue('--bg-color')"
    dark = browser_page.evaluate(background)
    browser_page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    browser_page.wait_for_function(f"{background} !== {dark!r}")
    assert [browser_page.evaluate(variable, kind) for kind in kinds] == colours
    browser_page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


def test_a_complaint_would_be_noticed(browser_page):
    workflow = read(ROOT / "workflows" / "zero_shot.json")
    next(node for node in workflow["nodes"] if node["type"] == "SubjectEncoder")["type"] = "NoSuchEncoder"
    browser_page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    assert "NoSuchEncoder" in "".join(complaints(browser_page))


@pytest.mark.parametrize("opened", RUNNABLE, indirect=True, ids=lambda path: path.stem)
def test_workflow_queued_in_the_browser_yields_pictures(opened):
    _, page = opened
    pictures = queue(page)
    assert pictures and not any(map(is_blank, pictures))
    require_tidy(page)  # also with what has come onto the nodes
    require_tidy_in_nodes_2(page)
    assert complaints(page) == [] and page.errors == []
