"""What an artist finds who types a word into the node search, and the blueprints among it: each becomes a node."""

import json

import pytest
from front_end import complaints

from tools.browser import open_front_end
from tools.places import ROOT

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
# Each word, and which of the pack's nodes fit it; one of them should be among the first five.
FITTING = {
    "subject": ("Load Subject", "Save Subject", "Subject Encoder", "Subject Prompt"),
    "blip": ("Load BLIP-Diffusion Model", "Subject Encoder"),
    "reference": ("Reference photo to picture", "Subject Encoder"),
    "ip adapter": ("Subject Encoder", "Apply MS-Diffusion"),
    "style": ("Subject Encoder", "Subjects in My Checkpoint"),
    "character": ("Load Subject", "Subject Encoder"),
    "identity": ("Load Subject", "Subject Encoder"),
    "swap": ("Edit with Subject", "Replace with my subject"),
    "replace": ("Replace with my subject", "Edit with Subject"),
    "inpaint": ("Inpaint my subject",),
    "try on": ("Edit with Subject",),
    "train": ("Train my subject", "Subject Finetune"),
    "lora": ("LoRA of subject", "Subject Finetune"),
    "dreambooth": ("Subject Finetune",),
    "textual inversion": ("Subject Finetune", "Save Subject"),
    "embedding": ("Save Subject", "Subject Finetune"),
    "cut out": ("Subject Matte",),
    "blend": ("Blend Subjects",),
    "mix": ("Mix two subjects", "Blend Subjects"),
    "attention": ("Attention Maps",),
    "edit": ("Edit with Subject",),
    "prompt to prompt": ("Edit with Subject",),
}
RESULTS = '[data-testid="result-item"]'
# As the front end puts a blueprint onto the canvas: all that it holds, as if it were pasted.
PLACE = """() => { window.place = name => {
    const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s
    const store = stores.get('subgraph')
    const all = store.subgraphBlueprints ?? [...stores.get('nodeDef').blueprintNodeDefsByName.values()]  // newer ones
    const known = all.find(each => each.display_name === name)
    const {nodes, definitions} = store.getBlueprint(known.name)
    const pasted = app.canvas._deserializeItems({nodes, subgraphs: definitions.subgraphs}, {position: [0, 0]})
    return pasted.nodes.values().next().value
} }"""
NAMES = """([name, others]) => {
    app.graph.clear()
    for (let i = 0; i < others; i++) app.graph.add(LiteGraph.createNode('VAEDecode'))
    const node = place(name)
    return [node.inputs.map(each => each.name), node.outputs.map(each => each.name),
            node.widgets.map(each => [each.name, each.value])]
}"""


@pytest.fixture(scope="module")
def page(browser, host):
    with open_front_end(browser, host.url) as front_end:
        front_end.evaluate(PLACE)
        yield front_end


@pytest.fixture(scope="module")
def search(page):
    """The field of the node search."""
    page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_selector(RESULTS)
    yield page.get_by_placeholder("Add a node...")
    page.keyboard.press("Escape")


@pytest.fixture
def canvas(page):
    """The page without the node search, which would pass for a complaint."""
    page.keyboard.press("Escape")
    page.wait_for_selector(RESULTS, state="hidden")
    return page


@pytest.mark.parametrize("word", FITTING)
def test_a_word_finds_a_fitting_node(page, search, word):
    search.fill("")
    search.press_sequentially(word)
    for _ in range(40):  # the list follows what is typed when the page comes to it
        page.wait_for_timeout(500)
        first = page.locator(RESULTS).all_inner_texts()[:5]
        if any(name in text for name in FITTING[word] for text in first):
            return
    pytest.fail(f"the first five for '{word}': {first}")


def test_from_a_subject_socket_the_prompt_comes_first(page):
    """In the menu of a link that is dropped; the host's own reroute is before all."""
    offered = page.evaluate("LiteGraph.slot_types_default_out.SUBJECT")
    assert [name for name in offered if name != "Reroute"][0] == "SubjectPromptInfix"


def test_there_are_blueprints():
    names = [path.stem for path in BLUEPRINTS]
    assert {"Photo to subject", "Subject into scene", "Replace with my subject"} <= set(names)


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_becomes_a_node(canvas, path):
    """With its sockets, its widgets inside, and nothing to complain of."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    (node,), (inside,) = graph["nodes"], graph["definitions"]["subgraphs"]
    named = [each["name"] for each in node["inputs"] if "widget" in each]
    for others in (0, 9):  # in a graph with nodes of the same numbers newer front ends number those inside anew
        inputs, outputs, widgets = canvas.evaluate(NAMES, [path.stem, others])
        assert inputs[: len(inside["inputs"])] == [each["name"] for each in inside["inputs"]]
        assert outputs == [each["name"] for each in inside["outputs"]]
        assert widgets == [[name, value] for name, value in zip(named, node["widgets_values"], strict=True)]
    assert complaints(canvas) == [] and canvas.errors == []


def test_blueprints_together_make_a_picture(canvas, host):
    """A photo to a subject, and that into a scene."""
    canvas.evaluate("""() => {
        app.graph.clear()
        const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node }
        const photo = add('LoadImage'), subject = place('Photo to subject')
        const scene = place('Subject into scene'), saved = add('SaveImage')
        photo.widgets[0].value = 'blipdiffusion_mug.png'
        const link = (from, output, to, input) =>
            from.connect(from.findOutputSlot(output), to, to.findInputSlot(input))
        link(photo, 'IMAGE', subject, 'image'); link(scene, 'IMAGE', saved, 'images')
        for (const name of ['MODEL', 'CLIP', 'VAE', 'SUBJECT']) link(subject, name, scene, name.toLowerCase())
    }""")
    prompt = canvas.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    done = host.run_prompt(prompt)
    assert done.error == "" and len(done.pictures) >= 1
