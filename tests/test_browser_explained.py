"""What an artist reads when something is wrong, in both renderers of the front end: the sentence alone, once."""

import pytest
from front_end import read, use_nodes_2

from tools.browser import open_front_end
from tools.places import ROOT

TOAST = ".p-toast-message, [data-testid=toast]"  # older and newer front ends
RUNS_MS = 300_000


@pytest.fixture(scope="module")
def page(browser, host):
    with open_front_end(browser, host.url) as front_end:
        yield front_end


@pytest.fixture(params=[False, True], ids=["classic", "nodes 2.0"])
def renderer(request, page):
    """The page in one of the renderers; returns a function that opens zero_shot and runs JavaScript on it."""
    use_nodes_2(page, request.param)

    def opened(change):
        workflow = read(ROOT / "workflows" / "zero_shot.json")
        page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        page.evaluate("() => { const named = type => app.graph.nodes.find(n => n.type === type);" + change + "}")
        page.evaluate("app.queuePrompt(0, 1)")

    yield opened
    use_nodes_2(page, False)


def toast_of(page, sentence):
    """Title and text of the toast that begins with a sentence, as soon as it is the only one: the last one fades."""
    page.locator(TOAST, has_text=sentence).last.wait_for()
    page.wait_for_function(f"document.querySelectorAll({TOAST!r}).length === 1")
    return page.locator(TOAST).inner_text().split("\n", 1)


def test_a_refusal_stands_on_its_widget_and_in_the_toast(page, renderer):
    renderer("named('SubjectEncoder').widgets[0].value = ' ';")
    sentence = "The category is empty (given: ' '). Name the subject in a word or two, such as 'dog' or 'mug'."
    assert toast_of(page, sentence) == ["Subject Encoder", sentence]
    (refused,) = page.evaluate("Object.values(app.lastNodeErrors)")
    assert [(e["extra_info"]["input_name"], e["details"]) for e in refused["errors"]] == [("category", sentence)]


def test_a_refusal_over_several_inputs_stands_on_one(page, renderer):
    renderer("""
        const scene = LiteGraph.createNode('SubjectScene'), any = LiteGraph.createNode('PreviewAny');
        app.graph.add(scene); app.graph.add(any);
        named('SubjectModelLoader').connect(1, scene, 'clip'); named('SubjectEncoder').connect(0, scene, 'subject_a');
        scene.widgets[0].value = 'a {a} and a {b}'; scene.connect(0, any, 0);""")
    title, sentence = toast_of(page, "The prompt has the marker {b}")
    assert title == "Subjects in One Prompt" and sentence.startswith("The prompt has the marker {b}")
    (refused,) = page.evaluate("Object.values(app.lastNodeErrors)")
    assert [e["extra_info"]["input_name"] for e in refused["errors"]] == ["prompt"]


def test_a_refusal_of_a_node_with_growing_inputs_stands_on_its_text(page, renderer):
    renderer("""
        const said = LiteGraph.createNode('GILLPrompt'), any = LiteGraph.createNode('PreviewAny');
        app.graph.add(said); app.graph.add(any);
        named('LoadImage').connect(0, said, 'images.image1'); said.connect(0, any, 0);
        said.widgets[0].value = '<image1> or <image2>';""")
    sentence = "The prompt has <image2>, but no picture is connected to image2 (connected: image1)."
    title, shown = toast_of(page, sentence)
    assert title == "GILL Prompt" and shown.startswith(sentence)
    (refused,) = page.evaluate("Object.values(app.lastNodeErrors)")
    assert [e["extra_info"]["input_name"] for e in refused["errors"]] == ["text"]


def test_an_error_while_running_is_its_sentence(page, renderer):
    renderer("""
        const mask = LiteGraph.createNode('SolidMask');
        app.graph.add(mask); mask.connect(0, named('SubjectEncoder'), 'masks');""")
    page.wait_for_function("app.lastExecutionError", timeout=RUNS_MS)
    expected = "The mask is 512x512 pixels but the photo is 256x256."
    title, sentence = toast_of(page, expected)
    assert title == "Subject Encoder" and sentence.startswith(expected)


# What is told, the node it stands on, and how to bring it about and to mend it: each in words of its own, as what comes
# from the host's cache says nothing.
TOLD = {
    "a node of ours": ("[subjekt] in the prompt is read as words", "SubjectPromptInfix",
                       "named('SubjectPromptInfix').widgets[0].value = `on the beach [subjekt] ${Date.now()}`;",
                       "named('SubjectPromptInfix').widgets[0].value = `on the beach ${Date.now()}`;"),
    "a sampler of the host": ("256x160 pixels", "KSampler",
                              "[256, 160].forEach((side, i) => named('EmptyLatentImage').widgets[i].value = side); "
                              "named('KSampler').widgets[0].value += 1;",
                              "[96, 96].forEach((side, i) => named('EmptyLatentImage').widgets[i].value = side);"),
}  # fmt: skip


@pytest.mark.parametrize("where", TOLD)
def test_what_is_told_stands_on_the_node_until_it_is_no_longer_so(page, renderer, where):
    sentence, kind, wrong, mended = TOLD[where]
    once = "named('KSampler').widgets[2].value = 1;"
    named = "const named = type => app.graph.nodes.find(n => n.type === type);"
    texts = f"app.graph.nodes.find(n => n.type === {kind!r}).widgets.map(w => String(w.value)).join()"
    renderer(wrong + once)
    for again in (True, False):
        page.wait_for_function(f"{texts}.includes({sentence!r})", timeout=RUNS_MS)
        page.wait_for_function("app.ui.lastQueueSize === 0", timeout=RUNS_MS)
        page.wait_for_timeout(2000)  # newer front ends take such texts away when the run has ended
        assert sentence in page.evaluate(texts) and sentence in page.inner_text("body")
        page.evaluate(f"() => {{ {named} {mended} app.queuePrompt(0); }}")
        page.wait_for_function(f"!{texts}.includes({sentence!r})", timeout=RUNS_MS)
        page.wait_for_function("app.ui.lastQueueSize === 0", timeout=RUNS_MS)
        page.wait_for_timeout(2000)
        assert sentence not in page.evaluate(texts) and sentence not in page.inner_text("body")
        if again:  # and told anew
            page.evaluate(f"() => {{ {named} {wrong} app.queuePrompt(0); }}")
    page.wait_for_selector(".p-toast-message-error, [data-toast-kind=error]", state="detached")  # it fades
