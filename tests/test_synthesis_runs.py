"""Lists to folders of shards: what is in them, breaking off and going on, Ray's workers, the command, training."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numba
import psutil
import pytest
import torch
from pretraining_fixtures import write_model
from synthesis_fixtures import contents, many_photos, soft_picture, write_list, write_photo

from blipdiff_impl.blip_diffusion.pretraining.command import train
from blipdiff_impl.blip_diffusion.pretraining.settings import Stage2Settings
from blipdiff_impl.blip_diffusion.synthesis import command
from blipdiff_impl.blip_diffusion.synthesis.sharding import manifest, shard_writing, workers
from blipdiff_impl.blip_diffusion.synthesis.sharding import synthesise as synthesising
from blipdiff_impl.blip_diffusion.synthesis.sharding.rejects import NO_CAPTION
from blipdiff_impl.blip_diffusion.synthesis.sharding.settings import SynthesisSettings
from blipdiff_impl.blip_diffusion.synthesis.sharding.synthesise import synthesise
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.training.shards import Shards
from tools.places import ROOT

COUNT, WITHOUT_CAPTION = (
    11,
    (0, 4, 5, 10),
)  # 7 samples in shards of 3, 3 and 1; rejects at the start, inside, at the end
SETTINGS = SynthesisSettings(shard_samples=3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return write_list(folder, many_photos(folder, COUNT, WITHOUT_CAPTION))


@pytest.fixture(scope="module")
def unbroken(sources, tmp_path_factory):
    """An output folder of one run from beginning to end."""
    out = tmp_path_factory.mktemp("unbroken")
    synthesise(sources, out, SETTINGS)
    return out


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    command.add_commands(parser.add_subparsers())
    options = parser.parse_args([str(argument) for argument in arguments])
    return options.run(options)


def test_shards_hold_what_training_reads(unbroken):
    shards = Shards((str(unbroken / "shard-*.tar"),))
    assert shards.groups == [3, 3, 1]
    kept = [number for number in range(COUNT) if number not in WITHOUT_CAPTION]
    for index, number in enumerate(kept):
        sample = shards[index]
        assert sample.key == f"shard-{index // 3:06d}.tar:photo{number:03d}"
        assert (sample.captions, sample.category) == ((f"disc {number}",), "disc")
        assert sample.picture.shape == (120, 160, 3) and sample.mask.shape == (120, 160)
        assert min(sample.composite.shape[:2]) == 256 and sample.latent is None


def test_shards_depend_on_nothing_but_the_samples(unbroken):
    with tarfile.open(unbroken / "shard-000000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:4]] == [
        f"photo001.{name}" for name in ("composite.jpg", "jpg", "json", "mask.png")
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }


def test_the_manifest_says_what_is_there(unbroken):
    import hashlib

    record = json.loads((unbroken / "manifest.json").read_text())
    assert (record["complete"], record["photos"], record["samples"]) == (True, COUNT, 7)
    assert {rule: count for rule, count in record["rejected"].items() if count} == {NO_CAPTION: 4}
    assert [(s["name"], s["samples"], s["photos"]) for s in record["shards"]] == [
        ("shard-000000.tar", 3, 4), ("shard-000001.tar", 3, 5), ("shard-000002.tar", 1, 2)
    ]  # fmt: skip
    for shard in record["shards"]:
        data = (unbroken / shard["name"]).read_bytes()
        assert (shard["sha256"], shard["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    lines = [json.loads(line) for line in (unbroken / "rejects.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [f"photo{number:03d}" for number in WITHOUT_CAPTION]
    assert {line["rule"] for line in lines} == {NO_CAPTION} and all(line["reason"] for line in lines)


def test_a_key_of_the_greatest_length(tmp_path):
    key = "k" * 200
    synthesise(write_list(tmp_path, [write_photo(tmp_path, "a")]), tmp_path / "one", SETTINGS)
    entry = json.loads((tmp_path / "list.jsonl").read_text()) | {"key": key}
    (tmp_path / "list.jsonl").write_text(json.dumps(entry))
    synthesise(synthesising.Sources(tmp_path / "list.jsonl", tmp_path / "grounds"), tmp_path / "two", SETTINGS)
    assert Shards((str(tmp_path / "two" / "*.tar"),))[0].key.endswith(key)


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(sources, unbroken, tmp_path):
    out = tmp_path / "out"
    program = (
        "import argparse; from blipdiff_impl.blip_diffusion.synthesis import command; "
        "parser = argparse.ArgumentParser(); "
        "command.add_commands(parser.add_subparsers()); options = parser.parse_args(); options.run(options)"
    )
    arguments = ["synthesise", "shards", sources.photos, "--backgrounds", sources.backgrounds, "--out", out,
                 "--shard-samples", 3]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not (out / "shard-000000.tar").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "shard-000002.tar").exists()
    run_command(*arguments)
    assert contents(out) == contents(unbroken)


@pytest.mark.parametrize("where, calls, left", [
    ((shard_writing.os, "replace"), 1, 11), ((shard_writing.os, "replace"), 4, 7),
    ((manifest, "write_whole"), 1, 11), ((manifest, "write_whole"), 3, 2), ((manifest, "write_whole"), 4, 0),
    ((manifest, "write_json"), 1, 11), ((manifest, "write_json"), 3, 2), ((manifest, "write_json"), 4, 0),
])  # fmt: skip
def test_a_run_broken_off_between_two_files_goes_on_to_the_same_bytes(
    sources, unbroken, tmp_path, monkeypatch, where, calls, left
):
    """The call with this number does not happen any more; a stray part of a shard lies there, as after a kill."""
    calls, original = iter(range(1, calls)), getattr(*where)

    def killed(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*where, killed)
        with pytest.raises(KeyboardInterrupt):
            synthesise(sources, tmp_path, SETTINGS)
    (tmp_path / ".shard-000001.tar.part").write_bytes(b"half")
    _, speed = synthesise(sources, tmp_path, SETTINGS)
    assert contents(tmp_path) == contents(unbroken)
    assert speed.done == left


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_shard_that_was_lost_or_cut_is_made_again(sources, unbroken, tmp_path, number):
    synthesise(sources, tmp_path, SETTINGS)
    path = tmp_path / f"shard-{number:06d}.tar"
    path.write_bytes(path.read_bytes()[:100]) if number == 1 else path.unlink()
    _, speed = synthesise(sources, tmp_path, SETTINGS)
    assert contents(tmp_path) == contents(unbroken)
    assert speed.done == COUNT - (0, 4, 9)[number]


def test_a_finished_folder_is_left_alone(sources, unbroken):
    before = {path: path.stat().st_mtime_ns for path in unbroken.iterdir()}
    _, speed = synthesise(sources, unbroken, SETTINGS)
    assert speed.done == 0 and {path: path.stat().st_mtime_ns for path in unbroken.iterdir()} == before


def test_another_setting_list_or_ground_is_refused_with_both_values(sources, unbroken, tmp_path):
    with pytest.raises(SubjectError, match="seed was 1337 and is 7; shard_samples was 3 and is 1000"):
        synthesise(sources, unbroken, SynthesisSettings(seed=7))
    photos = many_photos(tmp_path, 2)
    other = write_list(tmp_path, photos)
    (other.backgrounds / "9.png").write_bytes((other.backgrounds / "0.png").read_bytes())
    with pytest.raises(SubjectError, match="list was '[0-9a-f]{64}' and is '[0-9a-f]{64}'; backgrounds was '"):
        synthesise(other, unbroken, SETTINGS)


@pytest.mark.parametrize("name, text, sentence", [
    ("manifest.json", "{", "manifest.json cannot be read"),
    ("manifest.json", "[]", "manifest.json does not hold a record"),
    ("manifest.json", '{"a": 1}', "manifest.json is no manifest of shards"),
    ("rejects.jsonl", "", "rejects.jsonl does not hold the 4 lines"),
    ("rejects.jsonl", "1\n2\n", "rejects.jsonl does not hold the 4 lines"),
])  # fmt: skip
def test_a_damaged_folder_is_told_of(sources, tmp_path, name, text, sentence):
    synthesise(sources, tmp_path, SETTINGS)
    (tmp_path / name).write_text(text)
    with pytest.raises(SubjectError, match=sentence):
        synthesise(sources, tmp_path, SETTINGS)


def test_a_manifest_names_no_file_elsewhere(sources, tmp_path):
    """A name with a folder in it counts as a missing shard."""
    out = tmp_path / "out"
    synthesise(sources, out, SETTINGS)
    record = json.loads((out / "manifest.json").read_text())
    (tmp_path / "x.tar").write_bytes((out / "shard-000000.tar").read_bytes())
    record["shards"][0]["name"] = "../x.tar"
    (out / "manifest.json").write_text(json.dumps(record))
    _, speed = synthesise(sources, out, SETTINGS)
    assert speed.done == COUNT


def test_a_full_disk_ends_the_run_and_leaves_no_half_shard(sources, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_writing._HashingFile, "write", full)
    with pytest.raises(SubjectError, match="shard-000000.tar cannot be written: No space left on device"):
        synthesise(sources, tmp_path, SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_a_file(sources, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SubjectError, match="out is no folder"):
        synthesise(sources, tmp_path / "out", SETTINGS)


def test_lists_that_cannot_be_used(tmp_path):
    sources = write_list(tmp_path, [])
    with pytest.raises(SubjectError, match="list.jsonl is empty"):
        synthesise(sources, tmp_path / "out", SETTINGS)
    sources = write_list(tmp_path, [write_photo(tmp_path, "a"), write_photo(tmp_path, "b", mask=b"")])
    (tmp_path / "list.jsonl").write_text('{"key": "a", "image": "a.jpg", "category": "disc"}\n')
    with pytest.raises(SubjectError, match="1 of 1 photos .* have no mask. Name a folder of CLIPSeg"):
        synthesise(sources, tmp_path / "out", SETTINGS)
    with pytest.raises(SubjectError, match="nowhere has no config.json and no model.safetensors"):
        synthesise(
            synthesising.Sources(sources.photos, sources.backgrounds, tmp_path / "nowhere"), tmp_path / "out", SETTINGS
        )
    assert not (tmp_path / "out").exists()


def test_a_run_without_one_sample_says_so(tmp_path):
    sources = write_list(tmp_path, many_photos(tmp_path, 2, (0, 1)))
    for _ in range(2):
        with pytest.raises(SubjectError, match="None of the 2 photos became a sample; .*rejects.jsonl says why"):
            synthesise(sources, tmp_path / "out", SETTINGS)
    assert len((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()) == 2


def test_two_workers_make_the_same_bytes_and_end(sources, unbroken, tmp_path, caplog):
    """With a photo from which nothing can be read among them; the command starts Ray and ends it."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with caplog.at_level("INFO"):
        run_command("synthesise", "shards", sources.photos, "--backgrounds", sources.backgrounds, "--out", tmp_path,
                    "--shard-samples", "3", "--workers", "2")  # fmt: skip
    assert contents(tmp_path) == contents(unbroken)
    assert f"{tmp_path}: 11 photos, 7 samples in 3 shards" in caplog.messages
    assert f"left out, {NO_CAPTION}: 4" in caplog.messages
    assert any("photos/s/core" in message for message in caplog.messages)
    import ray

    assert not ray.is_initialized()
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_what_every_photo_would_meet_travels_from_a_worker_as_a_sentence(sources):
    def fail():
        raise SubjectError("There is no CLIPSeg.")

    class Maker:
        def make(self, photo):
            raise SubjectError(f"The grounds are damaged, says {photo.key}.")

    row = {"photo": json.dumps({"key": "a", "image": "a.jpg", "category": "dog"})}
    for factory, sentence in ((fail, "There is no CLIPSeg."), (Maker, "damaged, says a")):
        with pytest.raises(SubjectError, match=sentence):
            workers._from_row(workers._Worker(factory)(row))


def test_a_missing_ray_is_one_sentence(sources, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SubjectError, match=r'--workers needs Ray.*pip install "\.\[synthesis\]"'):
        synthesise(sources, tmp_path, SETTINGS, workers=2)


def test_the_command_refuses_what_makes_no_sense(sources, tmp_path):
    start = ("synthesise", "shards", sources.photos, "--backgrounds", sources.backgrounds, "--out", tmp_path)
    with pytest.raises(SubjectError, match="--workers -1"):
        run_command(*start, "--workers", "-1")
    with pytest.raises(SubjectError, match="--ray-address goes with --workers"):
        run_command(*start, "--ray-address", "auto")


def test_the_loop_gives_the_threads_back(sources, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with workers.one_thread():
            assert torch.get_num_threads() == numba.get_num_threads() == 1
        synthesise(sources, tmp_path, SETTINGS)
        assert torch.get_num_threads() == 3 and numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    finally:
        torch.set_num_threads(before)


def test_the_second_stage_trains_on_the_shards(unbroken, tmp_path):
    write_model(tmp_path / "tiny.safetensors")
    settings = Stage2Settings(
        model=str(tmp_path / "tiny.safetensors"), shards=(str(unbroken / "shard-*.tar"),), out=str(tmp_path / "run"),
        batch_size=4, steps=2, log_every=1, sample_every=0, mask_weight=1.0, subject_drop=0.0,
    )  # fmt: skip
    assert train(settings).is_file()
    losses = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and all(0 < line["noise"] < 100 for line in losses)


def test_soft_pictures_are_not_all_alike():
    """What the fixtures draw differs, or the tests above would compare nothing."""
    assert soft_picture(seed=1).tobytes() != soft_picture(seed=2).tobytes()
