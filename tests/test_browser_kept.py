"""What an artist sees stays on the nodes: pictures that come from the host's cache, saved subjects, a new list."""

import pytest
from front_end import open_template, queue, use_nodes_2

from tools.browser import open_front_end, wait_until_ready
from tools.places import ROOT

WORKFLOWS = ROOT / "workflows"
RUNS_MS = 300_000
NODES = "type => app.graph.nodes.filter(node => node.type === type).map(node => String(node.id))"


@pytest.fixture(params=[False, True], ids=["classic", "nodes 2.0"])
def page(request, browser, host):
    """The front end in one of its renderers, in a profile of its own."""
    with open_front_end(browser, host.url) as front_end:
        front_end.in_nodes_2 = request.param
        use_nodes_2(front_end, request.param)
        yield front_end
        use_nodes_2(front_end, False)


def nodes_of(page, kind):
    found = page.evaluate(NODES, kind)
    assert found
    return found


def require_picture(page, node):
    """A picture is drawn on the node, once."""
    if page.in_nodes_2:
        picture = page.locator(f'[data-node-id="{node}"] img')
        picture.first.wait_for()
        assert picture.count() == 1 and picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    else:
        shown = f"app.graph.nodes.find(node => String(node.id) === '{node}').imgs"
        page.wait_for_function(f"{shown}?.length && {shown}.every(image => image.complete && image.naturalWidth)")


SHOWN = ("SubjectEncoder", "SubjectMatte")


def require_previews(page, template):
    open_template(page, WORKFLOWS / f"{template}.json")
    queue(page)
    found = [node for kind in SHOWN for node in page.evaluate(NODES, kind)]
    assert found
    for node in found:
        require_picture(page, node)


def test_previews_stay(page):
    """Opened again, after another template whose encoder is cached too, and after the page was loaded anew: a Run that
    computes nothing shows what the last one showed."""
    for template in ("zero_shot", "matte_then_encode", "zero_shot", "matte_then_encode"):
        require_previews(page, template)
    page.reload()
    wait_until_ready(page)
    use_nodes_2(page, page.in_nodes_2)
    require_previews(page, "zero_shot")
    assert page.errors == []


def test_the_seed_of_a_fresh_finetune_stays(page):
    """The next Run does not train again."""
    widgets = "LiteGraph.createNode('SubjectFinetune').widgets"  # the name is the value that it begins with
    assert page.evaluate(f"{widgets}.find(widget => widget.label === 'control after generate').value") == "fixed"


def test_a_saved_subject_is_said_listed_and_shown(page):
    """Save Subject says the word for a prompt; R lists its file in Load Subject, which shows its picture."""
    name = f"kept_{'nodes2' if page.in_nodes_2 else 'classic'}"
    open_template(page, WORKFLOWS / "zero_shot.json")
    page.evaluate(
        """name => {
            const named = type => app.graph.nodes.find(node => node.type === type)
            const save = LiteGraph.createNode('SubjectSave')
            app.graph.add(save)
            named('SubjectEncoder').connect(0, save, 'subject')
            named('LoadImage').connect(0, save, 'image')
            save.widgets.find(widget => widget.name === 'filename_prefix').value = name
        }""",
        name,
    )
    queue(page)
    (save,) = nodes_of(page, "SubjectSave")
    said = f"app.graph.nodes.find(node => String(node.id) === '{save}').widgets.at(-1).value"
    page.wait_for_function(f"String({said}).includes('embedding:{name}')", timeout=RUNS_MS)

    page.evaluate("app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")
    listed = "LiteGraph.createNode('SubjectLoad').widgets[0].options.values"
    page.wait_for_function(f"(({listed}) ?? []).some(each => each.includes('{name}'))")
    page.evaluate(
        """name => {
            const load = LiteGraph.createNode('SubjectLoad'), prompt = app.graph.nodes.find(
                node => node.type === 'SubjectPromptInfix')
            app.graph.add(load)
            load.widgets[0].value = load.widgets[0].options.values.find(each => each.includes(name))
            load.connect(1, prompt, 'subject')
        }""",
        name,
    )
    queue(page)
    (load,) = nodes_of(page, "SubjectLoad")
    require_picture(page, load)
    assert page.errors == []
