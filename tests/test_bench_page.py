"""`make bench` keeps the notes of docs/benchmarks.md and makes its last section anew."""

import sys
import time

import pytest
import torch

from benchmarks import gpu  # before the host is on the path, which has a folder "tests" too
from tools import bench
from tools.bench import GPU_HEADING, HEADING, PAGE, page_with, page_with_gpu
from tools.problems import Problem


def test_notes_stay_and_the_last_section_is_new():
    once = page_with("# Benchmarks\n\nA table.\n", {"bench_a": ["ratio 1.2"]})
    twice = page_with(once, {"bench_a": ["ratio 1.3", "memory"], "bench_b": ["ratio 2"]})
    assert once.startswith(f"# Benchmarks\n\nA table.\n\n{HEADING}\n\n") and "    ratio 1.2\n" in once
    assert twice.count(HEADING) == 1 and twice.startswith("# Benchmarks\n\nA table.\n\n")
    assert "1.2" not in twice.partition(HEADING)[2].partition("`bench_a`")[2]
    assert "`bench_a`\n\n    ratio 1.3\n    memory\n\n`bench_b`\n\n    ratio 2\n" in twice


def test_the_page_says_where_its_numbers_come_from():
    section = page_with(PAGE.read_text(encoding="utf-8"), {}).partition(HEADING)[2]
    assert "cores of" in section or "x86_64" in section
    assert "torch " in section and "ComfyUI " in section


def test_the_section_on_gpus_is_made_anew_and_the_others_stay():
    page = page_with("# Benchmarks\n\nA table.\n", {"bench_a": ["ratio 1.2"]})
    once = page_with_gpu(page, ["full: 25 steps/s"])
    twice = page_with_gpu(once, ["full: 30 steps/s"])
    assert once.startswith("# Benchmarks\n\nA table.\n\n" + GPU_HEADING) and "    ratio 1.2\n" in once
    assert twice.count(GPU_HEADING) == twice.count(HEADING) == 1 and "25 steps" not in twice and "30 steps" in twice
    assert twice.index(GPU_HEADING) < twice.index(HEADING) and twice.endswith(page.partition(HEADING)[2])
    assert "30 steps" in page_with(twice, {})  # and the other way round


def test_without_a_gpu_the_command_says_so_and_leaves_the_page(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = PAGE.read_bytes()
    for device, sentence in (("gpu", "PyTorch sees no GPU here"), ("tpu", "DEVICE=tpu is not known")):
        monkeypatch.setattr(sys, "argv", ["bench", device])
        with pytest.raises(Problem, match=sentence):
            bench.main()
    assert PAGE.read_bytes() == before


def test_a_benchmark_that_takes_too_long_is_ended_and_what_it_printed_stays(monkeypatch, tmp_path):
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\necho full: 25 steps/s\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    kept, note = bench._run("gpu", limit=4)
    assert kept == "full: 25 steps/s" and note.startswith("ended after 4 seconds")
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    assert not bench._run("gpu", limit=0.2)
    program.write_text("#!/bin/sh\necho full: 25 steps/s\nexit 1\n")
    assert bench._run("gpu", limit=60) is None


@pytest.fixture
def at_small(comfy):
    """The parts of the GPU's benchmark at small sizes on the CPU, with the built-in model."""
    small = gpu.Scale("toybox (built in, toy world only)", "toybox", "fp32", torch.float32, "cpu", 96, 2, 2, 2, 1, 8, 1)
    return comfy, small


def test_every_part_for_gpus_runs(at_small, capsys, monkeypatch):
    comfy, small = at_small
    monkeypatch.setattr(gpu, "click_to_picture", lambda *arguments: print("click"))  # 80 steps, whatever the scale
    # Without the last part: SDXL's layers take minutes on a CPU, where bench_ms_diffusion measures them.
    gpu.run(comfy, small, time.monotonic(), gpu.PARTS[:-1])
    said = capsys.readouterr().out
    for part in (
        "fine-tuning, full",
        "fine-tuning, lora",
        "fine-tuning, vectors",
        "click",
        "zero-shot picture",
        "editing",
    ):
        assert part in said
    assert "left out" not in said


def test_what_does_not_fit_is_said_and_the_rest_measured(at_small, capsys):
    comfy, small = at_small

    def too_large(comfy, scale):
        raise torch.OutOfMemoryError("2 GB more")

    gpu.run(comfy, small, time.monotonic(), (too_large, lambda comfy, scale: print("the next")))
    assert capsys.readouterr().out.splitlines() == [
        "too large: left out, it needs more memory than this GPU has free",
        "the next",
    ]
    gpu.run(comfy, small, time.monotonic() - gpu.LAST_START - 1, (too_large,))
    assert "the time was over" in capsys.readouterr().out


def test_a_method_that_does_not_fit_leaves_the_others(at_small, capsys, monkeypatch):
    """Through the node, which makes a sentence of PyTorch's error."""
    comfy, small = at_small
    run = comfy.module("nodes.host.blip_diffusion.finetuning.run")
    make, click = run.copy_unet, lambda *arguments: print("click")

    def copy_unet(model, device):
        if first:
            raise torch.OutOfMemoryError(first.pop())
        return make(model, device)

    first = ["2 GB more"]
    monkeypatch.setattr(run, "copy_unet", copy_unet)
    monkeypatch.setattr(gpu, "click_to_picture", click)
    gpu.run(comfy, small, time.monotonic(), (gpu.fine_tuning,))
    full, lora, vectors, after = capsys.readouterr().out.splitlines()
    assert full == "fine-tuning, full, 96x96, batch 3: left out, it needs more memory than this GPU has free"
    assert "steps/s" in lora and "steps/s" in vectors and after == "click"


def test_other_errors_end_the_benchmark(at_small):
    comfy, small = at_small

    def wrong(comfy, scale):
        raise comfy.module("blipdiff_impl.errors").SubjectError("The category is empty.")

    with pytest.raises(ValueError, match="The category is empty"):
        gpu.run(comfy, small, time.monotonic(), (wrong,))
