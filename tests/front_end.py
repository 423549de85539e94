"""Driving ComfyUI's front end as an artist does: open a template, queue it, and see what it says."""

import io
import json
from collections import Counter

import numpy as np
from PIL import Image
from playwright.sync_api import TimeoutError

from tools.places import PACK_FOLDER, ROOT

COMPLAINTS = (
    '[data-testid="error-overlay"], [role="dialog"], .p-toast-message-error, .p-toast-message-warn, '
    '[data-toast-kind="error"], [data-toast-kind="warn"]'
)
COMPLAINT_MS = 3000  # until a new graph has been checked, and what was said of the one before is gone
OPENING_MS = 120_000
SLOW_RUN_MS = 600_000  # a workflow that trains, on a busy machine


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def names_released_model(workflow):
    """Whether the workflow says where its models come from: those do not exist on a machine that runs the tests."""
    return any(node.get("properties", {}).get("models") for node in workflow["nodes"])


WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
# Those that run with what the pack brings along.
RUNNABLE = [path for path in WORKFLOWS if not names_released_model(read(path))]


def use_nodes_2(page, on):
    """Draw nodes with the newer renderer, or with the classic one."""
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", on)


def open_template(page, path):
    """Click through the template browser; returns when the canvas shows the nodes of the workflow.

    On a busy machine the graph that the front end starts with may come after it and take its place: it is opened again.
    """
    types = sorted(node["type"] for node in read(path)["nodes"])
    shown = "types => JSON.stringify(app.graph.nodes.map(n => n.type).sort()) == types"
    for last in (False, True):
        _click_template(page, path.stem)
        try:
            page.wait_for_function(shown, arg=json.dumps(types, separators=(",", ":")), timeout=OPENING_MS)
            return
        except TimeoutError:
            if last:
                raise


def _click_template(page, name):
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    # in Nodes 2.0 every node of ours bears the name too
    page.get_by_role("dialog").get_by_text(PACK_FOLDER, exact=True).first.click()
    cards, card = page.locator('[data-testid^="template-workflow-"]'), f'[data-testid="template-workflow-{name}"]'
    cards.first.wait_for()
    for _ in range(60):  # more cards come when the last one is in view
        if page.locator(card).count():
            break
        cards.last.scroll_into_view_if_needed()
        page.wait_for_timeout(500)
    page.locator(card).click()


def complaints(page):
    """Texts of the error messages, toasts and dialogs that the front end shows over the workflow."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(COMPLAINT_MS)
    return [shown.inner_text() for shown in page.locator(COMPLAINTS).all() if shown.is_visible()]


def queue(page):
    """Click Run and wait for the end; the pictures that were saved, as RGB arrays, in the order of the graph."""
    page.locator('[data-testid="queue-button"]').click()
    ended = "app.lastNodeErrors || app.lastExecutionError || app.ui.lastQueueSize === 0"
    saved = "Object.values(app.nodeOutputs).flatMap(shown => shown.images ?? []).filter(i => i.type == 'output')"
    page.wait_for_function(f"{saved}.length && ({ended})", timeout=SLOW_RUN_MS)
    assert page.evaluate("[app.lastNodeErrors, app.lastExecutionError]") == [None, None]
    origin = page.evaluate("location.origin")
    answers = [page.request.get(f"{origin}/view", params=shown) for shown in page.evaluate(saved)]
    return [np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB")) for answer in answers]


def is_blank(picture):
    """Whether a picture is nearly of one colour, or tiny."""
    most_common = Counter(map(tuple, picture.reshape(-1, 3).tolist())).most_common(1)[0][1]
    return min(picture.shape[:2]) < 96 or picture.std() <= 10 or most_common >= picture[..., 0].size / 2
