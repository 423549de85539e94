"""`python -m blipdiff_impl convert` and `inspect`, through the program's own entry."""

import pytest
import torch

from blipdiff_impl.__main__ import main
from blipdiff_impl.blip_diffusion.checkpoints import open_checkpoint
from tests.checkpoint_fixtures import fine_tuned_state, random_parts, write_diffusers_folder


@pytest.fixture
def folder(tmp_path):
    folder = write_diffusers_folder(tmp_path / "model", random_parts())
    (folder / "controlnet").mkdir()
    return folder


def test_convert(tmp_path, folder, capsys):
    destination = tmp_path / "out.safetensors"
    assert main(["convert", str(folder), str(destination), "--dtype", "float16"]) == 0
    assert open_checkpoint(destination).part("vae")["quant_conv.bias"].dtype == torch.float16
    shown = capsys.readouterr().out
    assert "single file" in shown and "float16" in shown and "float32" not in shown
    assert main(["convert", str(folder), str(destination)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(folder), str(destination), "--overwrite"]) == 0


def test_inspect(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "diffusers folder" in shown and "controlnet/ is not part of this method" in shown
    fingerprint = open_checkpoint(folder).fingerprint("unet")[:16]
    assert fingerprint in shown


def test_inspect_compares_with_stock(tmp_path, folder, capsys):
    assert main(["inspect", str(folder), "--stock", str(folder)]) == 0
    assert capsys.readouterr().out.count("stock Stable Diffusion 1.5") == 2


def test_inspect_finds_weights_that_were_changed(tmp_path, folder, capsys):
    path = tmp_path / "out.safetensors"
    main(["convert", str(folder), str(path)])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["inspect", str(path)]) == 1
    assert "the vae are not those that the file says" in capsys.readouterr().out


def test_inspect_of_a_broken_checkpoint(folder, capsys):
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    assert main(["inspect", str(folder)]) == 2
    assert "is empty" in capsys.readouterr().err


def test_a_tuned_file_of_other_than_released_size_is_told_its_sizes(tmp_path, capsys):
    """A LAVIS .pth states no sizes; they come from the model it was tuned from, or from their JSON."""
    parts = random_parts()
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.pth"
    main(["convert", str(write_diffusers_folder(tmp_path / "model", parts)), str(base)])
    torch.save(fine_tuned_state(parts, torch.randn(1, 4, 16)), tuned)
    capsys.readouterr()
    assert main(["inspect", str(tuned)]) == 2
    (tmp_path / "sizes.json").write_text(open_checkpoint(base).config.to_json())
    for sizes in (base, tmp_path / "sizes.json"):
        assert main(["inspect", str(tuned), "--sizes", str(sizes)]) == 0, capsys.readouterr().err
        written = str(tmp_path / f"from_{sizes.suffix[1:]}.safetensors")
        assert main(["convert", str(tuned), written, "--sizes", str(sizes)]) == 0
    assert main(["inspect", str(tuned), "--sizes", str(tmp_path / "nowhere")]) == 2
