"""Make the thumbnails of the example workflows: run each one in the real ComfyUI and keep its picture as a JPEG.

    python -m tools.make_thumbnails [NAME ...]

The template browser shows workflows/NAME.jpg beside workflows/NAME.json, on a square card: what comes out, and small in
its corner the photo that goes in. Help pages show the two side by side. A workflow whose checkpoint is not on this
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
INSET, EDGE = 128, 4  # pixels: the photo in the corner, and the line around it
BY_GRAPH = {"gill_released", "several_subjects_sdxl", "zero_shot_released_model"}
# Sheets and wide pictures, which a photo in the corner would cover.
WHOLE = {
    "attention_maps", "interpolate_grid", "interpolate_strip", "regions_by_boxes", "several_subjects_in_boxes",
    "style_transfer", "two_subjects",
}  # fmt: skip
WINDOW = {"x": 60, "y": 95, "width": 1290, "height": 645}  # of the canvas, beside the bars
# Moves the canvas so that all groups and notes fill the window.
SHOW_ALL = """window => {
    for (const node of app.graph.nodes) node.has_errors = false
    const shown = [...app.graph.groups, ...app.graph.nodes]
    const [left, top] = [0, 1].map(side => Math.min(...shown.map(item => item.pos[side])) - 30)
    const [right, bottom] = [0, 1].map(side => Math.max(...shown.map(item => item.pos[side] + item.size[side])) + 30)
    const scale = Math.min(window.width / (right - left), window.height / (bottom - top))
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [window.x / scale - left, window.y / scale - top]
    app.canvas.setDirty(true, true)
}"""
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
            if workflow.stem in BY_GRAPH:
                write(workflow.with_suffix(".jpg"), graph_picture(host.url, workflow))
                continue
            photo, pictures = result(Client(host), workflow)
            write(workflow.with_suffix(".jpg"), card(None if workflow.stem in WHOLE else photo, pictures[-1]))
            if workflow.stem in HELP:
                write(ROOT / "web" / "docs" / f"{HELP[workflow.stem]}.jpg", row([photo, *pictures]))


def write(path, picture):
    picture.convert("RGB").save(path, quality=88, optimize=True)
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}", flush=True)


def result(client, workflow):
    """The photo that goes in, None where none does, and the first two pictures that the workflow saves."""
    done = client.run_workflow(workflow)
    if done.error:
        raise Problem(f"{workflow.name}: {done.failed_node} says: {done.error}")
    saved = [path for path in done.pictures if path.is_relative_to(client.base_dir / "output")][:2]
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    photos = [node["widgets_values"][0] for node in nodes if node["type"] == "LoadImage"][:1]
    photo = opened(client.base_dir / "input" / photos[0]) if photos else None
    return photo, [opened(path) for path in saved]


def opened(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def square(picture, side):
    return ImageOps.pad(picture, (side, side), Image.Resampling.LANCZOS, color=(34, 34, 34))


def card(photo, picture):
    """A square with the photo small in its lower left corner."""
    whole = square(picture, SIDE)
    if photo is not None:
        framed = ImageOps.expand(square(photo, INSET), EDGE, (255, 255, 255))
        whole.paste(framed, (2 * EDGE, SIDE - framed.height - 2 * EDGE))
    return whole


def row(pictures):
    """Squares side by side, of those that are there."""
    shown = [picture for picture in pictures if picture is not None]
    strip = Image.new("RGB", (len(shown) * SIDE, SIDE))
    for column, picture in enumerate(shown):
        strip.paste(square(picture, SIDE), (column * SIDE, 0))
    return strip


def graph_picture(url, workflow):
    """The graph in the front end, cut to the canvas."""
    with launched_browser() as browser, open_front_end(browser, url) as page:
        page.evaluate("async graph => { await app.loadGraphData(graph) }", json.loads(workflow.read_text()))
        page.wait_for_timeout(1000)
        page.evaluate(SHOW_ALL, WINDOW)
        page.add_style_tag(
            content='[data-testid="error-overlay"] { display: none }'
        )  # the files are not on this machine
        page.wait_for_timeout(1000)
        shot = page.screenshot(clip=WINDOW)
    return square(Image.open(io.BytesIO(shot)).convert("RGB"), SIDE)


if __name__ == "__main__":
    run_command(main)
