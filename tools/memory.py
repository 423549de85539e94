"""How much memory this process has taken at most (Linux)."""

from pathlib import Path


def peak_megabytes() -> float:
    """The largest resident set of this program so far, in MB (Linux).

    Not `ru_maxrss`: that survives `exec`, so a child started by a large process reports its parent's size.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024


def forget_peak() -> None:
    """Begin anew: the peak so far is what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
