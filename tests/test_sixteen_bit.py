"""The nodes with 16 bit weights and arithmetic, `--bf16-unet --bf16-vae --bf16-text-enc` and the same of fp16, against
`--fp32-unet` and so on, in processes of their own: encode, draw, two subjects with regions, attention maps, edit,
invert, tune, blend, two subjects in boxes by MS-Diffusion.
"""

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tools.places import ROOT

# Mean absolute difference (bf16, fp16), over the mean of the values themselves for what has no range; pictures and maps
# are in 0..1 and compared as they are. bfloat16 has 8 bits (0.004), fp16 has 11 (0.0005); the bounds are about three
# times what was found. The encoder's vectors are computed in the same type for both. Training is float32 with fp16.
RELATIVE = {
    "vectors": (6e-4, 6e-4), "blends": (6e-4, 6e-4), "prompt": (0.005, 1.5e-4), "latent": (0.03, 0.006),
    "inverted": (0.2, 0.03), "tuned vectors": (6e-4, 6e-4),
}  # fmt: skip
ABSOLUTE = {
    "picture": (0.01, 0.0015), "scene": (0.008, 0.001), "edit": (0.006, 0.0008), "maps": (0.003, 2.5e-4),
    "tuned picture": (0.03, 0.0015), "strip": (0.008, 0.0012), "boxes": (0.008, 8e-4),
}  # fmt: skip
PRECISIONS = ("bf16", "fp16")


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
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("precisions")


@pytest.fixture(scope="module")
def whole(folder):
    return run("fp32", folder)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_sixteen_bits_say_what_thirty_two_say(folder, whole, precision):
    half = run(precision, folder)
    assert set(whole) == set(half) == RELATIVE.keys() | ABSOLUTE.keys()
    off = {name: float((half[name] - whole[name]).abs().mean()) for name in whole}
    off |= {name: off[name] / float(whole[name].abs().mean()) for name in RELATIVE}
    limits = {name: both[PRECISIONS.index(precision)] for name, both in (RELATIVE | ABSOLUTE).items()}
    assert {name: value for name, value in off.items() if not value <= limits[name]} == {}
    assert all(tensor.isfinite().all() for tensor in half.values())
    assert off["latent"] > 0  # another precision it was
