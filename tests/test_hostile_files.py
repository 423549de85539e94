"""Crafted model files and tricky names through the nodes that read and write files, in the host's own executor.

How each layer of a file is checked is tested beside the readers (test_checkpoint_errors.py, test_subject_file.py); here
it is what an artist meets: the file is listed, chosen and refused with a sentence, nothing of it is run, and nothing is
read or written outside the folders.
"""

import copy
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from fuzzed import UNSAID, cut, flipped
from safetensors.torch import save
from tiny_model import CONFIG, write_tiny_checkpoint

pytest_plugins = ["hostile_prompts"]
TOYBOX, NONE = "toybox (built in, toy world only)", "(none)"
REFUSED = ("SubjectError", "CheckpointError")
SPARSE = 300 * 2**20  # bytes that a file claims without taking them on the disk


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


# The names that this pack's readers look for, so that a file is not merely refused for being somebody else's.
NAMES = ("clip_l", "unet.conv_in.weight", "vae.decoder.conv_in.weight")
CRAFTED = {
    "empty": b"",
    "header 2^64": safetensors({}, length=2**64 - 1),
    "header of 290 MB": struct.pack("<Q", 290 * 2**20),  # SPARSE bytes long
    "overlap": safetensors({name: tensor(0, 8) for name in NAMES}, b"\0" * 8),
    "hole": safetensors({"clip_l": tensor(4, 12)}, b"\0" * 12),
    "backwards": safetensors({"clip_l": tensor(8, 0)}, b"\0" * 8),
    "beyond the end": safetensors({"clip_l": tensor(0, 2**40, (2**38,))}, b"\0" * 8),
    "overflow": safetensors({"clip_l": tensor(0, 0, (2**33, 2**33, 2**33))}),
    "shape and size differ": safetensors({"clip_l": tensor(0, 8, (16, 768))}, b"\0" * 8),
    "unknown type": safetensors({"clip_l": tensor(0, 8, dtype="F13")}, b"\0" * 8),
    "nested": safetensors(b"[" * 100_000),
    "not unicode": safetensors(b'{"\xff\xfe": 1}'),
    "metadata is a list": safetensors({"__metadata__": [1, 2], "clip_l": tensor(0, 8)}, b"\0" * 8),
    "integers": save({name: torch.ones(1, 16, 32, dtype=torch.int64) for name in NAMES}),
    "no numbers": save({name: torch.full((1, 16, 32), torch.nan) for name in NAMES}),
    "names as paths": save({"../../escaped": torch.ones(2), "/etc/escaped": torch.ones(2)}),
    "a pickle": pickle.dumps({"clip_l": [1.0]}),
    "too many tensors": safetensors({f"vae.{number}": tensor(0, 0, (0,)) for number in range(30_000)}),
    "long names": save({name + "x" * 50_000: torch.ones(2) for name in NAMES}),
}

NAMES_WITH_TRICKS = [
    "../outside.safetensors", "sub/../../outside.safetensors", "..\\outside.safetensors", "/etc/passwd", "/dev/zero",
    "C:\\Windows\\win.ini", "\\\\server\\share\\model.safetensors", "~/outside.safetensors", "file:///etc/passwd",
    "a\0b.safetensors", "x" * 5000, "x/" * 2000, ".", "..", "/", "CON", "NUL.safetensors", "aux.pth", " ", "\ud800",
    "%2e%2e/outside.safetensors", "name.safetensors ", "*", "$HOME", "`id`",
]  # fmt: skip


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if content == CRAFTED["header of 290 MB"]:
        with path.open("r+b") as file:
            file.truncate(SPARSE)


@pytest.fixture
def models(comfy):
    """Function: content -> its name in the list of checkpoints."""
    folder = Path(comfy.folder_paths.models_dir) / "blipdiffusion"

    def add(content, name="hostile.safetensors"):
        write(folder / name, content)
        return name

    yield add
    for path in folder.glob("hostile*"):
        path.unlink()


def refusal(executor, node, **inputs):
    """The one failure of a prompt that ends in this node, by kind and message."""
    inputs = {name: {"__value__": value} if isinstance(value, list) else value for name, value in inputs.items()}
    prompt = {"node": {"class_type": node, "inputs": inputs}}
    if node != "SubjectSave":
        prompt["sink"] = {"class_type": "AnySink", "inputs": {"value0": ["node", 1]}}
    (failure, *_) = executor.run(prompt) or [None]
    assert failure is not None, "it was not refused"
    require_plain(failure)
    return failure


def require_plain(failure):
    """A sentence of the pack's own, whoever reads the file: no class of a library, no advice to load unsafely."""
    kind, message = failure
    assert kind in (*REFUSED, "custom_validation_failed") and not UNSAID.search(message) and len(message) < 5000


@pytest.mark.parametrize("content", CRAFTED.values(), ids=CRAFTED)
@pytest.mark.parametrize("as_base", [False, True], ids=["model", "base"])
def test_crafted_checkpoints_are_refused(executor, models, content, as_base):
    name = models(content)
    chosen = {"model_name": models(CRAFTED["integers"], "hostile-2.safetensors"), "base_model": name} if as_base else {
        "model_name": name, "base_model": NONE}  # fmt: skip
    kind, message = refusal(executor, "SubjectModelLoader", weight_dtype="default", **chosen)
    assert kind == "CheckpointError" and "hostile" in message


SIZES = {
    "layers without end": {"unet": {"layers_per_block": 10**9}},
    "blocks without end": {"image_tower": {"num_hidden_layers": 2**62}},
    "no heads": {"text_encoder": {"num_attention_heads": 0}},
    "heads that do not divide": {"unet": {"num_attention_heads": 5}},
    "groups that do not divide": {"vae": {"norm_num_groups": 5}},
    "one level too few": {"unet": {"attention_levels": [True, True]}},
    "one level too many": {"unet": {"block_out_channels": [32, 64, 64, 64]}},
    "no such activation": {"text_encoder": {"hidden_act": "quick_gelv"}},
    "another width": {"unet": {"cross_attention_dim": 63}},
    "a scale of nothing": {"vae": {"scaling_factor": 0}},
    "a scale that is none": {"vae": {"scaling_factor": float("nan")}},
    "deep": {"unet": json.loads("[" * 900 + "]" * 900)},
    "a huge number": {"vae": {"scaling_factor": 10**400}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small model that the host loads."""
    path = tmp_path_factory.mktemp("whole") / "tiny.safetensors"
    write_tiny_checkpoint(path)
    return path.read_bytes()


def with_sizes(content, sizes):
    """A single file whose header states other sizes."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    record = json.loads(CONFIG.to_json())
    for component, fields in sizes.items():
        record[component] = {**record[component], **fields} if isinstance(fields, dict) else fields
    header["__metadata__"]["config"] = json.dumps(record)
    return safetensors(header, content[end:])


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes_that_no_model_has_are_refused(executor, models, whole, sizes):
    name = models(with_sizes(whole, sizes))
    chosen = {"model_name": name, "weight_dtype": "default", "base_model": NONE}
    kind, _ = refusal(executor, "SubjectModelLoader", **chosen)
    assert kind == "CheckpointError"


def test_a_config_as_deep_as_can_be_is_refused(executor, models, whole):
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:end])
    header["__metadata__"]["config"] = "[" * 200_000
    name = models(safetensors(header, whole[end:]))
    kind, _ = refusal(executor, "SubjectModelLoader", model_name=name, weight_dtype="default", base_model=NONE)
    assert kind == "CheckpointError"


def test_damaged_checkpoints_load_or_are_refused(executor, models, whole):
    """Bits of the header and ends of the file, through the node; the readers alone get thousands of them."""
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    refused = 0
    for content in (*flipped(whole, 40, seed=21, most=end), *cut(whole, 5, seed=22)):
        prompt = {
            "node": {"class_type": "SubjectModelLoader", "inputs": {
                "model_name": models(content), "weight_dtype": "default", "base_model": NONE}},
            "sink": {"class_type": "AnySink", "inputs": {"value0": ["node", 0], "value1": ["node", 3]}},
        }  # fmt: skip
        for failure in executor.run(prompt):
            require_plain(failure)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("content", CRAFTED.values(), ids=CRAFTED)
def test_crafted_subjects_are_refused(comfy, executor, content):
    path = Path(comfy.folder_paths.get_output_directory()) / "subjects" / "hostile_subject.safetensors"
    write(path, content)
    try:
        kind, message = refusal(executor, "SubjectLoad", subject_name=path.name)
        assert kind in REFUSED and path.name in message
    finally:
        path.unlink()


# A network small enough to be made before its weights turn out to be none.
TINY = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
SEGMENTER = {
    "model_type": "clipseg",
    "text_config": TINY,
    "vision_config": TINY,
    "extract_layers": [0],
    "reduce_dim": 8,
}


@pytest.mark.parametrize("content", CRAFTED.values(), ids=CRAFTED)
def test_crafted_segmenters_are_refused(comfy, executor, graph, content):
    folder = Path(comfy.folder_paths.models_dir) / "clipseg" / "hostile"
    write(folder / "model.safetensors", content)
    write(folder / "config.json", json.dumps(SEGMENTER).encode())
    try:
        prompt = graph("SubjectMatte", {"segmenter": "hostile", "masks": None}, linked=["segmenter"])
        ((kind, message),) = executor.run(prompt)
        assert kind == "CheckpointError" and "hostile" in message
        require_plain((kind, message))
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def plant(path):
    Path(path).touch()


class Planting:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return plant, (str(self.path),)


def pickled(trap, archive=True):
    content = io.BytesIO()
    torch.save({"model": {"x": torch.zeros(1)}, "x": Planting(trap)}, content, _use_new_zipfile_serialization=archive)
    return content.getvalue()


def bomb(_):
    """A megabyte that would unpack to a gigabyte."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as entry:
        for _ in range(1024):
            entry.write(bytes(2**20))
    return content.getvalue()


def climbing(trap):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"../../{trap.name}", b"x")
        archive.writestr("a/data.pkl", pickle.dumps({}))
    return content.getvalue()


def expanded(_):
    """A kilobyte that would be 4 TB in memory."""
    content = io.BytesIO()
    torch.save({"model": {"unet.conv_in.weight": torch.zeros(1).expand(10**12)}}, content)
    return content.getvalue()


def overlapping(_):
    """Entries that share their bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(10_000))
        again = copy.copy(archive.filelist[1])
        again.filename = "a/data/1"
        archive.filelist.append(again)
    return content.getvalue()


def split_over_disks(_):
    """A file that says it is one of three, which zipfile has an error of its own for."""
    content = io.BytesIO()
    torch.save({"model": {"unet.x": torch.zeros(1)}}, content)
    whole = content.getvalue()
    end = whole.rindex(b"PK\x05\x06")
    return whole[:end] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 3) + whole[end:]


def damaged(_):
    """An unknown instruction in the pickle, for which PyTorch advises to load without protection."""
    content = io.BytesIO()
    torch.save({"model": {"unet.x": torch.zeros(1)}}, content)
    return content.getvalue().replace(b"\x80\x02}q", b"\x80\x02\x96q")


@pytest.mark.parametrize(
    "make",
    [
        expanded,
        overlapping,
        split_over_disks,
        damaged,
        pickled,
        lambda trap: pickled(trap, archive=False),
        lambda trap: pickle.dumps(Planting(trap)),
        lambda trap: pickled(trap)[:-200],
        bomb,
        climbing,
        lambda _: b"PK\x03\x04" + b"\0" * 100,
        lambda _: b"\x1f\x8b" + b"\0" * 100,
    ],
    ids=[
        "expanded",
        "overlapping",
        "split",
        "damaged",
        "code",
        "code, old format",
        "bare pickle",
        "truncated",
        "bomb",
        "climbing names",
        "no archive",
        "gzip",
    ],
)
def test_crafted_pth_files_are_refused_and_nothing_of_them_is_run(executor, models, tmp_path, make):
    trap = tmp_path / "trap"
    name = models(make(trap), "hostile.pth")
    kind, message = refusal(executor, "SubjectModelLoader", model_name=name, weight_dtype="default", base_model=NONE)
    assert kind == "CheckpointError" and name in message
    assert not list(tmp_path.parent.rglob("trap"))


@pytest.mark.parametrize("name", NAMES_WITH_TRICKS)
def test_tricky_names_are_no_models_and_no_subjects(comfy, executor, graph, name):
    base = Path(comfy.folder_paths.base_path)
    for folder in (base, base / "models", base / "output"):
        (folder / "outside.safetensors").write_bytes(b"x")
    model = {"weight_dtype": "default", "base_model": NONE, "model_name": name}
    for node, inputs in [
        ("SubjectModelLoader", model),
        ("SubjectModelLoader", {**model, "model_name": TOYBOX, "base_model": name}),
        ("SubjectLoad", {"subject_name": name}),
    ]:
        kind, message = refusal(executor, node, **inputs)
        if name != ".":  # the folder itself, which is there
            # of base_model the host sees that it is not in the list
            assert "There is no" in message or kind == "value_not_in_list"
        assert kind in (*REFUSED, "custom_validation_failed", "value_not_in_list")
    prompt = graph("SubjectMatte", {"segmenter": name, "masks": None}, linked=["segmenter"])
    ((kind, message),) = executor.run(prompt)
    assert kind == "CheckpointError" and "no CLIPSeg model" in message


@pytest.mark.parametrize("name", NAMES_WITH_TRICKS)
def test_tricky_names_do_not_save_outside(comfy, executor, graph, name):
    """Some are good enough for a file; it then lies in output/subjects."""
    base = Path(comfy.folder_paths.base_path)
    before = set(base.parent.rglob("*"))
    failures = executor.run(graph("SubjectSave", {"filename_prefix": name}))
    assert [kind for kind, _ in failures] in ([], ["SubjectError"], ["custom_validation_failed"])
    new = {path for path in set(base.parent.rglob("*")) - before if path.is_file()}
    assert len(new) == (0 if failures else 1)
    assert all(path.resolve().is_relative_to(base / "output" / "subjects") for path in new)


# --- pictures that are programs

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n0 0 64 64 rectfill\nshowpage\n%%EOF\n"


@pytest.fixture
def no_ghostscript(monkeypatch):
    """Pillow hands PostScript to another program, whatever the file is called."""
    from PIL import EpsImagePlugin

    def started(*_, **__):
        raise AssertionError("a picture was handed to Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)


def test_postscript_with_the_name_of_a_photo_is_no_picture(tmp_path, no_ghostscript):
    from PIL import Image

    from blipdiff_impl.blip_diffusion.finetuning.command import _read_folder
    from blipdiff_impl.errors import SubjectError
    from blipdiff_impl.files import UnreadablePicture, read_picture

    path = tmp_path / "dog.jpg"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(AssertionError, match="Ghostscript"), Image.open(path) as picture:
        picture.load()  # so it would happen
    with pytest.raises(UnreadablePicture, match="dog.jpg"):
        read_picture(path)
    with pytest.raises(SubjectError, match="dog.jpg"):
        _read_folder(tmp_path)


def test_postscript_in_a_shard_is_a_broken_sample(tmp_path, no_ghostscript):
    import tarfile

    from blipdiff_impl.training.samples import BrokenSample
    from blipdiff_impl.training.shards import Shards

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, content in (("a.jpg", POSTSCRIPT), ("a.txt", b"a dog")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(BrokenSample, match="a.jpg"):
        Shards((str(tmp_path / "shard.tar"),))[0]
