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
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    _signal(child, getattr(signal, "SIGKILL", signal.SIGTERM))


def _end_with_input(child: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    _end(child)


def main() -> int:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
    code = child.wait()
    _end(child)  # processes that it started and left behind
    return code


if __name__ == "__main__":
    sys.exit(main())
