"""Make the thumbnails of the example workflows: run each one in the real ComfyUI and keep its picture as a JPEG.

    python -m tools.make_thumbnails

The template browser shows workflows/NAME.jpg beside workflows/NAME.json. A workflow whose checkpoint is not on this
machine cannot run; its thumbnail is the graph itself, as the front end draws it.
"""

import io
import json
import tempfile

from PIL import Image

from tools.browser import launched_browser, open_front_end
from tools.client import Client
from tools.host import running_host
from tools.places import ROOT

WORKFLOWS = ROOT / "workflows"
SIDE = 384
BY_GRAPH = {"zero_shot_released_model"}


def main():
    with tempfile.TemporaryDirectory() as base, running_host(base) as host:
        for workflow in sorted(WORKFLOWS.glob("*.json")):
            picture = graph_picture(host.url, workflow) if workflow.stem in BY_GRAPH else result(Client(host), workflow)
            picture.convert("RGB").save(workflow.with_suffix(".jpg"), quality=88, optimize=True)
            print(f"{workflow.with_suffix('.jpg').relative_to(ROOT)}: {picture.width} x {picture.height}")


def result(client, workflow):
    """What the workflow makes, beside what goes in: reference on the left, picture on the right."""
    done = client.run_workflow(workflow)
    if done.error:
        raise SystemExit(f"{workflow.name}: {done.failed_node} says: {done.error}")
    saved = next(path for path in done.pictures if path.is_relative_to(client.base_dir / "output"))
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    photo = next(node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage")
    both = Image.new("RGB", (2 * SIDE, SIDE))
    for column, path in enumerate((client.base_dir / "input" / photo, saved)):
        with Image.open(path) as image:
            both.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * SIDE, 0))
    return both


def graph_picture(url, workflow):
    """The graph in the front end, cut to the canvas."""
    with launched_browser() as browser, open_front_end(browser, url) as page:
        page.evaluate("async graph => { await app.loadGraphData(graph) }", json.loads(workflow.read_text()))
        page.keyboard.press("Escape")  # the template browser greets new users
        page.wait_for_timeout(1000)
        page.evaluate(
            "() => { app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [60, 200]; app.canvas.setDirty(true, true) }"
        )
        page.wait_for_timeout(1000)
        shot = page.screenshot(clip={"x": 60, "y": 50, "width": 1280, "height": 640})
    return Image.open(io.BytesIO(shot)).resize((2 * SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
