"""Archives with small but real JPEGs, and children to be killed, for the tests of the tools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .conftest import Files, jpeg, masks


def small_files(ids: range) -> Files:
    """Images of a few kilobytes, each followed by its masks."""
    files: Files = {}
    for image in ids:
        files[f"sa_{image}.jpg"] = jpeg(image, (96, 64))
        files[f"sa_{image}.json"] = masks(image)
    return files


def kill_when(code: str, ready: Callable[[], bool], cache: Path) -> list[int]:
    """Run `code` in a process of its own, kill it with SIGKILL once `ready`; gives the pids of its children then."""
    environment = {**os.environ, "LLAVA_ZH_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not ready():
            assert child.poll() is None, child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        grandchildren = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stderr.close()
    return grandchildren


def gone(pid: int) -> bool:
    """Whether a process has ended within some seconds."""
    for _ in range(500):
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
