"""What tests of pre-training share: a tiny checkpoint that can caption, small shards of random pictures, and runs as
users start them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
from PIL import Image
from tiny_model import CONFIG, PIECES, random_parts

from blipdiff_impl.blip_diffusion.checkpoints import write_single_file
from blipdiff_impl.training.settings_file import to_yaml
from tools.places import ROOT

VOCABULARY = [*PIECES, "[DEC]"]
MODEL = replace(CONFIG, qformer=replace(CONFIG.qformer, vocab_size=len(VOCABULARY)))
WORDS = ("dog", "mug", "tea", "a", "b")


def write_model(path, seed=0):
    """A tiny model of all parts as one file."""
    write_single_file(path, random_parts(MODEL, seed), MODEL, VOCABULARY)
    return path


def picture_bytes(rng, size=(40, 48), kind="PNG"):
    """A random picture as a file."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, format=kind)
    return file.getvalue()


def sample_members(index):
    """Members of sample `index` by extension; the same every time."""
    rng = np.random.default_rng(index)
    words = [str(word) for word in rng.choice(WORDS, 1 + index % 4)]
    about = {"captions": [" ".join(words), "a b"], "category": words[0], "context": "b a"}
    return {
        "png": picture_bytes(rng),
        "composite.png": picture_bytes(rng, (36, 36)),
        "json": json.dumps(about).encode(),
    }


def write_shard(path, samples):
    """A tar file of samples: stem -> {extension: bytes}."""
    with tarfile.open(path, "w") as tar:
        for stem, members in samples.items():
            for extension, data in members.items():
                record = tarfile.TarInfo(f"{stem}.{extension}")
                record.size = len(data)
                tar.addfile(record, io.BytesIO(data))
    return path


def write_shards(folder, counts=(7, 5)):
    """Shards of so many samples each; returns a pattern for all of them."""
    first = 0
    for number, count in enumerate(counts):
        samples = {f"{index:04d}": sample_members(index) for index in range(first, first + count)}
        write_shard(folder / f"shard{number}.tar", samples)
        first += count
    return str(folder / "shard*.tar")


def start_run(settings, tmp_path, processes=1):
    """The command `pretrain` in a process of its own, as a user starts it."""
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*launcher, "-m", "blipdiff_impl", "pretrain", str(path)], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish_run(process):
    """Its output, once it has ended well."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-6000:]
    return output


def kill_run(process, checkpoint):
    """SIGKILL as soon as a checkpoint whose path fits the pattern is there."""
    while process.poll() is None and not any(checkpoint.parent.glob(checkpoint.name)):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
