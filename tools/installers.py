"""Run pip, uv and other installers: progress on the terminal, everything in a log, failures as one sentence."""

import os
import subprocess

from tools.places import CACHE
from tools.problems import Problem

PROGRESS = ("Building", "Downloaded", "Downloading", "Installed", "Prepared", "Resolved")

# What installers print for the things that a person can mend, most certain first.
SIGNS = (
    (
        ("No space left on device", "os error 28", "Disk quota exceeded"),
        "the disk is full; free some space and run the same command again",
    ),
    (
        ("Hash mismatch", "DO NOT MATCH THE HASHES"),
        "a downloaded file does not have the pinned checksum, so it was not installed; the package index or a proxy "
        "served something else than the file that was tested",
    ),
    (
        (
            "(from versions: none)",  # what pip says in the end when no index answers
            "Connection refused",
            "Could not resolve",
            "Failed to establish a new connection",
            "Network is unreachable",
            "client error (Connect)",
            "dns error",
            "error sending request",
            "name resolution",
            "timed out",
        ),
        "the package index could not be reached; check the network (or the proxy or index settings of pip) and run the "
        "same command again, it goes on where it stopped",
    ),
)


def run_installer(doing, command):
    """Run one installer to its end, showing its lines of progress; `doing` says what for ("installing uv").

    Raises Problem with a sentence when it fails. The whole output goes to the end of `.cache/setup.log`.
    """
    log_path = CACHE / "setup.log"
    output = []
    with log_path.open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"\n$ {' '.join(map(str, command))}\n")
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=_environment(), text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        with process:
            for line in process.stdout:
                log.write(line)
                output.append(line.strip())
                if output[-1].startswith(PROGRESS):
                    print("     ", output[-1], flush=True)
    if process.returncode:
        raise Problem(f"{doing} failed: {_reason(output, process.returncode)}. Details: {log_path}")


def _reason(output, status):
    text = "\n".join(output)
    for signs, sentence in SIGNS:
        if any(sign in text for sign in signs):
            return sentence
    last = next(filter(None, reversed(output)), "no output")
    return f"exit status {status}, {last}".rstrip(".")


def _environment():
    """The caller's environment with what pip is told (index, certificates) also told to uv, in uv's words."""
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_USER": "0",
        "PYTHONUNBUFFERED": "1",
    }
    for pip_name, uv_name in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")):
        if pip_name in environment:
            environment.setdefault(uv_name, environment[pip_name])
    environment.setdefault("UV_HTTP_TIMEOUT", "180")  # seconds without a byte; the largest file has over 500 MB
    return environment
