"""Files of an MS-Diffusion adapter: the published layout, this pack's own, and everything that is neither."""

import json
import re

import pytest
import torch
from ms_fixtures import (
    SMALL,
    random_adapter,
    released_names,
    released_tables,
    sparse_pickle,
    sparse_safetensors,
    with_resampler,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
from blipdiff_impl.blip_diffusion.checkpoints.opening import TOYBOX_FILE
from blipdiff_impl.errors import CheckpointError
from blipdiff_impl.ms_diffusion.checkpoint import convert_adapter, is_adapter, open_adapter, save_adapter
from blipdiff_impl.ms_diffusion.config import RELEASED, AdapterConfig
from tests.fuzzed import cut, flipped, refusals

NUMBERS = 459_739_008  # of the published file, all float32
CONTROLNETS = TOYBOX_FILE.parent / "controlnet"


def refused(*said):
    return pytest.raises(CheckpointError, match="(?s)" + ".*".join(map(re.escape, said)))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """`ms_adapter.bin` in its full size, all zeros, which are not on the disk."""
    return sparse_pickle(tmp_path_factory.mktemp("published") / "ms_adapter.bin", released_tables())


@pytest.fixture
def small(tmp_path):
    """A random adapter and its file."""
    adapter = random_adapter()
    save_adapter(adapter, tmp_path / "small.safetensors", torch.float32)
    return adapter, tmp_path / "small.safetensors"


def test_the_published_file(published):
    opened = open_adapter(published)
    assert opened.config == RELEASED and is_adapter(published)
    infos = opened.infos
    assert {name: info.shape for name, info in infos.items()} == released_names()
    assert {info.dtype for info in infos.values()} == {torch.float32}
    assert sum(torch.Size(info.shape).numel() for info in infos.values()) == NUMBERS


def test_the_published_file_as_a_module(published):
    """Nothing is missing and nothing left over, and the weights stay on the disk."""
    adapter = open_adapter(published).load()
    numbers = {
        part: sum(p.numel() for p in getattr(adapter, part).parameters()) for part in ("image_proj", "ms_adapter")
    }
    assert numbers == {"image_proj": 118_943_616, "ms_adapter": 340_787_200}
    assert sum(numbers.values()) + 8192 == NUMBERS
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in adapter.parameters())


def test_the_published_tensors_as_safetensors(tmp_path):
    opened = open_adapter(sparse_safetensors(tmp_path / "a.safetensors", released_names()))
    assert opened.config == RELEASED and len(opened.load().ms_adapter) == 70


def test_converting_the_published_file(tmp_path, published, capsys):
    """Full size, through the command: 16 bit, the same names, and it says its sizes."""
    path = tmp_path / "adapter.safetensors"
    assert main(["convert", str(published), str(path)]) == 0
    shown = capsys.readouterr().out
    assert "MS-Diffusion adapter" in shown and "118,943,616 numbers" in shown and "340,787,200" in shown
    assert "float16" in shown and "float32" not in shown
    assert path.stat().st_size == pytest.approx(2 * NUMBERS, rel=1e-4)
    opened = open_adapter(path)
    assert opened.config == RELEASED and {name: i.shape for name, i in opened.infos.items()} == released_names()
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "msdiffusion"
    path.unlink()


def test_what_is_written_is_read(small):
    adapter, path = small
    opened = open_adapter(path)
    assert opened.config == SMALL
    again = opened.load().state_dict()
    assert again.keys() == adapter.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in adapter.state_dict().items())


def test_converting_through_the_command(tmp_path, small, capsys):
    adapter, path = small
    half = tmp_path / "half.safetensors"
    assert main(["convert", str(path), str(half)]) == 0
    stored, given = load_file(half), adapter.state_dict()
    assert all(torch.equal(stored[name], value.half()) for name, value in given.items()) and len(stored) == len(given)
    assert main(["convert", str(path), str(half)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(path), str(half), "--dtype", "bfloat16", "--overwrite"]) == 0
    assert {value.dtype for value in load_file(half).values()} == {torch.bfloat16}
    assert open_adapter(half).config == SMALL


def test_options_for_other_checkpoints_are_refused(tmp_path, small, capsys):
    for words in (["convert", str(small[1]), str(tmp_path / "b.safetensors"), "--sizes", "toybox"],
                  ["inspect", str(small[1]), "--stock", "x"]):  # fmt: skip
        assert main(words) == 2
        assert f"leave out {words[-2]}" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()


def test_inspect(small, capsys):
    assert main(["inspect", str(small[1])]) == 0
    shown = capsys.readouterr().out
    assert "MS-Diffusion adapter" in shown and "keys and values" in shown and "dummy" not in shown


def test_commands_still_take_other_checkpoints(capsys):
    assert main(["inspect", "toybox"]) == 0
    assert "subject encoder" in capsys.readouterr().out.replace("_", " ")


def test_dummy_tokens_change_nothing(tmp_path):
    """They are named in the sizes, and read and left aside."""
    import dataclasses

    from blipdiff_impl.ms_diffusion.adapter import MSAdapter

    config = dataclasses.replace(SMALL, dummy_tokens=4)
    adapter = MSAdapter(config)
    path = tmp_path / "a.safetensors"
    save_adapter(adapter, path, torch.float32)
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert tensors["dummy_image_tokens"].shape == (1, 4, 28)
    tensors["dummy_image_tokens"] += 7
    save_file(tensors, tmp_path / "b.safetensors", metadata)
    first, second = (open_adapter(tmp_path / name).load().state_dict() for name in ("a.safetensors", "b.safetensors"))
    assert all(torch.equal(first[name], second[name]) for name in first) and "dummy_image_tokens" not in first


# --- files that are not whole, or something else


@pytest.mark.parametrize("change, said", [
    (lambda names: names.pop("image_proj.latent_norm.bias"), ["1 tensor is missing: image_proj.latent_norm.bias (1280)",
                                                              "download it again"]),
    (lambda names: names.pop("dummy_image_tokens"), ["1 tensor is missing: dummy_image_tokens (1x4x2048)"]),
    (lambda names: [names.pop(f"ms_adapter.{i}.to_k_ip.weight") for i in (1, 139)],
     ["2 tensors are missing: ms_adapter.1.to_k_ip.weight (640x2048), ms_adapter.139.to_k_ip.weight (1280x2048)"]),
    (lambda names: names.update({"ms_adapter.2.to_k_ip.weight": (640, 2048)}),
     ["1 tensor is unexpected: ms_adapter.2.to_k_ip.weight"]),
    (lambda names: names.update({"image_proj.proj_in.weight": (1280, 1280)}),
     ["1 tensor is of another shape: image_proj.proj_in.weight (found 1280x1280, expected 1280x1664)"]),
    (lambda names: names.update({"ms_adapter.9.to_v_ip.weight": (640, 2048)}),
     ["ms_adapter.9.to_v_ip.weight (found 640x2048, expected 1280x2048)"]),
])  # fmt: skip
def test_files_that_are_not_whole(tmp_path, change, said):
    names = released_names()
    change(names)
    path = sparse_safetensors(tmp_path / "a.safetensors", names)
    with refused("MS-Diffusion adapter in", "a.safetensors does not fit", *said):
        open_adapter(path)


def test_types_that_are_no_weights(tmp_path):
    path = sparse_safetensors(tmp_path / "a.safetensors", released_names(), torch.int8)
    with refused("not float32, float16 or bfloat16", "(int8)"):
        open_adapter(path)


IP_ADAPTER = {
    "image_proj": {"latents": (1, 16, 1280), "proj_in.weight": (1280, 1280), "norm_out.weight": (2048,)},
    "ip_adapter": {"1.to_k_ip.weight": (640, 2048), "1.to_v_ip.weight": (640, 2048)},
}


def flat(tables):
    return {f"{table}.{name}": shape for table, shapes in tables.items() for name, shape in shapes.items()}


@pytest.mark.parametrize("make, said", [
    (lambda folder: sparse_pickle(folder / "ip-adapter-plus_sdxl.bin", IP_ADAPTER), "looks like an IP-Adapter"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", flat(IP_ADAPTER)), "looks like an IP-Adapter"),
    (lambda folder: TOYBOX_FILE, "looks like a BLIP-Diffusion checkpoint"),
    (lambda folder: sparse_pickle(folder / "blip_weight.pt", {"query_tokens": (1, 16, 768)}), "a BLIP-Diffusion"),
    (lambda folder: sparse_pickle(folder / "a.pth", {"model": {"unet.conv_in.bias": (320,), "blip.temp": ()}}),
     "a BLIP-Diffusion"),
    (lambda folder: sorted(CONTROLNETS.glob("*.safetensors"))[0], "looks like a ControlNet"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"controlnet_cond_embedding.conv_in.bias": (16,),
                                                                  "down_blocks.0.x": (1,)}), "a ControlNet"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"lora_unet_x.lora_up.weight": (4, 4)}), "a LoRA"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"unet.mid.to_q.lora_A.weight": (4, 4)}), "a LoRA"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"model.diffusion_model.out.2.bias": (4,)}),
     "a checkpoint with a whole Stable Diffusion model"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"vision_model.post_layernorm.bias": (4,)}),
     "a CLIP vision model"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {"x": (4,)}), "tensors are x. Choose ms_adapter.bin"),
    (lambda folder: sparse_safetensors(folder / "a.safetensors", {}), "its tensors are none"),
])  # fmt: skip
def test_other_kinds_are_called_what_they_are(tmp_path, make, said):
    path = make(tmp_path)
    assert not is_adapter(path)
    with refused(path.name, "is no MS-Diffusion adapter:", said):
        open_adapter(path)


def test_blip_diffusions_reader_knows_an_adapter(published):
    with refused("ms_adapter.bin is no BLIP-Diffusion checkpoint", "It looks like an MS-Diffusion adapter"):
        open_checkpoint(published)


def test_an_ip_adapter_on_the_command_line(tmp_path, capsys):
    path = sparse_pickle(tmp_path / "ip-adapter.bin", IP_ADAPTER)
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    assert "It looks like an IP-Adapter" in capsys.readouterr().err


def test_nothing_there(tmp_path):
    (tmp_path / "other.bin").write_bytes(b"x")
    with refused(
        "There is no MS-Diffusion adapter ms_adapter.bin", "Looked for ms_adapter.bin in", "Found there: other.bin"
    ):
        open_adapter(tmp_path / "ms_adapter.bin")
    assert not is_adapter(tmp_path / "ms_adapter.bin") and not is_adapter(tmp_path)
    with refused("is a folder; an MS-Diffusion adapter is one file", "Found there: other.bin"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("content, said", [
    (b"", "is empty"), (b"<!DOCTYPE html>", "is a web page"), (b"version https://git-lfs", "Git LFS pointer"),
    (b"nonsense", "is damaged"),
])  # fmt: skip
def test_downloads_that_failed(tmp_path, content, said):
    (tmp_path / "ms_adapter.bin").write_bytes(content)
    with refused("ms_adapter.bin", said):
        open_adapter(tmp_path / "ms_adapter.bin")


def test_tables_are_one_level_deep(tmp_path):
    endless = {"grounding_latents": torch.zeros(1)}
    endless["self"] = endless
    many = {f"n{i}": endless["grounding_latents"] for i in range(200)}  # one table that is named many times
    for content, said in [
        ({"image_proj": endless}, "entry 'image_proj.self' is a dict"),
        ({"image_proj": {"x": {"y": torch.zeros(1)}}}, "entry 'image_proj.x' is a dict"),
        ({"ms_adapter": {1: torch.zeros(1)}}, "entry 'ms_adapter' is a dict"),
        ({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)}, "holds the tensor 'a.b' twice"),
        ({f"t{i}": many for i in range(120)}, "24,000 tensors"),
    ]:
        torch.save(content, tmp_path / "ms_adapter.bin")
        with refused("ms_adapter.bin", said):
            open_adapter(tmp_path / "ms_adapter.bin")


def test_damaged_files(tmp_path, small):
    """Each is read, or refused with a plain sentence; most damage to the header is noticed."""
    path = tmp_path / "a.safetensors"
    content = small[1].read_bytes()
    header = int.from_bytes(content[:8], "little") + 8

    def read(path):
        return open_adapter(path).load() if is_adapter(path) else open_adapter(path)

    assert refusals(read, path, [content, *flipped(content, 300, 1, header), *cut(content, 40, 2)]) > 250
    tables = {"image_proj": {"grounding_latents": torch.zeros(1, 2)}, "ms_adapter": {"1.to_k_ip.weight": torch.ones(2)}}
    torch.save(tables, tmp_path / "whole.bin")
    damaged = flipped((tmp_path / "whole.bin").read_bytes(), 300, 3)
    assert refusals(read, tmp_path / "b.bin", damaged) == 300  # never of the released sizes


# --- what a file of this pack says of itself


def with_metadata(path, source, **changes):
    with safe_open(source, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, path, {**metadata, **changes})
    return path


def config_with(**changes):
    record = json.loads(SMALL.to_json())
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            record[part][field] = value
        else:
            record[part] = value
    return json.dumps(record)


@pytest.mark.parametrize("changes, said", [
    ({"format_version": "2"}, "format version 2, but this version of the pack reads 1"),
    ({"config": "{"}, "not valid JSON"),
    ({"config": "[]"}, "adapter's configuration should be a JSON object"),
    ({"config": "[" * 5000}, "not valid JSON"),
    ({"config": config_with(colour=3)}, "has fields this version does not know: ['colour']"),
    ({"config": config_with(resampler__depth="2")}, "configuration.resampler.depth should be like 4, but it is '2'"),
    ({"config": config_with(resampler__depth=True)}, "configuration.resampler.depth should be like 4, but it is True"),
    ({"config": config_with(resampler__depth=10**9)}, "resampler.depth is 1000000000; from 1 to 64 is possible"),
    ({"config": config_with(resampler__width=0)}, "resampler.width is 0"),
    ({"config": config_with(resampler__width=2**40)}, "resampler.width is"),
    ({"config": config_with(unet__depths=[0, 1])}, "3 widths and 2 depths"),
    ({"config": config_with(unet__depths=[0, 1, 10**6])}, "unet.depths is 1000000"),
    ({"config": config_with(unet__widths=[1] * 9, unet__depths=[1] * 9)}, "unet levels is 9"),
    ({"config": config_with(resampler__queries=5)}, "image_proj.grounding_latents (found 1x4x32, expected 1x5x32)"),
    ({"config": config_with(unet__middle_depth=3)}, "4 tensors are missing"),
])  # fmt: skip
def test_sizes_that_do_not_fit(tmp_path, small, changes, said):
    path = with_metadata(tmp_path / "changed.safetensors", small[1], **changes)
    if "missing" in said:
        said = "2 tensors are missing: ms_adapter."
    with refused(said):
        open_adapter(path)


def test_sizes_as_json():
    for config in (RELEASED, SMALL, with_resampler(depth=7)):
        assert AdapterConfig.from_json(config.to_json()) == config


def test_weights_that_do_not_survive(tmp_path, small):
    adapter, path = small
    target = tmp_path / "out.safetensors"
    adapter.ms_adapter["3"].to_k_ip.weight[0, 0] = 1e6
    save_adapter(adapter, path, torch.float32, overwrite=True)
    with refused("weight ms_adapter.3.to_k_ip.weight", "as torch.float16; choose a wider type"):
        convert_adapter(path, target)
    convert_adapter(path, target, torch.bfloat16)
    adapter.ms_adapter["3"].to_k_ip.weight[0, 0] = float("nan")
    with refused("weight ms_adapter.3.to_k_ip.weight has numbers that are not finite. Nothing was written"):
        save_adapter(adapter, tmp_path / "third.safetensors", torch.float32)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.safetensors", "small.safetensors"]


def test_a_module_that_tensors_do_not_fit():
    from blipdiff_impl.ms_diffusion.adapter import MSAdapter

    tensors = dict(random_adapter().state_dict())
    tensors["ms_adapter.1.to_k_ip.weight"] = torch.zeros(2, 2)
    del tensors["image_proj.proj_in.bias"]
    with refused("do not fit its sizes: image_proj.proj_in.bias, ms_adapter.1.to_k_ip.weight. Load another file"):
        MSAdapter.from_tensors(SMALL, tensors)
