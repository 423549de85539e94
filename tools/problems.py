"""One clear sentence instead of a traceback: how every developer command ends when something outside it is wrong."""

import errno
import signal
import sys

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Problem(Exception):
    """Ends a command; its text is the whole message: what is wrong, with the value, and what to do."""


def run_command(main):
    """Call `main()`; print what was wrong as one sentence and exit with status 1.

    With 130 after Ctrl-C, 143 after a TERM, 129 when the terminal was closed.
    """
    signal.signal(signal.SIGTERM, _stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, _stop)
    try:
        main()
    except Problem as problem:
        sys.exit(f"\nStopped: {problem}")
    except MemoryError:
        sys.exit("\nStopped: there is not enough memory; close other programs, or ask for less at once.")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in DISK_FULL:
            where = f" while writing {error.filename}" if error.filename else ""
            sys.exit(f"\nStopped: the disk is full{where}; free some space and run the same command again.")
        sys.exit(f"\nStopped: {error.strerror or error}{where}.")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_of_the_package(error):
            raise
        sys.exit(f"\nStopped: {error}")


def _is_of_the_package(error):
    """Whether it is a sentence of the package itself, which the set-up runs without."""
    errors = sys.modules.get("blipdiff_impl.errors")
    return errors is not None and isinstance(error, errors.SubjectError)


def _stop(signal_number, frame):
    """Turn a TERM or a HUP into an ordinary exit, so that `finally` and `with` blocks stop what they started."""
    sys.exit(128 + signal_number)
