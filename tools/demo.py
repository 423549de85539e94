"""`make demo`: the shipped zero-shot workflow, run by the real ComfyUI, from the workflow file to a picture."""

import sys
import time

from tools.client import Client
from tools.host import running_host
from tools.places import CACHE, ROOT
from tools.problems import Problem, run_command

WORKFLOW = ROOT / "workflows" / "zero_shot.json"
BAR_WIDTH = 30


def main():
    """Run the workflow and print where its picture is."""
    print("Starting ComfyUI on the CPU ...", flush=True)
    with running_host(CACHE / "demo") as host:
        print(f"ComfyUI answers at {host.url}; queueing {WORKFLOW.relative_to(ROOT)}", flush=True)
        started = time.monotonic()
        picture = make_picture(Client(host), WORKFLOW)
        seconds = time.monotonic() - started
    print(f"\nThe picture, made in {seconds:.0f} s: {picture}")
    print("Try it yourself in the browser: `make ui`, then open http://127.0.0.1:8188 (Workflow > Browse Templates)")


def make_picture(client, workflow):
    """Run a workflow file with a bar of progress; returns the path of its first saved picture.

    Raises Problem with the node's own sentence when a node fails, or when the workflow saves no picture.
    """
    prompt = client.to_api(workflow)

    def show_progress(node, value, maximum):
        _draw_bar(prompt[node]["class_type"], value, maximum)

    result = client.run_prompt(prompt, on_progress=show_progress)
    if result.error:
        raise Problem(f"{result.failed_node} says: {result.error}")
    saved = [picture for picture in result.pictures if picture.is_relative_to(client.base_dir / "output")]
    if not saved:
        raise Problem(f"{workflow} ran to its end ({result.status}) but saved no picture.")
    return saved[0]


def _draw_bar(label, value, maximum):
    """One line that fills up; in a log file, which cannot go back in a line, only the full bar."""
    full = value >= maximum
    if sys.stdout.isatty() or full:
        done = round(BAR_WIDTH * value / maximum)
        bar = "#" * done + "-" * (BAR_WIDTH - done)
        print(f"\r  [{bar}] {value:>3.0f}/{maximum:.0f} {label}", end="\n" if full else "", flush=True)


if __name__ == "__main__":
    run_command(main)
