"""Blending, placing, steering and seeing subjects on the built-in model: what `make numbers-compose` prints.

Everything runs through the real ComfyUI's nodes in this process, with held-out subjects. The last line is one JSON
object; `*_se` are standard errors.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tools.inprocess import load_comfy
from tools.numbers import attention, edges, interpolation, scene_boxes, two_subjects
from tools.problems import run_command

COUNTS = {interpolation: 50, two_subjects: 48, scene_boxes: 64, edges: 48, attention: 48}


def main():
    """Measure all of them, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pictures, for a quick look")
    scale = parser.parse_args().scale
    numbers = {}
    with tempfile.TemporaryDirectory() as base:
        comfy = load_comfy(Path(base))
        for measured, count in COUNTS.items():
            numbers |= measured.measure(comfy, max(2, round(count * scale)))
            print(measured.__name__.rpartition(".")[2], json.dumps(numbers), flush=True)
    print(json.dumps(numbers))


if __name__ == "__main__":
    run_command(main)
