"""Find the real ComfyUI and run it with this checkout as its only custom node.

The host writes nothing into its own folder: models, inputs, outputs and user settings go to the base folder that is
passed in. Talking to a running host is the business of `tools/client.py`.
"""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tools.host_source import PINNED_VERSION, host_folder
from tools.places import PACK_FOLDER, ROOT, VENV_PYTHON
from tools.problems import Problem

STARTUP_SECONDS = 600  # it takes 10 s on two idle cores
LOG_LINES_SHOWN = 15
COMMAND_LETTERS = 120
LEASH = Path(__file__).parent / "leash.py"


def find_host(environ=os.environ, checkout=ROOT):
    """Folder of the ComfyUI to use: one of the user's own (find_own_host), else the pinned one.

    Raises Problem when the pinned host is needed and has not been set up.
    """
    host = find_own_host(environ, checkout) or host_folder(PINNED_VERSION)
    if not _is_comfyui(host):
        raise Problem(f"there is no ComfyUI at {host}; `make demo` or `make test` sets it up.")
    return host


def find_own_host(environ=os.environ, checkout=ROOT):
    """Folder of the ComfyUI that COMFYUI_PATH names, else of the one around this checkout, else None.

    Raises Problem when COMFYUI_PATH names no ComfyUI.
    """
    if chosen := environ.get("COMFYUI_PATH"):
        if not _is_comfyui(Path(chosen)):
            raise Problem(
                f"COMFYUI_PATH is {chosen}, which is no ComfyUI: it has no main.py with a comfy folder beside."
            )
        return Path(chosen).resolve()
    around = checkout.parent.parent
    return around if checkout.parent.name == "custom_nodes" and _is_comfyui(around) else None


def _is_comfyui(folder):
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def host_python(host):
    """The interpreter for a host: a ComfyUI of one's own brings its virtual environment, the pinned one uses ours."""
    candidates = [host / name / "bin" / "python" for name in (".venv", "venv")]
    return next((python for python in candidates if python.exists()), VENV_PYTHON)


def free_port():
    """A TCP port on the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_free_port(port):
    """Raise Problem when something listens on `port` already, or may not listen on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise Problem(
                f"port {port} cannot be used ({error}){holder_of(port)}; or choose another one, for example "
                f"`make ui PORT={free_port()}`."
            ) from error


def holder_of(port):
    """Which process listens on a port and how to end it, or how to find that out, as the rest of a sentence."""
    import psutil

    try:
        listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        pids = {one.pid for one in listening if one.laddr.port == port} - {None}
        for pid in pids:
            command = " ".join(" ".join(psutil.Process(pid).cmdline()).split())[:COMMAND_LETTERS]
            return f": process {pid} has it ({command}); end that with `kill {pid}`"
    except (psutil.Error, OSError, RuntimeError):  # macOS shows other processes to root only
        pass
    find = f"netstat -ano | findstr :{port}" if os.name == "nt" else f"lsof -i :{port}"
    return f"; `{find}` shows which process has it, if one has"


class RunningHost:
    """A ComfyUI server process: its address, its folders and its log."""

    def __init__(self, process, port, base_dir, log_path):
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.base_dir = base_dir
        self.input_dir = base_dir / "input"
        self.output_dir = base_dir / "output"
        self.log_path = log_path

    def log(self):
        """Everything the host has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def require_alive(self):
        """Raise Problem with the end of the log when the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise Problem(
                f"ComfyUI ended by itself (exit status {status}). The end of {self.log_path}:\n{self._tail()}"
            )

    def stop(self):
        """Ask the server to end, insist after ten seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def wait_until_ready(self, seconds=STARTUP_SECONDS):
        deadline = time.monotonic() + seconds
        while not self._answers():
            self.require_alive()
            if time.monotonic() > deadline:
                raise Problem(f"ComfyUI did not answer within {seconds} s. The end of {self.log_path}:\n{self._tail()}")
            time.sleep(0.2)

    def _answers(self):
        try:
            with open_url(f"{self.url}/system_stats", timeout=5):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def _tail(self):
        return "\n".join(self.log().splitlines()[-LOG_LINES_SHOWN:])


def open_url(request, timeout=60):
    """`urlopen` for the host on the loopback interface, past any proxy of the machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)


@contextmanager
def running_host(base_dir, host=None, port=None, pack=ROOT, device="cpu", arguments=()):
    """Run ComfyUI while the block lasts; yields a RunningHost that answers requests.

    base_dir: folder for models, input, output, custom_nodes and user files; made if absent.
    host: ComfyUI folder (default: find_host()); port: default any free one; pack: folder that is linked into
    custom_nodes, or None for a host without packs; device: "cpu" or "gpu"; arguments: more for main.py.
    """
    base_dir = Path(base_dir).resolve()
    _prepare_base(base_dir, pack)
    arguments = [*front_end_arguments(), *arguments]
    server = _start(base_dir, host or find_host(), port or free_port(), device, arguments)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def front_end_arguments(environ=os.environ):
    """What makes the host serve the front end in the folder that FRONT_END names, rather than its own.

    Raises Problem when there is none.
    """
    chosen = environ.get("FRONT_END")
    if not chosen:
        return []
    if not (Path(chosen) / "index.html").is_file():
        raise Problem(f"FRONT_END is {chosen}, which has no index.html: it is no front end of ComfyUI.")
    return ["--front-end-root", str(Path(chosen).resolve())]


def _prepare_base(base_dir, pack):
    for name in ("custom_nodes", "input", "output", "models", "user"):
        (base_dir / name).mkdir(parents=True, exist_ok=True)
    link = base_dir / "custom_nodes" / PACK_FOLDER
    if link.is_symlink():
        link.unlink()
    if pack is not None:
        link.symlink_to(pack, target_is_directory=True)


def _start(base_dir, host, port, device, arguments):
    log_path = base_dir / "host.log"
    command = [
        str(host_python(host)), str(LEASH), str(host / "main.py"),
        *(["--cpu"] if device == "cpu" else []),
        "--port", str(port),
        "--base-directory", str(base_dir),
        "--database-url", "sqlite:///:memory:",
        "--disable-auto-launch",
        "--disable-api-nodes",
        *arguments,
    ]  # fmt: skip
    with log_path.open("wb") as log:
        # A session of its own: Ctrl-C in the terminal reaches only the command, which then stops the host in order. The
        # pipe is its leash: it closes with this process, and the host ends.
        process = subprocess.Popen(
            command, cwd=base_dir, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    return RunningHost(process, port, base_dir, log_path)
