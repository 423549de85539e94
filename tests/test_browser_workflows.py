"""The shipped workflows in the real front end, in headless Chromium: opened as an artist does, without complaint."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tools.browser import open_front_end
from tools.places import PACK_FOLDER, ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
COMPLAINTS = '[data-testid="error-overlay"], [role="dialog"], .p-toast-message-error, .p-toast-message-warn'
COMPLAINT_MS = 3000  # until a new graph has been checked, and what was said of the one before is gone


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def names_released_model(workflow):
    """Whether the workflow says where its models come from: those do not exist on a machine that runs the tests."""
    return any(node.get("properties", {}).get("models") for node in workflow["nodes"])


def open_template(page, path):
    """Click through the template browser; returns when the canvas shows the nodes of the workflow."""
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK_FOLDER, exact=True).first.click()
    page.locator(f'[data-testid="template-workflow-{path.stem}"]').click()
    types = sorted(node["type"] for node in read(path)["nodes"])
    page.wait_for_function("types => JSON.stringify(app.graph.nodes.map(n => n.type).sort()) == types",
                           arg=json.dumps(types, separators=(",", ":")))  # fmt: skip


def complaints(page):
    """Texts of the error messages, toasts and dialogs that the front end shows over the workflow."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(COMPLAINT_MS)
    return [shown.inner_text() for shown in page.locator(COMPLAINTS).all() if shown.is_visible()]


# Those that run with what the pack brings along.
RUNNABLE = [path for path in WORKFLOWS if not names_released_model(read(path))]
SLOW_RUN_MS = 600_000  # one that trains, on a busy machine


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
        shown = [text for text in shown if "missing a required model" not in text]
    assert shown == []
    assert page.errors == []


def test_the_converter_agrees_with_the_front_end(opened, host):
    """The API prompt that `make demo` and the tests make from a workflow is the one that the browser would queue."""
    path, page = opened
    queued = page.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    converted = host.to_api(path)
    assert {key: (node["class_type"], node["inputs"]) for key, node in converted.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in queued.items()
    }


def test_a_complaint_would_be_noticed(browser_page):
    workflow = read(ROOT / "workflows" / "zero_shot.json")
    next(node for node in workflow["nodes"] if node["type"] == "SubjectEncoder")["type"] = "NoSuchEncoder"
    browser_page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    assert "NoSuchEncoder" in "".join(complaints(browser_page))


@pytest.mark.parametrize("opened", RUNNABLE, indirect=True, ids=lambda path: path.stem)
def test_workflow_queued_in_the_browser_yields_pictures(opened, host):
    _, page = opened
    page.locator('[data-testid="queue-button"]').click()
    ended = "app.lastNodeErrors || app.lastExecutionError || app.ui.lastQueueSize === 0"
    saved = "Object.values(app.nodeOutputs).flatMap(shown => shown.images ?? []).filter(i => i.type == 'output')"
    page.wait_for_function(f"{saved}.length && ({ended})", timeout=SLOW_RUN_MS)
    assert page.evaluate("[app.lastNodeErrors, app.lastExecutionError]") == [None, None]
    for shown in page.evaluate(saved):
        answer = page.request.get(host.url + "/view", params=shown)
        picture = np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))
        assert min(picture.shape[:2]) >= 96
        most_common = Counter(map(tuple, picture.reshape(-1, 3).tolist())).most_common(1)[0][1]
        assert picture.std() > 10 and most_common < picture[..., 0].size / 2, f"{shown['filename']} is blank"
    assert complaints(page) == [] and page.errors == []
