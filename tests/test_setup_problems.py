"""What can be wrong around the developer commands ends in one sentence, never in a traceback."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile

import pytest

from tools import browser, installers, ui
from tools.host import find_host, free_port, front_end_arguments, require_free_port, running_host
from tools.installers import run_installer
from tools.places import PACK_FOLDER, ROOT
from tools.problems import Problem, run_command
from tools.setup import require_python

CLOSED_INDEX = "http://127.0.0.1:9/simple"  # port 9 (discard): nothing listens there


def run_module(*arguments, cwd=ROOT, **environment):
    """Run `python -m ...`; returns exit status and the sentence after "Stopped: "."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd, env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, ended.stderr.strip()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Installers write their log into a folder of this test."""
    monkeypatch.setattr(installers, "CACHE", tmp_path)
    return tmp_path


def test_old_python_is_refused_with_both_versions():
    with pytest.raises(Problem, match=r"needs Python 3\.10 or newer, but .* is Python 3\.9;.*PYTHON="):
        require_python((3, 9, 18, "final", 0))
    require_python((3, 10, 0, "final", 0))


def test_set_up_files_read_before_the_version_check_are_readable_for_python_3_6():
    import ast

    for name in ("__init__", "setup", "problems"):
        ast.parse((ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, message = run_module("tools.ui", str(port), "cpu")
    assert status == 1
    assert message.startswith(f"Stopped: port {port} cannot be used") and "make ui PORT=" in message
    assert f"process {os.getpid()} has it" in message and f"kill {os.getpid()}" in message
    require_free_port(port)


def test_port_that_is_no_number():
    assert run_module("tools.ui", "http", "cpu") == (
        1,
        "Stopped: PORT is 'http', which is no number; for example: make ui PORT=8189",
    )


@pytest.mark.parametrize("arguments, sentence", [
    ((), "PORT is '', which is no number"),
    (("", "cpu"), "PORT is '', which is no number"),
    (("cpu",), "PORT is 'cpu', which is no number"),
    (("99999", "cpu"), "PORT is 99999, but ports go from 1 to 65535"),
    (("9" * 5000, "cpu"), "but ports go from 1 to 65535"),
    (("\u0663", "cpu"), "which is no number"),
    (("8189", "tpu"), "DEVICE is 'tpu', which is none"),
])  # fmt: skip
def test_make_ui_with_arguments_that_are_none(arguments, sentence, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ui", *arguments])
    with pytest.raises(Problem, match=sentence):
        ui.main()


@pytest.mark.parametrize("module, end", [
    (("tools.demo",), signal.SIGKILL), (("tools.demo",), signal.SIGHUP), (("tools.demo",), signal.SIGTERM),
    (("tools.ui", "PORT", "cpu"), signal.SIGKILL), (("tools.ui", "PORT", "cpu"), signal.SIGHUP),
    (("tools.ui", "PORT", "cpu"), signal.SIGINT),
])  # fmt: skip
def test_the_host_ends_with_the_command_whatever_ends_that(tmp_path, module, end):
    """The stand-in for ComfyUI never answers; it holds a connection, which closes when its process is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(120)
        program = (
            "import os, signal, socket, threading\n"
            f"line = socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}))\n"
            "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
            "line.sendall(str(os.getpid()).encode())\n"
            "threading.Event().wait()\n"
        )
        make_comfyui(tmp_path / "ComfyUI", program)
        environment = {**os.environ, "COMFYUI_PATH": str(tmp_path / "ComfyUI")}
        arguments = [str(free_port()) if part == "PORT" else part for part in module]
        with subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as command:  # fmt: skip
            line, _ = listener.accept()
            with line:
                line.settimeout(120)
                assert int(line.recv(100)) != command.pid
                command.send_signal(end)
                assert line.recv(100) == b""
            assert "Traceback" not in command.communicate(timeout=120)[1]


def test_no_network_while_a_fresh_checkout_is_set_up(tmp_path):
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    offline = {
        "PIP_INDEX_URL": CLOSED_INDEX,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": os.devnull,
    }
    status, message = run_module("tools.setup", "demo", cwd=tmp_path, **offline)
    assert status == 1
    assert message.startswith("Stopped: Installing pip and uv failed: the package index could not be reached")
    assert len(message.splitlines()) == 1


def test_no_network_for_uv(cache, monkeypatch):
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--no-cache",
        "--no-config",
        "--default-index",
        CLOSED_INDEX,
    ]
    with pytest.raises(Problem, match="Fetching six failed: the package index could not be reached"):
        run_installer("Fetching six", [*command, "--target", cache / "to", "six"])


@pytest.mark.parametrize("installer", ["pip", "uv pip"])
def test_wrong_checksum(cache, installer):
    wheel = cache / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    lock = cache / "tiny.lock"
    command = [sys.executable, "-m", *installer.split(), "install", "--no-index", "--find-links", cache, "--target"]
    command += [cache / "to", "--require-hashes", "--requirement", lock]

    lock.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(Problem, match="does not have the pinned checksum"):
        run_installer("Installing tiny", command)
    lock.write_text(f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    run_installer("Installing tiny", command)
    assert (cache / "to" / "tiny-1.0.dist-info").is_dir()


def test_other_failure_names_the_last_line_and_the_log(cache):
    command = [sys.executable, "-c", "print('reading'); raise SystemExit('no such option: --speed')"]
    with pytest.raises(
        Problem, match=r"Building failed: exit status 1, no such option: --speed\. Details: .*setup\.log"
    ):
        run_installer("Building", command)
    assert "reading" in (cache / "setup.log").read_text()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full, the device that is always full, is Linux only")
def test_full_disk(cache):
    with pytest.raises(Problem, match="Copying failed: the disk is full"):
        run_installer("Copying", ["dd", "if=/dev/zero", "of=/dev/full", "count=1"])

    def write():
        with open("/dev/full", "w", encoding="utf-8") as full:
            full.write("text")

    with pytest.raises(SystemExit, match="Stopped: the disk is full; free some space"):
        run_command(write)


def make_comfyui(folder, main=""):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text(main, encoding="utf-8")
    return folder


def test_hosts_are_looked_for_in_order(tmp_path):
    chosen = make_comfyui(tmp_path / "chosen")
    around = make_comfyui(tmp_path / "around")
    inside = around / "custom_nodes" / PACK_FOLDER
    assert find_host({"COMFYUI_PATH": str(chosen)}, checkout=inside) == chosen
    assert find_host({}, checkout=inside) == around
    assert find_host({"COMFYUI_PATH": ""}, checkout=tmp_path / "elsewhere").name == "ComfyUI-0.30.0"


def test_comfyui_path_without_a_comfyui(tmp_path):
    with pytest.raises(Problem, match=f"COMFYUI_PATH is {tmp_path}, which is no ComfyUI"):
        find_host({"COMFYUI_PATH": str(tmp_path)})


def test_host_that_ends_while_starting_shows_the_end_of_its_log(tmp_path):
    broken = make_comfyui(tmp_path / "broken", main="raise SystemExit('No module named einops')")
    with pytest.raises(Problem, match=r"(?s)ended by itself \(exit status 1\).*No module named einops"):
        with running_host(tmp_path / "base", host=broken):
            pass


def test_chromium_that_cannot_be_installed(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(browser, "find_chromium", lambda: None)
    monkeypatch.setattr(browser.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(browser.subprocess, "run", lambda command, **options: tried.append(command))
    with pytest.raises(Problem, match="browser tests need Chromium.*could not be installed"):
        browser.install_chromium(tmp_path / "log")
    assert [command[1:] for command in tried] == [["-m", "playwright", "install", "chromium"]], (
        "no apt-get without root"
    )


def test_another_front_end_is_served_on_request(tmp_path):
    (tmp_path / "index.html").touch()
    assert front_end_arguments({}) == []
    assert front_end_arguments({"FRONT_END": str(tmp_path)}) == ["--front-end-root", str(tmp_path)]


def test_a_front_end_that_is_none_is_refused(tmp_path):
    with pytest.raises(Problem, match=r"no index\.html"):
        front_end_arguments({"FRONT_END": str(tmp_path)})
