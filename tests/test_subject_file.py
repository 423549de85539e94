"""A subject as one file: what other readers find in it, what comes back, and every file that must be refused.

Round trips are exact: vectors are stored as the float32 numbers they are.
"""

import base64
import io
import json
import shutil
import struct
from datetime import datetime, timedelta, timezone

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blipdiff_impl.blip_diffusion.cover import COVER, SIDE, read_cover
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.subject_file import TunedWeights, read_subject, weight_name, write_subject
from blipdiff_impl.errors import SubjectError
from blipdiff_impl.stable_diffusion.base_fingerprint import base_fingerprint
from blipdiff_impl.training.lora import decompose
from blipdiff_impl.version import VERSION
from blipdiff_impl.weights import writing
from tools.places import ROOT

WIDTH = 24
MODULE = weight_name("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_subject(count=1, **changes):
    given = {"category": "Hündchen", "encoder_fingerprint": "ab" * 32, "source": "3 photos, crop", **changes}
    return Subject(random(count, 16, WIDTH), **given)


def make_tuned(**changes):
    tensors = {
        f"{MODULE}.lora_up.weight": random(8, 2, seed=1, dtype=torch.float16),
        f"{MODULE}.lora_down.weight": random(2, 6, seed=2, dtype=torch.float16),
        f"{MODULE}.alpha": torch.tensor(2.0),
        f"{weight_name('conv_in')}.diff": random(4, 4, 3, 3, seed=3, dtype=torch.float16),
        f"{weight_name('conv_in')}.diff_b": random(4, seed=4, dtype=torch.float32),
    }
    return TunedWeights(**{"tensors": tensors, "steps": 80, "method": "lora", "base_fingerprint": "cd" * 32, **changes})


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("tuned", [None, make_tuned()], ids=["vectors", "tuned"])
def test_what_is_written_comes_back(tmp_path, count, tuned):
    subject, path = make_subject(count), tmp_path / "my.dog.safetensors"
    write_subject(path, subject, tuned)
    saved = read_subject(path)
    assert torch.equal(saved.subject.embeddings, subject.embeddings)
    assert (saved.subject.category, saved.subject.source) == (subject.category, subject.source)
    assert saved.subject.encoder_fingerprint == subject.encoder_fingerprint
    assert saved.pack_version == VERSION
    assert abs(datetime.fromisoformat(saved.date) - datetime.now(timezone.utc)) < timedelta(minutes=10)
    if tuned is None:
        assert saved.tuned is None
    else:
        assert (saved.tuned.steps, saved.tuned.method, saved.tuned.base_fingerprint) == (80, "lora", "cd" * 32)
        assert saved.tuned.tensors.keys() == tuned.tensors.keys()
        assert all(torch.equal(saved.tuned.tensors[name], tuned.tensors[name]) for name in tuned.tensors)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_other_readers_find_the_names_they_look_for(tmp_path):
    """The library's own reader, as the host uses it: `clip_l` alone, a bundled embedding beside LoRA names."""
    subject = make_subject(3)
    write_subject(tmp_path / "alone.safetensors", subject)
    alone = load_file(tmp_path / "alone.safetensors")
    assert torch.equal(alone["clip_l"], subject.embeddings[0])
    assert alone.keys() == {"clip_l", "further_subjects"}
    write_subject(tmp_path / "my_dog.safetensors", subject, make_tuned())
    both = load_file(tmp_path / "my_dog.safetensors")
    assert torch.equal(both["bundle_emb.my_dog.clip_l"], subject.embeddings[0])
    assert "clip_l" not in both and f"{MODULE}.lora_up.weight" in both
    assert all(isinstance(value, str) for value in metadata_of(tmp_path / "my_dog.safetensors").values())


def test_save_and_load_of_a_subject(tmp_path):
    subject, path = make_subject(2), tmp_path / "a.safetensors"
    subject.save(path)
    with pytest.raises(SubjectError, match="exists already"):
        subject.save(path)
    other = make_subject(1, category="cat")
    other.save(path, overwrite=True)
    assert Subject.load(path).category == "cat" and len(Subject.load(path)) == 1
    write_subject(path, subject, make_tuned(), overwrite=True)
    assert torch.equal(Subject.load(path).embeddings, subject.embeddings)


def test_a_renamed_file_is_still_a_subject(tmp_path):
    write_subject(tmp_path / "a.safetensors", make_subject(), make_tuned())
    renamed = (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert read_subject(renamed).subject.category == make_subject().category


@pytest.mark.parametrize("name", ["my_dog", "my_dog.pt"])
def test_other_file_types_are_refused(tmp_path, name):
    with pytest.raises(SubjectError, match=r"should end in \.safetensors"):
        make_subject().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SubjectError, match="there is no folder .*nowhere"):
        make_subject().save(tmp_path / "nowhere" / "a.safetensors")


@pytest.mark.parametrize(
    "failure, raised, sentence",
    [
        (OSError(28, "No space left on device"), SubjectError, "became full while writing my_dog.safetensors"),
        (OSError(5, "Input/output error"), SubjectError, "cannot be written: Input/output error"),
        (KeyboardInterrupt("by hand"), KeyboardInterrupt, "by hand"),
    ],
    ids=["disk full", "broken disk", "interrupted"],
)
def test_a_writing_that_ends_early_leaves_what_was_there(tmp_path, monkeypatch, failure, raised, sentence):
    path = tmp_path / "my_dog.safetensors"
    make_subject().save(path)
    before, bytes_of, count = path.read_bytes(), writing.tensor_bytes, []

    def fail_at_the_second(tensor):
        count.append(tensor)
        if len(count) == 2:
            raise failure
        return bytes_of(tensor)

    monkeypatch.setattr(writing, "tensor_bytes", fail_at_the_second)
    with pytest.raises(raised, match=sentence):
        write_subject(path, make_subject(2), overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_is_too_small_is_noticed_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(SubjectError, match="too full: the file takes 0.0 MB, 0.0 MB are free"):
        make_subject().save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    tuned = make_tuned(tensors={f"{MODULE}.diff": torch.tensor([1.0, value])})
    with pytest.raises(SubjectError, match=f"{MODULE}.diff holds NaN or infinite"):
        write_subject(tmp_path / "a.safetensors", make_subject(), tuned)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tuned", [None, make_tuned()], ids=["vectors", "tuned"])
def test_truncated_files_are_refused(tmp_path, tuned):
    path = tmp_path / "a.safetensors"
    write_subject(path, make_subject(), tuned)
    content = path.read_bytes()
    for length in (0, 4, 8, 100, 700, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(SubjectError, match="empty|damaged or incomplete"):
            read_subject(path)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\xff" * 64, "damaged or incomplete"),
        (struct.pack("<Q", 2**60) + b"{}", "damaged or incomplete"),
        (b"PK\x03\x04" + bytes(64), "damaged or incomplete"),
    ],
    ids=["page", "pointer", "noise", "long header", "zip"],
)
def test_files_that_are_none_are_refused(tmp_path, content, sentence):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(SubjectError, match=sentence):
        read_subject(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(SubjectError, match="cannot be read"):
            read_subject(path)


def test_a_header_that_points_beyond_the_file_is_refused(tmp_path):
    """Offsets and shapes that do not agree, as somebody might craft them."""
    path = tmp_path / "a.safetensors"
    make_subject().save(path)
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header, body = json.loads(path.read_bytes()[8 : 8 + length]), path.read_bytes()[8 + length :]
    for changed in ({"data_offsets": [0, 2**40]}, {"shape": [2**31, 2**31]}, {"data_offsets": [-8, 64]}):
        text = json.dumps({**header, "clip_l": {**header["clip_l"], **changed}}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)
        with pytest.raises(SubjectError, match="damaged or incomplete"):
            read_subject(path)


GOOD = {"format": "blipdiffusion_subject", "format_version": "1", "category": "dog", "steps": "3"}
UP, DOWN = f"{MODULE}.lora_up.weight", f"{MODULE}.lora_down.weight"
PAIR = {UP: torch.zeros(8, 2), DOWN: torch.zeros(2, 6)}


@pytest.mark.parametrize(
    "tensors, metadata, sentence",
    [
        ({}, {"format": "blipdiffusion"}, "not a subject saved by this pack"),
        ({}, {"format_version": "2"}, "format version 2.*reads 1"),
        ({"clip_l": torch.full((16, WIDTH), float("nan"))}, {}, "NaN or infinite"),
        ({"clip_l": torch.zeros(WIDTH)}, {}, "do not fit together"),
        ({"clip_l": torch.zeros(0, WIDTH)}, {}, r"\[1, 0, 24\]"),
        ({"clip_l": torch.zeros(76, WIDTH)}, {}, "76 vectors.*room for 75"),
        ({"clip_l": torch.zeros(16, WIDTH, dtype=torch.int32)}, {}, "int32"),
        ({"further_subjects": torch.zeros(2, 16, WIDTH + 1)}, {}, "16, 24.*16, 25"),
        ({"further_subjects": torch.zeros(16, WIDTH)}, {}, "do not fit together"),
        ({"bundle_emb.x.clip_l": torch.zeros(16, WIDTH)}, {}, "it holds 2"),
        ({"clip_l": None}, {}, "it holds 0"),
        ({"clip_l": None, "clip_g": torch.zeros(16, WIDTH)}, {}, "it holds 0"),
        ({"surprise": torch.zeros(2)}, {}, "'surprise'.*neither a subject nor a tuned weight"),
        ({**PAIR, DOWN: None}, {}, "no fitting counterpart"),
        ({**PAIR, UP: None}, {}, "no fitting counterpart"),
        ({**PAIR, UP: torch.zeros(8, 3)}, {}, "no fitting counterpart"),
        ({**PAIR, UP: torch.zeros(8)}, {}, "no fitting counterpart"),
        ({**PAIR, f"{MODULE}.alpha": torch.zeros(2)}, {}, "no fitting counterpart"),
        ({f"{MODULE}.alpha": torch.tensor(1.0)}, {}, "no fitting counterpart"),
        ({**PAIR, UP: torch.full((8, 2), float("inf"))}, {}, "NaN or infinite numbers; the file is damaged"),
        ({**PAIR, UP: torch.zeros(8, 2, dtype=torch.uint8)}, {}, "uint8"),
        (PAIR, {"steps": "many"}, "says 'many'"),
        (PAIR, {"steps": "-1"}, "says '-1'"),
    ],
)  # fmt: skip
def test_crafted_files_are_refused(tmp_path, tensors, metadata, sentence):
    path = tmp_path / "a.safetensors"
    content = {"clip_l": torch.zeros(16, WIDTH), **tensors}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path, {**GOOD, **metadata})
    with pytest.raises(SubjectError, match=sentence):
        read_subject(path)


def test_the_crafted_files_differ_from_a_good_one_by_their_fault_alone(tmp_path):
    save_file({"clip_l": torch.zeros(16, WIDTH), **PAIR}, tmp_path / "a.safetensors", GOOD)
    assert read_subject(tmp_path / "a.safetensors").tuned.steps == 3


def test_an_embedding_or_lora_of_somebody_else_is_no_subject(tmp_path):
    save_file({"clip_l": torch.zeros(4, 768)}, tmp_path / "a.safetensors")
    with pytest.raises(SubjectError, match="loaded by other nodes"):
        read_subject(tmp_path / "a.safetensors")


def test_the_version_is_that_of_the_project():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    assert f'version = "{VERSION}"' in lines


def norm(tensor):
    return float(torch.linalg.matrix_norm(tensor.double()))


@pytest.mark.parametrize(
    "delta",
    [
        random(64, 300).sign() * 4e-4,  # Adam's first steps: every number about equally large, no small rank at all
        random(200, 6, seed=1) @ random(6, 120, seed=2) + 0.05 * random(200, 120, seed=3),
        random(5, 400, seed=4),
    ],
    ids=["signs", "nearly rank 6", "flat"],
)
@pytest.mark.parametrize("rank", [1, 4, 5])
def test_low_rank_is_as_close_as_the_exact_decomposition(delta, rank):
    """Eckart and Young: no product of this rank comes closer than the truncated SVD. 1 % is left to the randomness."""
    singular = torch.linalg.svdvals(delta.double())
    best = float(singular[rank:].square().sum().sqrt())
    up, down = decompose(delta, rank)
    assert up.shape == (len(delta), rank) and down.shape == (rank, delta.shape[1])
    # 1e-5 of the whole: float32 rounding, where the best is zero.
    assert norm(delta - up @ down) <= 1.01 * best + 1e-5 * norm(delta)


def test_low_rank_is_repeatable_and_leaves_the_random_numbers_alone():
    delta = random(30, 40)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = decompose(delta, 3)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first, decompose(delta, 3), strict=True))


def test_base_fingerprint_knows_a_model_in_any_precision_and_no_other():
    unet = {"a.weight": random(40, 30), "b.bias": random(7, seed=1), "c": torch.tensor(-0.5)}
    name = base_fingerprint(unet)
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        assert base_fingerprint({key: tensor.to(dtype) for key, tensor in unet.items()}) == name
    assert base_fingerprint(dict(reversed(unet.items()))) == name
    changed = unet["a.weight"] + 0.05 * random(40, 30, seed=5)
    assert base_fingerprint({**unet, "a.weight": changed}) != name
    assert base_fingerprint({**unet, "b.bias": torch.cat([unet["b.bias"], torch.ones(1)])}) != name
    assert base_fingerprint({key: tensor for key, tensor in unet.items() if key != "c"}) != name


def test_a_picture_is_kept_small(tmp_path):
    """In the form that ComfyUI's list of models reads: a JSON list of pictures in base64."""
    picture = torch.zeros(2, 300, 600, 3)
    picture[0, :, 300:] = torch.tensor([1.0, 0.5, 0.0])
    write_subject(tmp_path / "a.safetensors", make_subject(), picture=picture)
    kept = read_subject(tmp_path / "a.safetensors").picture
    assert kept.shape == (1, SIDE // 2, SIDE, 3)
    assert (kept[0, 64, 200] - picture[0, 0, 500]).abs().max() < 0.05 and kept[0, 64, 20].max() < 0.05
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        (encoded,) = json.loads(file.metadata()[COVER])
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
        assert opened.size == (SIDE, SIDE // 2)
    assert (tmp_path / "a.safetensors").stat().st_size < 40_000


def test_without_a_picture_there_is_none(tmp_path):
    write_subject(tmp_path / "a.safetensors", make_subject())
    assert read_subject(tmp_path / "a.safetensors").picture is None


NO_PICTURE = (
    "", "no JSON", "[]", "[3]", '["no base64!"]', '["bm8gcGljdHVyZQ=="]', '{"a": 1}', "[" * 100_000,
    "[1" + " " * 2**21 + "]",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_PICTURE, ids=range(len(NO_PICTURE)))
def test_a_picture_that_cannot_be_read_is_none(text):
    assert read_cover({COVER: text}) is None


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(SubjectError, match="should be an IMAGE"):
        write_subject(tmp_path / "a.safetensors", make_subject(), picture=torch.zeros(3, 8, 8))
    assert list(tmp_path.iterdir()) == []
