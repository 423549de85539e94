"""Thousands of damaged model files and subjects through every reader: each is read, or refused with a plain sentence.

What is read has passed all checks of names, shapes, types and sizes; a flipped bit inside a weight is none of them.
Seeds are fixed. The same through the host's nodes, with crafted files: test_hostile_files.py.
"""

import copy
import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save

from blipdiff_impl.blip_diffusion.checkpoints import PARTS, open_checkpoint, write_single_file
from blipdiff_impl.blip_diffusion.checkpoints.expected_shapes import expected_shapes
from blipdiff_impl.blip_diffusion.config import RELEASED, ModelConfig
from blipdiff_impl.blip_diffusion.subject import Subject
from blipdiff_impl.blip_diffusion.subject_file import TunedWeights, read_subject, write_subject
from blipdiff_impl.errors import CheckpointError, SubjectError
from tests.checkpoint_fixtures import SMALL, VOCABULARY, fine_tuned_state, random_parts, write_component_configs
from tests.fuzzed import UNSAID, cut, flipped, refusals, require_plain


def read_all(path):
    """All that a loader asks of a checkpoint."""
    checkpoint = open_checkpoint(path, SMALL)
    for part in PARTS:
        if checkpoint.has(part):
            checkpoint.part(part)
    if checkpoint.has("subject_encoder"):
        _ = checkpoint.vocabulary
    checkpoint.subject_vectors()
    return checkpoint


def test_the_words_that_no_sentence_holds_are_those_that_libraries_say(tmp_path):
    """Else the tests below would look for nothing."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(2)}, path)
    content = path.read_bytes()
    said = []
    for number, changed in enumerate(flipped(content, 200, seed=1)):
        path.write_bytes(changed)
        try:
            zipfile.is_zipfile(path)
            torch.load(path, weights_only=True)
        except Exception as error:
            said.append((number, f"{type(error).__name__}: {error}"))
    assert len(said) > 20 and all(UNSAID.search(sentence) for _, sentence in said)


def small_state():
    """A fine-tuned file in which names and sizes take more room than weights."""
    parts = {"unet": {name: torch.zeros(2) for name in list(expected_shapes("unet", SMALL))[:6]}}
    return fine_tuned_state(parts, torch.ones(1, 4, 16))


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
def test_damaged_pth(tmp_path, archive):
    path = tmp_path / "a.pth"
    state = small_state()
    del state["model"]["blip.Qformer.cls.predictions.decoder.weight"]
    torch.save(state, path, _use_new_zipfile_serialization=archive)
    content = path.read_bytes()
    read = refusals(read_all, path, [content, *flipped(content, 1000, seed=2), *cut(content, 150, seed=3)])
    assert read > 700


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
def test_damaged_pth_whose_weights_fit(tmp_path, archive):
    path = tmp_path / "a.pth"
    parts = random_parts()
    torch.save(fine_tuned_state(parts, torch.ones(1, 4, 16)), path, _use_new_zipfile_serialization=archive)
    read_all(path)
    content = path.read_bytes()
    refusals(read_all, path, flipped(content, 50, seed=4))
    refusals(read_all, path, cut(content, 10, seed=5))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A whole small model as one file; its header has sizes, word pieces, fingerprints and the table of tensors."""
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    parts = {name: tensors for name, tensors in random_parts().items() if name in ("subject_encoder", "vae")}
    write_single_file(path, parts, SMALL, VOCABULARY, torch.float16, subject_vectors=torch.ones(1, 4, 16))
    return path.read_bytes()


def test_damaged_single_file(tmp_path, single):
    path, header = tmp_path / "a.safetensors", 8 + struct.unpack("<Q", single[:8])[0]
    refused = refusals(read_all, path, flipped(single, 1000, seed=6, most=header))
    assert refused > 400
    refusals(read_all, path, flipped(single, 200, seed=7, most=8))
    refusals(read_all, path, [single, *cut(single, 100, seed=8)])
    assert refusals(read_all, path, [single]) == 0


def test_damaged_subject(tmp_path):
    path = tmp_path / "a.safetensors"
    module = "lora_unet_down_blocks_0"
    tensors = {f"{module}.lora_up.weight": torch.ones(4, 2), f"{module}.lora_down.weight": torch.ones(2, 4),
               f"{module}.alpha": torch.tensor(2.0), "lora_unet_conv_in.diff_b": torch.ones(4)}  # fmt: skip
    subject = Subject(torch.ones(2, 4, 8), "dog", "ab" * 32)
    write_subject(path, subject, TunedWeights(tensors, 80, "lora", "cd" * 32))
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    assert refusals(read_subject, path, flipped(content, 1000, seed=9, most=header)) > 400
    refusals(read_subject, path, [*flipped(content, 300, seed=10), *cut(content, 150, seed=11)])


# --- sizes that a file states

NESTED = json.loads("[" * 500 + "]" * 500)
HOSTILE_VALUES = [
    10**9, 2**62, 10**100, 0, -1, -(2**63), 1.5, 1e300, float("inf"), float("nan"), True, None, "", "many", "x" * 10**5,
    [], [1], [10**9] * 4, [0, 0, 0, 0], [64] * 3, [True] * 9, [[1]], [{}], ["CrossAttnDownBlock2D"], [64] * 10**5, {},
    {"a": 1}, NESTED,
]  # fmt: skip


def fields_of(record, path=()):
    """The path to each value of a nested record, and to the records themselves."""
    for name, value in record.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from fields_of(value, (*path, name))


def with_value(record, path, value):
    changed = copy.deepcopy(record)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


def require_bounded(config):
    """A configuration that is taken describes a model that could be."""
    assert sum(len(expected_shapes(part, config)) for part in PARTS) < 50_000


def test_hostile_sizes_in_a_header():
    record = json.loads(SMALL.to_json())
    taken = 0
    for path in fields_of(record):
        for value in HOSTILE_VALUES:
            try:
                config = ModelConfig.from_json(json.dumps(with_value(record, path, value)))
            except CheckpointError as error:
                require_plain(error, f"{path} = {str(value)[:50]}")
                assert len(str(error)) < 600
            else:
                taken += 1
                require_bounded(config)
    assert 0 < taken < 200


@pytest.mark.parametrize("component", ["qformer", "text_encoder", "unet", "vae"])
def test_hostile_sizes_in_the_configuration_of_a_folder(tmp_path, component):
    write_component_configs(tmp_path)
    (tmp_path / "qformer").mkdir()
    record = {"num_query_tokens": 4, "qformer_config": {"hidden_size": 16, "num_attention_heads": 2},
              "vision_config": {"hidden_size": 8, "num_attention_heads": 2}}  # fmt: skip
    path = tmp_path / component / "config.json"
    record = record if component == "qformer" else json.loads(path.read_text())
    for field in fields_of(record):
        for value in HOSTILE_VALUES:
            path.write_text(json.dumps(with_value(record, field, value)))
            try:
                require_bounded(open_checkpoint(tmp_path, SMALL).config)
            except CheckpointError as error:
                require_plain(error, f"{field} = {str(value)[:50]}")
                assert str(tmp_path) in str(error) and len(str(error)) < 800


@pytest.mark.parametrize("component", ["qformer", "unet"])
def test_damaged_configuration(tmp_path, component):
    write_component_configs(tmp_path)
    (tmp_path / "qformer").mkdir()
    path = tmp_path / component / "config.json"
    content = path.read_bytes() if path.exists() else b'{"num_query_tokens": 4, "qformer_config": {"hidden_size": 16}}'

    def read(_):
        return open_checkpoint(tmp_path, SMALL)

    refusals(read, path, [*flipped(content, 400, seed=12), *cut(content, 100, seed=13)])
    deep = [b"[" * n + b"]" * n for n in (10_000, 1_000_000)] + [b'{"a":' * 20_000 + b"1" + b"}" * 20_000]
    odd = [b"\xff\xfe", b"", b"null", b"NaN", b"1" * 5000, b'"' + b"x" * 10**6 + b'"', b" " * (9 << 20) + b"{}"]
    assert refusals(read, path, deep + odd) == len(deep + odd)


def test_the_sizes_that_are_published_and_shipped_are_possible():
    assert ModelConfig.from_json(RELEASED.to_json()) == RELEASED
    assert len(expected_shapes("unet", open_checkpoint("toybox").config)) > 100


# --- more than the file has

BYTES = 10_000


def entries(path, data_pkl, count, stored=BYTES, compression=zipfile.ZIP_STORED, comment=b""):
    """An archive as PyTorch writes it, whose directory lists the one entry with data `count` times."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", data_pkl)
        archive.writestr("a/data/0", bytes(range(250)) * (stored // 250))
        for number in range(1, count):
            again = copy.copy(archive.filelist[1])
            again.filename = f"a/data/{number}"
            archive.filelist.append(again)
        archive.comment = comment
    return path


@pytest.fixture
def unread(monkeypatch):
    """The limits hold before any reader is asked."""
    import safetensors

    def asked(*_, **__):
        raise AssertionError("the file was read")

    monkeypatch.setattr(torch, "load", asked)
    monkeypatch.setattr(safetensors, "safe_open", asked)


def refused(path, *said):
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    require_plain(caught.value)
    assert all(word in str(caught.value) for word in said), str(caught.value)


@pytest.mark.parametrize("count", [2, 50, 5000])
def test_entries_that_share_their_bytes(tmp_path, unread, count):
    """All of them stored as they are, but together more than the file has: the smallest such file has two."""
    path = entries(tmp_path / "a.pth", pickle.dumps({}), count)
    refused(path, "a.pth", f"would unpack to {BYTES * count + len(pickle.dumps({})):,}")


def test_entries_that_are_packed_to_no_gain(tmp_path, unread):
    """Packed entries cannot be mapped; this archive is larger than what is in it."""
    path = entries(tmp_path / "a.pth", pickle.dumps({}), 1, 250, zipfile.ZIP_DEFLATED, b"x" * 1000)
    assert path.stat().st_size > 300
    refused(path, "not a PyTorch file")


def test_an_archive_whose_entries_are_its_own_is_read(tmp_path):
    """The neighbour of the one above: what PyTorch writes has entries up to the size of the file."""
    torch.save({"unet.x": torch.zeros(100_000)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="unexpected: x"):
        read_all(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a/constants.pkl", "A/CONSTANTS.PKL"])
def test_programs_are_refused_in_any_spelling(tmp_path, unread, name):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr(name, b"")
    refused(tmp_path / "a.pth", "TorchScript program")


@pytest.mark.parametrize("name", ["a/data.pkl", "a/DATA.pkl"])
def test_a_pickle_longer_than_any_table_of_weights(tmp_path, unread, name):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr(name, b"\x80\x02" + b"N0" * 3_000_000)
    refused(tmp_path / "a.pth", "far more than a model's tensors", "6,000,002 bytes")


def test_a_directory_longer_than_that_of_any_weights(tmp_path, unread):
    """A million entries of no bytes: only the directory is long."""
    path = entries(tmp_path / "a.pth", pickle.dumps({}), 2, 250)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    record = content[start : start + (end - start) // 2]
    directory = record * (1_000_000 * 46 // len(record))
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFE, 0xFFFE, len(directory), start, 0)
    path.write_bytes(content[:start] + directory + last)
    refused(path, "far too many files")


def test_an_old_pickle_without_end(tmp_path):
    torch.save({}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: content.index(b"}q") or 20] + b"N0" * 4_000_000)
    refused(tmp_path / "a.pth", "damaged or incomplete")


VIEWS = {
    "4 GB of one number": {"unet.x": torch.zeros(1).expand(10**9)},
    "4 TB of one number": {"unet.x": torch.zeros(1).expand(10**12)},
    "rows that overlap": {"unet.x": torch.zeros(200).as_strided((100, 100), (1, 1))},
    "a scalar's worth too many": {"unet.x": torch.zeros(100).as_strided((101,), (0,))},
    "one weight under many names": {f"unet.{i}": tensor for i, tensor in enumerate([torch.zeros(10_000)] * 100)},
}


@pytest.mark.parametrize("content", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
def test_tensors_larger_than_what_is_stored(tmp_path, content, archive):
    path = tmp_path / "a.pth"
    torch.save({"model": content}, path, _use_new_zipfile_serialization=archive)
    assert path.stat().st_size < 100_000
    refused(path, "bytes in memory")


def test_a_bare_tensor_larger_than_what_is_stored(tmp_path):
    torch.save(torch.zeros(1).expand(10**9), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "bytes in memory")


def test_views_that_lie_in_the_file_are_read(tmp_path):
    """Weights that two modules share, and a transposed one."""
    parts = random_parts()
    shared = torch.randn(2 * 8 * 4 * 3 * 3)
    parts["unet"]["conv_in.weight"] = shared[: 8 * 4 * 3 * 3].reshape(8, 4, 3, 3)
    parts["unet"]["conv_out.weight"] = shared[8 * 4 * 3 * 3 :].reshape(3, 3, 4, 8).permute(2, 3, 0, 1)
    path = tmp_path / "a.pth"
    torch.save(fine_tuned_state(parts, torch.ones(1, 4, 16)), path)
    found = read_all(path).part("unet")
    assert all(torch.equal(found[name], parts["unet"][name]) for name in ("conv_in.weight", "conv_out.weight"))


MANY = 30_000


def test_too_many_tensors_in_a_header(tmp_path):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"unet.{number}": empty for number in range(MANY)}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    refused(path, f"{MANY:,} tensors")
    with pytest.raises(SubjectError, match=f"{MANY:,} tensors"):
        read_subject(path)


def test_a_million_tensors_are_refused_by_the_length_of_the_header(tmp_path, unread):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 70_000_000))
    with path.open("r+b") as file:
        file.truncate(70_000_008)
    refused(path, "header of 70,000,000 bytes")
    with pytest.raises(SubjectError, match="header of 70,000,000 bytes"):
        read_subject(path)


def test_too_many_tensors_in_a_pth(tmp_path):
    one = torch.zeros(1)
    torch.save({str(number): one for number in range(MANY)}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", f"{MANY:,} tensors")


def test_names_of_any_length_are_quoted_in_short(tmp_path):
    name = "unet." + "x" * 100_000
    torch.save({name: torch.zeros(1)}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "unexpected: xxx")
    torch.save({"y" * 100_000: torch.zeros(1)}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "yyy")
    torch.save({"z" * 100_000: 3}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "zzz")
    (tmp_path / "a.safetensors").write_bytes(save({name: torch.zeros(1)}))
    refused(tmp_path / "a.safetensors", "xxx")


@pytest.mark.parametrize("said", ["[1, 2]", "[" * 5000, '"x"', "{}", json.dumps(["a" * 10**6] * 3), "[[1], {}, null]"])
def test_warnings_of_any_kind_in_a_header(tmp_path, said):
    path = tmp_path / "a.safetensors"
    metadata = {"format": "blipdiffusion", "format_version": "1", "config": SMALL.to_json(), "warnings": said}
    path.write_bytes(save({"vae.x": torch.zeros(1)}, metadata))
    warnings = open_checkpoint(path).warnings
    assert all(isinstance(sentence, str) and len(sentence) <= 500 for sentence in warnings)
    assert len(warnings) == (3 if "aaa" in said else 0)


def test_more_word_pieces_than_rows(tmp_path, single):
    path = tmp_path / "a.safetensors"
    write_single_file(path, {"subject_encoder": random_parts()["subject_encoder"]}, SMALL, [*VOCABULARY, "one", "two"])
    refused(path, "42 word pieces", "knows 40")


FACTORS = {"lora_up.weight": torch.ones(4, 2), "lora_down.weight": torch.ones(2, 4)}
PAIRS = {
    "rank 0": {"lora_up.weight": torch.ones(4, 0), "lora_down.weight": torch.ones(0, 4)},
    "ranks that differ": {"lora_up.weight": torch.ones(4, 2), "lora_down.weight": torch.ones(3, 4)},
    "a kernel in the wrong factor": {"lora_up.weight": torch.ones(4, 2, 3, 3), "lora_down.weight": torch.ones(2, 4)},
    "a vector": {"lora_up.weight": torch.ones(4), "lora_down.weight": torch.ones(2, 4)},
    "half of a pair": {"lora_down.weight": torch.ones(2, 4)},
    "alpha of several": {**FACTORS, "alpha": torch.ones(2)},
    "alpha of nothing": {**FACTORS, "alpha": torch.ones(0)},
}  # fmt: skip


def subject_file(path, tensors, **metadata):
    good = {"format": "blipdiffusion_subject", "format_version": "1", "category": "dog", "steps": "3"}
    path.write_bytes(save({"bundle_emb.a.clip_l": torch.ones(2, 8), **tensors}, good | metadata))
    return path


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_factors_that_make_no_weight(tmp_path, pair):
    path = subject_file(tmp_path / "a.safetensors", {f"lora_unet_x.{name}": tensor for name, tensor in pair.items()})
    with pytest.raises(SubjectError, match="lora_unet_x.* has no fitting counterpart") as caught:
        read_subject(path)
    require_plain(caught.value)


@pytest.mark.parametrize("name", ["category", "source", "encoder_fingerprint", "steps", "format_version"])
def test_texts_of_any_length_in_a_subject(tmp_path, name):
    tensors = {"lora_unet_x.diff": torch.ones(2)}
    with pytest.raises(SubjectError) as caught:
        read_subject(subject_file(tmp_path / "a.safetensors", tensors, **{name: "9" * 100_000}))
    require_plain(caught.value)


def test_a_tensor_of_any_name_in_a_subject(tmp_path):
    path = subject_file(tmp_path / "a.safetensors", {"lora_unet_" + "x" * 100_000 + ".diff": torch.tensor(torch.nan)})
    with pytest.raises(SubjectError, match="lora_unet_xxx") as caught:
        read_subject(path)
    require_plain(caught.value)
    with pytest.raises(SubjectError, match="neither a subject nor") as caught:
        read_subject(subject_file(tmp_path / "b.safetensors", {"y" * 100_000: torch.ones(1)}))
    require_plain(caught.value)
