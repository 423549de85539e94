"""The steps of the set-up. Each is stamped with a hash of what it was made from, so that it runs once.

The stamp lies in the folder that it vouches for. It is written last, so an interrupted step runs again.
"""

import fcntl
import hashlib
import importlib.util
import shutil
import sys
import venv
from collections import namedtuple
from contextlib import contextmanager

from tools.browser import find_chromium, install_chromium
from tools.host import find_own_host
from tools.host_source import PINNED_VERSION, host_folder, obtain_host
from tools.installers import run_installer
from tools.places import CACHE, COMFY_CLI, NEW_FRONT_END, REFERENCE, ROOT, TRANSFORMERS_4_50, VENV_PYTHON
from tools.problems import Problem

TOOLS = ROOT / "tools"
VENV = CACHE / "venv"

# done() says whether there is nothing to do, work() does it.
Step = namedtuple("Step", "title done work")


def set_up(purpose):
    """Run the steps that `purpose` ("demo", "archive", "test" or "old-host") needs and that are not done yet."""
    steps = STEPS[purpose]
    if all(step.done() for step in steps):
        return
    CACHE.mkdir(exist_ok=True)
    with _only_one():
        for number, step in enumerate(steps, start=1):
            if not step.done():
                print(f"[{number}/{len(steps)}] {step.title}", flush=True)
                step.work()


@contextmanager
def _only_one():
    """Wait for a set-up of this checkout that another command has started."""
    with (CACHE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up of this checkout is running; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Stamp:
    """Remembers in `folder` that it was filled from a lock file, and whether filling it was interrupted."""

    def __init__(self, folder, lock):
        self.path = folder / f".{lock.stem}.stamp"
        self.lock = lock

    def is_current(self):
        return self._read() == self._wanted()

    def was_interrupted(self):
        return self._read() == "started"

    def start(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("started", encoding="utf-8")

    def finish(self):
        self.path.write_text(self._wanted(), encoding="utf-8")

    def _read(self):
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def _wanted(self):
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()


def _venv_step():
    stamp = Stamp(VENV, TOOLS / "bootstrap.lock")
    return Step(
        "Virtual environment in .cache/venv",
        done=lambda: VENV_PYTHON.exists() and stamp.is_current(),
        work=lambda: _make_venv(stamp, clear=not VENV_PYTHON.exists() or stamp.was_interrupted()),
    )


def _make_venv(stamp, clear):
    """Make the virtual environment, empty if `clear`, with pip and uv inside."""
    if importlib.util.find_spec("pip") is None:
        raise Problem(f"{sys.executable} has no pip; install it, on Debian and Ubuntu as the package python3-pip.")
    if clear:
        venv.create(VENV, clear=True, symlinks=True)
    stamp.start()
    # The machine's own pip installs into the new environment: Debian ships Python without `ensurepip`.
    packages = next((VENV / "lib").glob("python3.*")) / "site-packages"
    run_installer(
        "Installing pip and uv",
        [
            sys.executable, "-m", "pip", "install", "--upgrade", "--target", packages,
            "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", stamp.lock,
        ],
    )  # fmt: skip
    stamp.finish()


def _venv_packages_step():
    def empty():
        _make_venv(Stamp(VENV, TOOLS / "bootstrap.lock"), clear=True)

    title = "Packages of the host and of this project (several gigabytes)"
    return _packages_step(title, TOOLS / "requirements.lock", VENV, empty, ["--python", VENV_PYTHON])


def _extra_step(title, lock):
    """More packages in the virtual environment. After an interruption they are all installed again."""
    return _packages_step(title, lock, VENV, lambda: None, ["--python", VENV_PYTHON, "--reinstall"])


def _target_step(title, lock, folder):
    """Packages in a folder beside the virtual environment, for tests that put it first on PYTHONPATH."""
    target = ["--python", VENV_PYTHON, "--target", folder, "--no-deps"]
    return _packages_step(title, lock, folder, lambda: shutil.rmtree(folder), target)


def _packages_step(title, lock, folder, empty, destination):
    """Install a lock file with uv. `empty()` makes a fresh folder after an interruption: a package may lie there half
    copied, which uv would take for installed."""
    stamp = Stamp(folder, lock)

    def work():
        if stamp.was_interrupted():
            empty()
        stamp.start()
        run_installer(
            f"Installing the packages of tools/{lock.name}",
            [VENV_PYTHON, "-m", "uv", "pip", "install", *destination, "--require-hashes", "--requirements", lock],
        )
        stamp.finish()

    return Step(title, stamp.is_current, work)


def _host_step(version):
    folder = host_folder(version)
    return Step(f"ComfyUI {version}", folder.is_dir, lambda: obtain_host(version))


def _own_or_pinned_host_step():
    pinned = _host_step(PINNED_VERSION)
    return pinned._replace(done=lambda: find_own_host() is not None or pinned.done())


def _new_front_end_step():
    """Fetched anew each time: nobody can pin what is newest."""
    package = "comfyui-frontend-package"
    command = [
        VENV_PYTHON, "-m", "uv", "pip", "install", "--python", VENV_PYTHON, "--target", NEW_FRONT_END, "--no-deps",
        "--upgrade", "--refresh-package", package, package,
    ]  # fmt: skip
    return Step(
        "The newest front end", lambda: False, lambda: run_installer("Installing the newest front end", command)
    )


_DEMO = (
    _venv_step(),
    _venv_packages_step(),
    _own_or_pinned_host_step(),
)
# With nothing that other processes of this environment might be importing: --no-deps.
_PLOTS = _packages_step(
    "Matplotlib", TOOLS / "plots.lock", VENV, lambda: None, ["--python", VENV_PYTHON, "--no-deps", "--reinstall"]
)
_COMFY_CLI = _target_step("comfy-cli", TOOLS / "comfy-cli.lock", COMFY_CLI)
STEPS = {
    "demo": _DEMO,
    "archive": (*_DEMO, _COMFY_CLI),
    "test": (
        *_DEMO,
        _COMFY_CLI,
        _extra_step("Ray Data", TOOLS / "ray.lock"),
        _PLOTS,
        _target_step("Reference implementation (diffusers 0.33.1)", TOOLS / "reference.lock", REFERENCE),
        _target_step("transformers 4.50", TOOLS / "transformers-4.50.lock", TRANSFORMERS_4_50),
        Step("Chromium", find_chromium, lambda: install_chromium(CACHE / "setup.log")),
    ),
    "headline": (*_DEMO, _PLOTS),
    "new-front-end": (*_DEMO, _new_front_end_step()),
    "old-host": (*_DEMO, _host_step("0.16.3")),
}
