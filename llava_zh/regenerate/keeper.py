"""Runs a command until standard input closes, then ends it and everything it started.

Started by :mod:`llava_zh.regenerate.serve` as a script of its own, so it imports nothing but the standard library.
Whoever holds the other end of the pipe may be killed: the pipe closes all the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

#: Seconds between asking the command to end and ending it.
GRACE = 10.0


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)


def _end(child: subprocess.Popen[bytes]) -> None:
    _signal(child, signal.SIGTERM)
    if hasattr(signal, "SIGCONT"):
        _signal(child, signal.SIGCONT)  # what was stopped cannot end before it goes on
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    _signal(child, getattr(signal, "SIGKILL", signal.SIGTERM))


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _end(child)


def main() -> None:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
    code = child.wait()
    _end(child)  # processes that it started and left behind
    os._exit(code & 0xFF)  # the thread still waits for input, which an ordinary exit would wait for in turn


if __name__ == "__main__":
    main()
