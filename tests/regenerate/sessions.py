"""Sessions of a run in processes of their own that can be killed, each forked off one that has imported everything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_FORKING = """
import json, os, sys, traceback
import llava_zh.builders.internvl_sa1b_caption, llava_zh.regenerate.dataset_rows, llava_zh.regenerate.selection
import aiohttp, datasets, pyarrow.json, pyarrow.compute, numpy, PIL.Image, PIL.JpegImagePlugin, pybase64
from llava_zh.regenerate import regenerate
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            given = json.loads(line)
            regenerate("internvl-sa-1b-caption", "single_zh", **given)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Sessions:
    """Runs sessions one after the other; a context manager."""

    def __enter__(self) -> Sessions:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, kill_when: Callable[[], bool] | None = None, **given: Any) -> int | None:
        """Run a session to its end: its exit status; or until `kill_when`, then None (if it had not ended by then)."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        child = int(self._read())
        if kill_when is not None:
            while not kill_when() and os.path.exists(f"/proc/{child}/stat"):  # noqa: PTH110 (a race with its end)
                with open(f"/proc/{child}/stat") as stat:
                    if stat.read().rpartition(") ")[2].startswith("Z"):
                        break
                time.sleep(0.001)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        status = int(self._read())
        return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
