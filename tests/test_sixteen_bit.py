"""The nodes with the host's `--bf16-unet --bf16-vae --bf16-text-enc` against `--fp32-unet` and so on, in processes of
their own: encode, draw, two subjects with regions, attention maps, edit, invert, tune.
"""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tools.places import ROOT

# Mean absolute difference over the mean of the values themselves, for what has no range; pictures and maps are in 0..1
# and compared as they are. bfloat16 has 8 bits (0.004); the bounds are about three times what was found. The encoder
# runs in float32 whatever the host is told.
RELATIVE = {"vectors": 1e-6, "prompt": 0.005, "latent": 0.015, "inverted": 0.04, "tuned vectors": 1e-3}
ABSOLUTE = {"picture": 0.01, "scene": 0.015, "edit": 0.01, "maps": 0.003, "tuned picture": 0.02}


def run(precision, folder):
    out = folder / f"{precision}.safetensors"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "sixteen_bit_run.py"), precision, str(out)], cwd=ROOT, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return load_file(out)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precisions")
    return run("fp32", folder), run("bf16", folder)


def test_sixteen_bits_say_what_thirty_two_say(results):
    whole, half = results
    assert set(whole) == set(half) == RELATIVE.keys() | ABSOLUTE.keys()
    off = {name: float((half[name] - whole[name]).abs().mean()) for name in whole}
    off |= {name: off[name] / float(whole[name].abs().mean()) for name in RELATIVE}
    limits = RELATIVE | ABSOLUTE
    assert {name: value for name, value in off.items() if not value <= limits[name]} == {}
    assert all(tensor.isfinite().all() for tensor in half.values())
    assert off["picture"] > 0  # another precision it was
