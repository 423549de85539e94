"""Wrong, damaged and hostile checkpoints: each ends in a sentence that names what is wrong and what to do."""

import io
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint, write_single_file
from blipdiff_impl.errors import CheckpointError
from tests.checkpoint_fixtures import (
    SMALL,
    VOCABULARY,
    fine_tuned_state,
    lavis_blip_file,
    random_parts,
    save,
    whole_model_state,
    write_diffusers_folder,
    write_lavis_folder,
)

UNET = Path("unet") / "diffusion_pytorch_model.bin"


@pytest.fixture(scope="module")
def parts():
    return random_parts()


@pytest.fixture
def folder(tmp_path, parts):
    return write_diffusers_folder(tmp_path / "model", parts)


def refused(*said: str):
    """The sentence holds all of these, in this order."""
    return pytest.raises(CheckpointError, match="(?s)" + ".*".join(map(re.escape, said)))


# Nothing there, or something else


def test_no_such_path(tmp_path):
    (tmp_path / "other.safetensors").touch()
    with refused("model.safetensors", "Looked for model.safetensors", str(tmp_path), "Found there: other.safetensors"):
        open_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("path", ["x" * 5000, "nul\0byte"])
def test_impossible_path(path):
    with refused("cannot be a path"):
        open_checkpoint(path)


def test_folder_of_another_kind(tmp_path):
    (tmp_path / "photos").mkdir()
    with refused("no checkpoint folder", "qformer/", "blip_model/", "Found there: photos/"):
        open_checkpoint(tmp_path)


def test_part_that_is_not_there(folder):
    (folder / "vae" / "diffusion_pytorch_model.bin").rename(folder / "vae" / "weights.bin")
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.has("vae")
    with refused(
        "no vae", "diffusion_pytorch_model.safetensors, diffusion_pytorch_model.bin", str(folder / "vae"), "weights.bin"
    ):
        checkpoint.part("vae")


def test_part_folder_that_is_not_there(tmp_path, parts):
    folder = write_diffusers_folder(tmp_path, {"subject_encoder": parts["subject_encoder"]})
    (folder / "unet" / "config.json").unlink()
    (folder / "unet").rmdir()
    with refused("no unet", "Looked for", "there is no such folder"):
        open_checkpoint(folder).part("unet")


def test_unknown_part(folder):
    with refused("there is no part 'controlnet'"):
        open_checkpoint(folder).has("controlnet")


def test_component_file_alone(folder):
    with refused("should start with blip., proj_layer.", "conv_in.weight", "choose the folder"):
        open_checkpoint(folder / UNET)


def test_not_a_weights_file(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with refused("not a weights file", ".safetensors, .bin"):
        open_checkpoint(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty (0 bytes)"),
        (b"version https://git-lfs.example/spec/v1\noid sha256:c7da0e\nsize 3438354725\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html><body>401 Unauthorized</body>", "web page"),
        (b"not weights at all, but long enough to have a header", "damaged or incomplete (52 bytes)"),
    ],
    ids=["empty", "LFS pointer", "web page", "noise"],
)
def test_downloads_that_went_wrong(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with refused(str(tmp_path / name), said):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_truncated_file(tmp_path, parts, suffix, kept):
    path = save(parts["unet"], tmp_path / f"unet.{suffix}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with refused("damaged or incomplete", "Download it again"):
        open_checkpoint(path)


def test_folder_that_may_not_be_read(folder, monkeypatch):
    """Raised by hand, because the tests may run as a user who may read everything."""

    def deny(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", deny)
    with refused(str(folder), "permission denied"):
        open_checkpoint(folder)


def test_file_that_may_not_be_read(folder, monkeypatch):
    real_open = Path.open

    def deny(path, *arguments, **options):
        if path.suffix == ".bin":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", deny)
    with refused("pytorch_model.bin", "permission denied"):
        open_checkpoint(folder)


def test_folder_above_that_may_not_be_entered(folder, monkeypatch):
    def deny(path, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", deny)
    with refused("permission denied on a folder above it"):
        open_checkpoint(folder)


# Tensors that do not fit


def with_unet(folder, tensors):
    save(tensors, folder / UNET)
    return open_checkpoint(folder)


def test_missing_tensor_is_named(folder, parts):
    tensors = {name: tensor for name, tensor in parts["unet"].items() if name != "conv_out.bias"}
    with refused(
        str(folder / UNET),
        "1 tensor is missing: conv_out.bias (4)",
        "incomplete or of another kind",
        "download it again",
    ):
        with_unet(folder, tensors).part("unet")


def test_many_missing_tensors_are_counted(folder, parts):
    tensors = dict(list(parts["unet"].items())[20:])
    with refused("20 tensors are missing", "time_embedding.linear_1.bias", "and 12 more"):
        with_unet(folder, tensors).part("unet")


def test_extra_tensor_is_named(folder, parts):
    with refused("1 tensor is unexpected: lora.down.weight", "another kind of model"):
        with_unet(folder, parts["unet"] | {"lora.down.weight": torch.zeros(2)}).part("unet")


def test_misshapen_tensor_is_named_with_both_shapes(folder, parts):
    tensors = parts["unet"] | {"conv_in.weight": torch.zeros(8, 9, 3, 3)}
    with refused("1 tensor is of another shape: conv_in.weight (found 8x9x3x3, expected 8x4x3x3)", "config.json"):
        with_unet(folder, tensors).part("unet")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_wrong_type_is_named(folder, parts, dtype, suffix):
    tensors = parts["unet"] | {"conv_in.bias": torch.zeros(8).to(dtype)}
    save(tensors, folder / "unet" / f"diffusion_pytorch_model.{suffix}")
    with refused("not float32, float16 or bfloat16: conv_in.bias ("):
        open_checkpoint(folder).part("unet")


def test_two_names_for_one_tensor(folder, parts):
    twice = parts["vae"] | {"encoder.mid_block.attentions.0.query.bias": torch.zeros(8)}
    save(twice, folder / "vae" / "diffusion_pytorch_model.bin")
    with refused("holds the tensor encoder.mid_block.attentions.0.to_q.bias twice"):
        open_checkpoint(folder)


def test_unknown_tensor_beside_the_unused_heads(tmp_path, parts):
    folder = write_lavis_folder(tmp_path, parts)
    extra = {"Qformer.bert.pooler.dense.weight": torch.zeros(2), "itm_head.weight2": torch.zeros(2)}
    save(lavis_blip_file(parts["subject_encoder"]) | extra, folder / "blip_model" / "blip_weight.pt")
    with refused("2 tensors are unexpected: Qformer.bert.pooler.dense.weight, itm_head.weight2"):
        open_checkpoint(folder, SMALL).part("subject_encoder")


def test_sizes_that_do_not_belong(tmp_path, parts):
    """Released sizes are expected where a layout states none."""
    folder = write_lavis_folder(tmp_path, parts)
    with refused("unet", "are of another shape", "conv_in.weight (found 8x4x3x3, expected 320x4x3x3)", "another size"):
        open_checkpoint(folder).part("unet")


def test_state_dict_with_unknown_modules(tmp_path, parts):
    path = save(whole_model_state(parts) | {"lora_unet.up": torch.zeros(2)}, tmp_path / "whole.pth")
    with refused("no BLIP-Diffusion checkpoint", "lora_unet.up"):
        open_checkpoint(path, SMALL)


def test_vectors_of_another_model(tmp_path, parts):
    torch.save(fine_tuned_state(parts, torch.ones(1, 16, 768)), tmp_path / "checkpoint_40.pth")
    with refused("(1, 16, 768)", "(1, 4, 16)"):
        open_checkpoint(tmp_path / "checkpoint_40.pth", SMALL).subject_vectors()


# Files beside the weights


def test_tower_missing(tmp_path, parts):
    folder = write_lavis_folder(tmp_path, parts, tower=False)
    with refused("holds no image tower", "clip_vit_L.pth", str(folder / "blip_model"), "blip_weight.pt", str(folder)):
        open_checkpoint(folder, SMALL)


def test_tower_file_of_another_kind(tmp_path, parts):
    folder = write_lavis_folder(tmp_path, parts, tower=False)
    save({"layer1.weight": torch.zeros(2)}, folder / "clip_vit_L.pth")
    with refused("clip_vit_L.pth holds no CLIP image tower", "layer1.weight", "ViT-L/14"):
        open_checkpoint(folder, SMALL)


def test_projection_missing(tmp_path, parts):
    folder = write_lavis_folder(tmp_path, parts)
    (folder / "proj_layer" / "proj_weight.pt").unlink()
    with refused("projection is missing", "proj_weight.pt", "Found there: nothing"):
        open_checkpoint(folder, SMALL)


@pytest.mark.parametrize(
    "content, said",
    [
        ("{broken", "cannot be read as JSON"),
        ("[1, 2]", "should hold a JSON object"),
        ('{"block_out_channels": "many"}', "unet.block_out_channels should be like"),
        ('{"down_block_types": ["UFOBlock", "DownBlock2D"]}', "blocks that this method does not use: UFOBlock"),
    ],
)
def test_wrong_configuration(folder, content, said):
    (folder / "unet" / "config.json").write_text(content)
    with refused(str(folder), said):
        open_checkpoint(folder)


def test_vocabulary_of_another_size(folder):
    (folder / "qformer" / "vocab.txt").unlink()
    with refused("40 word pieces", "30523", "vocab.txt"):
        open_checkpoint(folder).vocabulary  # noqa: B018


# Pickles


def plant(path):
    Path(path).touch()


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return plant, (str(self.path),)


class DictConfig(dict):
    """Stands for the configuration object that a trainer may leave in its checkpoint."""


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "old format"])
def test_objects_are_never_unpickled(tmp_path, archive):
    trap = tmp_path / "trap"
    content = {"model": {"unet.x": torch.zeros(1)}, "config": Payload(trap)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    with refused("holds a Python object besides tensors (", "plant)", "can run code", 'torch.save({"model"'):
        open_checkpoint(tmp_path / "a.pth")
    assert not trap.exists()


def test_configuration_object_in_a_fine_tuned_file(tmp_path, parts):
    state = fine_tuned_state(parts, torch.ones(1, 4, 16)) | {"config": DictConfig()}
    torch.save(state, tmp_path / "checkpoint_40.pth")
    with refused("DictConfig", "Save the weights alone where the file was made"):
        open_checkpoint(tmp_path / "checkpoint_40.pth", SMALL)


def test_bare_pickle(tmp_path):
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"unet.x": [1.0]}, protocol=2))
    with refused("a.bin"):
        open_checkpoint(tmp_path / "a.bin")


@pytest.mark.parametrize(
    "content, said",
    [
        ([torch.zeros(1)], "holds a list"),
        ({"unet.x": 3}, "entry 'unet.x' is a int"),
        ({3: torch.zeros(1)}, "entry 3 is a Tensor"),
        ({}, "no tensor of these"),
        ({"unet.x": torch.eye(2).to_sparse()}, "tensor unet.x is torch.sparse_coo"),
        ({"unet.x": torch.empty(2, device="meta")}, "tensor unet.x is torch.strided, meta"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_pickle_of_other_things(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pth")
    with refused("a.pth", said):
        open_checkpoint(tmp_path / "a.pth")


def test_cache_that_is_no_tensor(tmp_path, parts):
    folder = write_lavis_folder(tmp_path, parts)
    save({"vectors": torch.zeros(1)}, folder / "ctx_embeddings_cache" / "ctx_embeddings_cache.pt")
    with refused("should hold one tensor, but it holds vectors"):
        open_checkpoint(folder, SMALL)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_program(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-L-14.pt")
    with refused("TorchScript program", "plain weights"):
        open_checkpoint(tmp_path / "ViT-L-14.pt")


def test_compressed_archive(tmp_path):
    """A small zip that would unpack to a large one."""
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    assert (tmp_path / "a.bin").stat().st_size < 20_000
    with refused("not a PyTorch file", "10,000,000"):
        open_checkpoint(tmp_path / "a.bin")


def rewritten_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes in the pickle of a PyTorch archive."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            assert not entry.filename.endswith("data.pkl") or old in data
            target.writestr(entry.filename, data.replace(old, new) if entry.filename.endswith("data.pkl") else data)


def test_storage_that_claims_more_than_the_file(tmp_path):
    """The pickle states 2^31-1 elements where the file has 5000: nothing beyond the file may be touched."""
    torch.save({"unet.x": torch.zeros(5000)}, tmp_path / "a.pth")
    five_thousand, huge = b"M" + struct.pack("<H", 5000), b"J" + struct.pack("<i", 2**31 - 1)
    rewritten_pickle(tmp_path / "a.pth", five_thousand, huge)
    with refused("a.pth", "damaged or incomplete"):
        open_checkpoint(tmp_path / "a.pth")


# Safetensors headers


def crafted(path: Path, header: dict | bytes, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, shape=(2,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header, data, length",
    [
        ({"a": entry(0, 8)}, b"\0" * 8, 2**63),
        ({"a": entry(0, 8)}, b"\0" * 8, 10_000_000_000),
        ({"a": entry(0, 8), "b": entry(0, 8)}, b"\0" * 8, None),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12, None),
        ({"a": entry(0, 8)}, b"\0" * 4, None),
        ({"a": entry(8, 0)}, b"\0" * 8, None),
        ({"a": entry(0, 8, shape=(2**40, 2**40))}, b"\0" * 8, None),
        ({"a": {"dtype": "F32"}}, b"", None),
        (b"\xff\xfe not json", b"", None),
    ],
    ids=[
        "header 2^63",
        "header 10 GB",
        "same bytes twice",
        "overlap",
        "too short",
        "backwards",
        "overflow",
        "bare",
        "json",
    ],
)
def test_crafted_header(tmp_path, header, data, length):
    path = crafted(tmp_path / "a.safetensors", header, data, length)
    with refused("a.safetensors", "damaged or incomplete"):
        open_checkpoint(path)


# This pack's own files


def own_file(tmp_path, vae, **metadata):
    """A file as this pack writes it, with some of its metadata changed."""
    good = {"format": "blipdiffusion", "format_version": "1", "config": SMALL.to_json(), "vocabulary": ""}
    path = tmp_path / "model.safetensors"
    save_file({f"vae.{name}": tensor for name, tensor in vae.items()}, path, metadata=good | metadata)
    return path


def test_file_of_a_newer_version(tmp_path, parts):
    with refused("format version 2", "reads 1", "Update the pack"):
        open_checkpoint(own_file(tmp_path, parts["vae"], format_version="2"))


def test_file_with_a_broken_configuration(tmp_path, parts):
    with refused("not valid JSON", "Convert the checkpoint again"):
        open_checkpoint(own_file(tmp_path, parts["vae"], config="{"))


def test_file_with_broken_warnings_opens(tmp_path, parts):
    assert open_checkpoint(own_file(tmp_path, parts["vae"], warnings="{")).warnings == []


def test_tensors_of_no_known_part(tmp_path, parts):
    path = tmp_path / "model.safetensors"
    save_file({"vae2.x": torch.zeros(1)}, path, metadata={"format": "blipdiffusion", "format_version": "1"})
    with refused("no known part: vae2.x"):
        open_checkpoint(path)


def test_incomplete_part_of_an_own_file(tmp_path, parts):
    checkpoint = open_checkpoint(own_file(tmp_path, dict(list(parts["vae"].items())[:-1])))
    with refused("1 tensor is missing: post_quant_conv.bias"):
        checkpoint.part("vae")
    with refused("no unet", "does not hold it"):
        checkpoint.part("unet")


def test_vocabulary_in_the_file_wins(tmp_path, parts):
    path = tmp_path / "model.safetensors"
    write_single_file(path, {"subject_encoder": parts["subject_encoder"]}, SMALL, VOCABULARY)
    assert open_checkpoint(path).vocabulary == VOCABULARY
