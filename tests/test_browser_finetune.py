"""Fine-tuning in the browser: bar, loss and preview on the node, a cancel that ends the training and keeps what was
learned, and a next run that works."""

import json
from pathlib import Path

import pytest
from front_end import use_nodes_2
from tiny_model import write_tiny_checkpoint

from tools.places import ROOT

MODEL = "browser_finetune.safetensors"
NODE = "SubjectFinetune"
RECORD = """() => {
    const known = window.seen;
    window.seen = { previews: 0, texts: [], values: [], ended: [] };
    if (known) return;
    app.api.addEventListener('b_preview', () => seen.previews++);
    app.api.addEventListener('progress_text', event => seen.texts.push(event.detail.text ?? String(event.detail)));
    app.api.addEventListener('progress', ({ detail }) => seen.values.push([detail.node, detail.value, detail.max]));
    for (const kind of ['execution_interrupted', 'execution_error', 'execution_success'])
        app.api.addEventListener(kind, () => seen.ended.push(kind));
}"""
LONG, SHORT = 5000, 4


@pytest.fixture(scope="module")
def workflow(host):
    """The shipped workflow on a model that takes a moment per step."""
    folder = Path(host.base_dir) / "models" / "blipdiffusion"
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_checkpoint(folder / MODEL, seed=71)
    graph = json.loads((ROOT / "workflows" / "finetune_then_generate.json").read_text(encoding="utf-8"))
    loader = next(node for node in graph["nodes"] if node["type"] == "SubjectModelLoader")
    encoder = next(node for node in graph["nodes"] if node["type"] == "SubjectEncoder")
    loader["widgets_values"][0], encoder["widgets_values"][0] = MODEL, "dog"
    return graph


def with_steps(workflow, steps):
    graph = json.loads(json.dumps(workflow))
    widgets = next(node for node in graph["nodes"] if node["type"] == NODE)["widgets_values"]
    widgets[1], widgets[7], widgets[8] = steps, 64, 2  # steps, resolution, preview_every
    return graph


def queue(page, graph):
    page.evaluate("async graph => { await app.loadGraphData(graph) }", graph)
    page.evaluate(RECORD)
    page.evaluate("async () => { await app.queuePrompt(0, 1) }")


def test_progress_preview_and_cancel(browser_page, workflow):
    queue(browser_page, with_steps(workflow, LONG))
    node = str(next(node["id"] for node in workflow["nodes"] if node["type"] == NODE))
    browser_page.wait_for_function(
        f"() => seen.ended.length || (seen.previews > 1 && seen.values.some(v => v[0] == '{node}' && v[1] > 3))",
        timeout=300_000,
    )
    seen = browser_page.evaluate("seen")
    assert seen["ended"] == [], browser_page.evaluate("app.lastExecutionError")
    steps = [value for who, value, total in seen["values"] if who == node and total == LONG]
    assert steps == sorted(steps) and len(set(steps)) > 1
    assert any("loss" in text for text in seen["texts"]), seen["texts"]
    assert browser_page.evaluate(f"(app.nodePreviewImages['{node}'] ?? []).length") > 0  # drawn on the node itself

    browser_page.evaluate("() => app.api.interrupt()")
    browser_page.wait_for_function("() => seen.ended.length", timeout=300_000)
    seen = browser_page.evaluate("seen")
    assert seen["ended"] == ["execution_success"]  # with what was learned so far
    steps = sorted({value for who, value, total in seen["values"] if who == node and total == LONG} - {LONG})
    assert steps[-1] < LONG / 2  # beside the bar that is full at the end

    queue(browser_page, with_steps(workflow, SHORT))
    browser_page.wait_for_function("() => seen.ended.length", timeout=300_000)
    assert browser_page.evaluate("seen.ended") == ["execution_success"], browser_page.evaluate("app.lastExecutionError")
    shown = browser_page.evaluate(f"app.nodeOutputs['{node}'].images")
    assert len(shown) == 1  # the loss curve and the last preview, on the node
    use_nodes_2(browser_page, True)
    browser_page.wait_for_selector(f'[data-node-id="{node}"] img')
    browser_page.wait_for_timeout(2000)  # a live preview is given up after a while
    assert browser_page.locator(f'[data-node-id="{node}"] img').count() == 1  # not a live preview above it
    use_nodes_2(browser_page, False)
    assert browser_page.errors == []
