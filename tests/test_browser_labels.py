"""Labels of widgets and titles of nodes are read whole in the classic renderer, which cuts off what is too long."""

import pytest
from front_end import RUNNABLE, read

from tools.browser import open_front_end

# What is drawn of each node, from which follows which titles and labels of this pack's nodes are not drawn whole.
WATCH = """() => {
    const {fillText} = CanvasRenderingContext2D.prototype, {drawNode} = LGraphCanvas.prototype
    let texts
    LGraphCanvas.prototype.drawNode = function (node, ...rest) {
        texts = node.drawnTexts = new Set()
        try { return drawNode.call(this, node, ...rest) } finally { texts = undefined }
    }
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        texts?.add(String(text))
        return fillText.call(this, text, ...rest)
    }
    const isOurs = node => /blip/.test(node.constructor.nodeData?.python_module ?? '')
    // texts of several lines and previews are elements or pictures, without a label
    const labels = ({widgets}) => (widgets ?? []).filter(w => !w.hidden && !w.element && !w.name.startsWith('$'))
        .map(w => w.label ?? w.name)
    window.cutOff = () => {
        app.canvas.ds.scale = 1
        return app.graph.nodes.filter(isOurs).flatMap(node => {
            app.canvas.ds.offset = [200 - node.pos[0], 200 - node.pos[1]]
            app.canvas.draw(true, true)
            return [node.title, ...labels(node)].filter(text => !node.drawnTexts.has(text))
                .map(text => `${node.type}: ${text}`)
        })
    }
}"""
OURS = "Object.keys(LiteGraph.registered_node_types).filter(type => /^(Subject|MSDiffusion|GILL)/.test(type))"


@pytest.fixture(scope="module")
def page(browser, host):
    with open_front_end(browser, host.url) as front_end:
        front_end.evaluate(WATCH)
        yield front_end


def cut_off(page):
    return page.evaluate("cutOff()")


def test_a_cut_would_be_noticed(page):
    page.evaluate("() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('SubjectModelLoader')) }")
    page.evaluate("app.graph.nodes[0].setSize([200, 200])")
    found = {text.partition(": ")[2] for text in cut_off(page)}
    assert found == {"Load BLIP-Diffusion Model", "model_name", "weight_dtype"}


def test_a_fresh_node_is_wide_enough(page):
    types = page.evaluate(OURS)
    assert len(types) > 25
    for kind in types:
        page.evaluate("type => { app.graph.clear(); app.graph.add(LiteGraph.createNode(type)) }", kind)
        page.wait_for_timeout(50)
        assert cut_off(page) == []


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_a_templates_nodes_are_wide_enough(page, path):
    page.evaluate("workflow => app.loadGraphData(workflow)", read(path))
    page.wait_for_timeout(200)
    assert cut_off(page) == []
