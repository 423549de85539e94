"""One clear sentence instead of a traceback: how every developer command ends when something outside it is wrong."""

import errno
import signal
import sys

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Problem(Exception):
    """Ends a command; its text is the whole message: what is wrong, with the value, and what to do."""


def run_command(main):
    """Call `main()`; print a Problem as its sentence and exit with status 1, 130 after Ctrl-C, 143 after a TERM."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        main()
    except Problem as problem:
        sys.exit(f"\nStopped: {problem}")
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        sys.exit(f"\nStopped: the disk is full{where}; free some space and run the same command again.")
    except KeyboardInterrupt:
        sys.exit(130)


def _stop(signal_number, frame):
    """Turn a TERM into an ordinary exit, so that `finally` and `with` blocks stop the processes they started."""
    sys.exit(143)
