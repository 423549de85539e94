"""Which checkpoints the loader offers, and the pictures that the example workflows need."""

import os

import pytest
from tiny_model import write_tiny_checkpoint


@pytest.fixture
def modules(comfy):
    return {"folders": comfy.module("nodes.host.folders"), "examples": comfy.module("nodes.host.examples")}


@pytest.fixture
def roots(comfy, modules, monkeypatch, tmp_path):
    """Two empty model folders in place of the real ones."""
    folders = [tmp_path / "models" / "blipdiffusion", tmp_path / "disk two"]
    for folder in folders:
        folder.mkdir(parents=True)
    registered = comfy.folder_paths.folder_names_and_paths
    monkeypatch.setitem(registered, "blipdiffusion", ([str(f) for f in folders], set()))
    return folders


def test_files_and_folders_of_all_model_folders_are_listed(modules, roots):
    first, second = roots
    (first / "a.safetensors").touch()
    (first / "notes.txt").touch()
    (first / ".hidden.safetensors").touch()
    (second / "B.pth").touch()
    (second / "deep" / "er").mkdir(parents=True)
    (second / "deep" / "er" / "c.safetensors").touch()
    (first / "hub").mkdir()
    (first / "hub" / "model_index.json").touch()
    (first / "hub" / "unet").mkdir()
    (first / "hub" / "unet" / "diffusion_pytorch_model.safetensors").touch()
    (second / "lavis" / "blip_model").mkdir(parents=True)
    names = modules["folders"].model_names()
    assert names == [modules["folders"].TOYBOX, "a.safetensors", "B.pth", "deep/er/c.safetensors", "hub", "lavis"]
    assert modules["folders"].model_path("deep/er/c.safetensors") == str(second / "deep" / "er" / "c.safetensors")


def test_a_folder_that_cannot_be_listed_is_left_out_and_logged(modules, roots, caplog, monkeypatch):
    """Simulated, because the superuser may read every folder."""
    (roots[0] / "a.safetensors").touch()
    (roots[1] / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if not isinstance(path, int) and os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(modules["folders"].os, "scandir", refuse)
    assert modules["folders"].model_names()[1:] == ["a.safetensors"]
    modules["folders"].model_names()  # the host asks often; the log is told once
    assert len([line for line in caplog.messages if "closed" in line and "Permission denied" in line]) == 1


def test_a_loop_of_links_ends(modules, roots):
    (roots[0] / "a.safetensors").touch()
    (roots[0] / "loop").symlink_to(roots[0], target_is_directory=True)
    names = modules["folders"].model_names()
    assert "a.safetensors" in names and len(names) < 10


def test_a_missing_checkpoint_tells_the_state_of_each_folder(modules, roots, monkeypatch):
    first, second = roots
    (first / "a.safetensors").touch()
    second.rmdir()
    with pytest.raises(ValueError, match=rf"'b'.*{first} and in {second} \(there is no such folder\).*a.safetensors"):
        modules["folders"].model_path("b")
    monkeypatch.setattr(modules["folders"].os, "access", lambda path, mode: path != first)
    with pytest.raises(ValueError, match=rf"{first} \(which may not be read"):
        modules["folders"].model_path("b")


def test_missing_model_folders_are_no_error(modules, roots):
    for folder in roots:
        folder.rmdir()
    assert modules["folders"].model_names() == [modules["folders"].TOYBOX]


def test_a_link_to_another_disk_is_followed(modules, roots, tmp_path):
    write_tiny_checkpoint(tmp_path / "elsewhere.safetensors")
    (roots[0] / "linked.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    assert modules["folders"].model_path("linked.safetensors") == str(roots[0] / "linked.safetensors")


def test_registering_keeps_folders_of_the_user(comfy, modules, monkeypatch, tmp_path):
    own = str(tmp_path / "from extra_model_paths")
    registered = comfy.folder_paths.folder_names_and_paths
    monkeypatch.setitem(registered, "blipdiffusion", ([own], set()))
    modules["folders"].register()
    modules["folders"].register()
    assert registered["blipdiffusion"][0] == [own, os.path.join(comfy.folder_paths.models_dir, "blipdiffusion")]


def test_example_pictures_are_offered_once_and_never_overwrite(comfy, modules, monkeypatch, tmp_path):
    monkeypatch.setattr(comfy.folder_paths, "get_input_directory", lambda: str(tmp_path))
    source = modules["examples"].PICTURES
    pictures = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    assert pictures and all(name.startswith("blipdiffusion_") for name in pictures)
    mine, inside = "blipdiffusion_house.png", pictures[0]
    assert inside.startswith("blipdiffusion_album/")
    (tmp_path / mine).write_bytes(b"mine")
    for _ in range(2):
        modules["examples"].offer_pictures()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == pictures
    assert (tmp_path / mine).read_bytes() == b"mine"
    assert (tmp_path / inside).read_bytes() == (source / inside).read_bytes()


def test_a_full_disk_leaves_no_half_picture(comfy, modules, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(comfy.folder_paths, "get_input_directory", lambda: str(tmp_path))

    def half(source, destination):
        destination.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modules["examples"].shutil, "copyfile", half)
    modules["examples"].offer_pictures()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "No space left" in caplog.text
