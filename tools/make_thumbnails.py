"""Make the thumbnails of the example workflows: run each one in the real ComfyUI and keep its picture as a JPEG.

    python -m tools.make_thumbnails [NAME ...]

The template browser shows workflows/NAME.jpg beside workflows/NAME.json. A workflow whose checkpoint is not on this
machine cannot run; its thumbnail is the graph itself, as the front end draws it.
"""

import io
import json
import sys
import tempfile

from PIL import Image, ImageOps

from tools.browser import launched_browser, open_front_end
from tools.client import Client
from tools.host import running_host
from tools.places import ROOT
from tools.problems import Problem, run_command

WORKFLOWS = ROOT / "workflows"
SIDE = 384
BY_GRAPH = {"zero_shot_released_model"}
# Help pages that show the same picture.
HELP = {
    "attention_maps": "SubjectAttentionMaps",
    "edit_generated_picture": "SubjectP2PEdit",
    "edit_photo_keep_background": "SubjectEditResult",
    "interpolate_grid": "SubjectInterpolate",
    "interpolate_strip": "SubjectContactSheet",
    "load_saved_subject": "SubjectLoad",
    "two_subjects": "SubjectScene",
}


def main(names=tuple(sys.argv[1:])):
    """Make the thumbnails of the named workflows, of all where none is named."""
    chosen = [WORKFLOWS / f"{name}.json" for name in names] or sorted(WORKFLOWS.glob("*.json"))
    with tempfile.TemporaryDirectory() as base, running_host(base) as host:
        for workflow in chosen:
            picture = graph_picture(host.url, workflow) if workflow.stem in BY_GRAPH else result(Client(host), workflow)
            targets = [workflow.with_suffix(".jpg")]
            if workflow.stem in HELP:
                targets.append(ROOT / "web" / "docs" / f"{HELP[workflow.stem]}.jpg")
            for target in targets:
                picture.convert("RGB").save(target, quality=88, optimize=True)
            print(f"{workflow.with_suffix('.jpg').relative_to(ROOT)}: {picture.width} x {picture.height}", flush=True)


def result(client, workflow):
    """What the workflow makes, with the photo that goes in on the left, if one does."""
    done = client.run_workflow(workflow)
    if done.error:
        raise Problem(f"{workflow.name}: {done.failed_node} says: {done.error}")
    saved = [path for path in done.pictures if path.is_relative_to(client.base_dir / "output")][:2]
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    photos = [node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage"][:1]
    shown = [client.base_dir / "input" / photo for photo in photos] + saved
    row = Image.new("RGB", (len(shown) * SIDE, SIDE))
    for column, path in enumerate(shown):
        with Image.open(path) as image:
            square = ImageOps.pad(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS, color=(34, 34, 34))
            row.paste(square, (column * SIDE, 0))
    return row


def graph_picture(url, workflow):
    """The graph in the front end, cut to the canvas."""
    with launched_browser() as browser, open_front_end(browser, url) as page:
        page.evaluate("async graph => { await app.loadGraphData(graph) }", json.loads(workflow.read_text()))
        page.keyboard.press("Escape")  # the template browser greets new users
        page.wait_for_timeout(1000)
        page.evaluate(
            "() => { app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [137, 393]; app.canvas.setDirty(true, true) }"
        )
        page.wait_for_timeout(1000)
        shot = page.screenshot(clip={"x": 60, "y": 95, "width": 1290, "height": 645})
    return Image.open(io.BytesIO(shot)).resize((2 * SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    run_command(main)
