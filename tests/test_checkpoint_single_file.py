"""Writing this pack's single file: complete or absent, right types, honest fingerprints, little memory."""

import errno
import json
import struct

import pytest
import torch
from safetensors import safe_open

from blipdiff_impl.blip_diffusion.checkpoints import PARTS, convert, open_checkpoint, opening, write_single_file
from blipdiff_impl.errors import CheckpointError
from blipdiff_impl.weights.fingerprint import fingerprint_of
from tests.checkpoint_fixtures import SMALL, VOCABULARY, random_parts, write_diffusers_folder


@pytest.fixture(scope="module")
def parts():
    return random_parts()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def write(path, parts, **options):
    write_single_file(path, parts, SMALL, VOCABULARY, **options)
    return open_checkpoint(path)


def test_the_librarys_reader_agrees(path, parts):
    write(path, parts)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {f"{part}.{name}" for part, tensors in parts.items() for name in tensors}
        assert torch.equal(file.get_tensor("unet.conv_in.weight"), parts["unet"]["conv_in.weight"])
        assert file.metadata()["format"] == "blipdiffusion"
        assert file.metadata()["vocabulary"].split("\n") == VOCABULARY


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype(path, parts, dtype):
    checkpoint = write(path, parts, dtype=dtype)
    for part in PARTS:
        loaded = checkpoint.part(part)
        assert all(torch.equal(loaded[name], tensor.to(dtype)) for name, tensor in parts[part].items())


def test_stated_fingerprints_are_those_of_the_weights(path, parts):
    checkpoint = write(path, parts, dtype=torch.bfloat16)
    for part in PARTS:
        assert checkpoint.metadata[f"fingerprint.{part}"] == fingerprint_of(checkpoint.part(part))


def test_stated_fingerprint_costs_no_reading(path, parts, monkeypatch):
    checkpoint = write(path, parts)
    monkeypatch.delattr(type(checkpoint), "part")
    assert len(checkpoint.fingerprint("unet")) == 64


def test_mixed_types_start_at_multiples_of_their_size(path, parts):
    """An odd number of 16-bit numbers before a 32-bit one would leave it where it cannot be mapped."""
    odd = {name: t.half() if t.numel() % 2 or "bias" in name else t for name, t in parts["vae"].items()}
    checkpoint = write(path, {"unet": parts["unet"], "vae": odd})
    loaded = checkpoint.part("vae")
    assert all(loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor) for name, tensor in odd.items())
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    assert length % 8 == 0
    assert all(entry["data_offsets"][0] % {"F32": 4, "F16": 2}[entry["dtype"]] == 0 for entry in header.values())


def test_canonical_order_whatever_the_order_given(path, parts):
    shuffled = dict(reversed(parts["vae"].items()))
    assert list(write(path, {"vae": shuffled}).part("vae")) == list(parts["vae"])


def test_only_some_parts(path, parts):
    checkpoint = write(path, {"vae": parts["vae"]})
    assert [part for part in PARTS if checkpoint.has(part)] == ["vae"]


def test_incomplete_part_is_refused(path, parts):
    tensors = {name: tensor for name, tensor in parts["vae"].items() if name != "quant_conv.bias"}
    with pytest.raises(CheckpointError, match="1 tensor is missing: quant_conv.bias"):
        write(path, {"vae": tensors})
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "number, dtype, said",
    [
        (float("nan"), None, "not finite. "),
        (70000.0, torch.float16, "not finite as torch.float16; choose a wider type"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(path, parts, number, dtype, said):
    broken = parts["vae"] | {"quant_conv.bias": torch.full((8,), number)}
    with pytest.raises(CheckpointError, match=f"vae.quant_conv.bias has numbers that are {said}"):
        write(path, {"vae": broken}, dtype=dtype)
    assert list(path.parent.iterdir()) == []


def test_never_overwrites_unless_told(path, parts):
    path.write_text("precious")
    with pytest.raises(CheckpointError, match="exists already"):
        write(path, {"vae": parts["vae"]})
    assert path.read_text() == "precious"
    assert write(path, {"vae": parts["vae"]}, overwrite=True).has("vae")


@pytest.mark.parametrize(
    "name, said", [("model.bin", "should end in .safetensors"), ("no/model.safetensors", "no folder")]
)
def test_impossible_destination(tmp_path, parts, name, said):
    with pytest.raises(CheckpointError, match=said):
        write(tmp_path / name, {"vae": parts["vae"]})


def test_cancelling_leaves_nothing(path, parts):
    class Cancelled(BaseException):
        """The host's own interruption is no Exception."""

    path.write_text("old")

    def cancel(done, total):
        if done > total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        write(path, parts, overwrite=True, progress=cancel)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    assert path.read_text() == "old"


def test_progress_ends_at_the_whole(path, parts):
    seen = []
    write(path, {"vae": parts["vae"]}, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == sum(t.numel() * 4 for t in parts["vae"].values())


def test_disk_too_small_is_said_before_writing(path, parts, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    with pytest.raises(CheckpointError, match="too full.*0.0 MB are free"):
        write(path, {"vae": parts["vae"]})


@pytest.mark.parametrize(
    "code, said", [(errno.ENOSPC, "became full while writing model.safetensors"), (errno.EIO, "cannot be written")]
)
def test_disk_that_fails_on_the_way(path, parts, monkeypatch, code, said):
    def fail(descriptor):
        raise OSError(code, "the disk said no")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(CheckpointError, match=said):
        write(path, {"vae": parts["vae"]})
    assert list(path.parent.iterdir()) == []


def test_convert_holds_one_part_at_a_time(tmp_path, parts, monkeypatch):
    """Each part is loaded once, and the one before it is let go first."""
    import weakref

    from blipdiff_impl.blip_diffusion.checkpoints import Checkpoint

    folder = write_diffusers_folder(tmp_path / "folder", parts, "safetensors")
    loaded, alive, real_part = [], [], Checkpoint.part

    def counted(checkpoint, name):
        alive.append(sum(reference() is not None for reference in loaded))
        tensors = real_part(checkpoint, name)
        loaded.append(weakref.ref(tensors[next(iter(tensors))]))
        return tensors

    monkeypatch.setattr(Checkpoint, "part", counted)
    convert(folder, tmp_path / "out.safetensors")
    assert alive == [0] * len(PARTS)


def test_the_embedded_model_goes_by_its_name(path, parts, monkeypatch):
    write(path, parts)
    monkeypatch.setattr(opening, "TOYBOX_FILE", path)
    assert open_checkpoint("toybox").path == path
