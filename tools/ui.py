"""`make ui`: ComfyUI with its browser UI and this pack, until Ctrl-C. Arguments: port, then "cpu" or "gpu"."""

import sys

from tools.host import require_free_port, running_host
from tools.places import CACHE
from tools.problems import Problem, run_command


def main():
    """Run the host in the foreground."""
    port, device = [*sys.argv[1:], "", ""][:2]
    if not (port.isascii() and port.isdigit()):
        raise Problem(f"PORT is {port!r}, which is no number; for example: make ui PORT=8189")
    if not 0 < int(port[:6]) < 65536:
        raise Problem(f"PORT is {port[:20]}, but ports go from 1 to 65535; for example: make ui PORT=8189")
    if device not in ("cpu", "gpu"):
        raise Problem(f"DEVICE is {device!r}, which is none; it is cpu or gpu, for example: make ui DEVICE=gpu")
    require_free_port(int(port))
    print("Starting ComfyUI ...", flush=True)
    with running_host(CACHE / "ui", port=int(port), device=device) as host:
        print(f"ComfyUI with this pack: {host.url}   (Ctrl-C ends it; its log is {host.log_path})", flush=True)
        try:
            host.process.wait()
        except KeyboardInterrupt:
            return
        host.require_alive()


if __name__ == "__main__":
    run_command(main)
