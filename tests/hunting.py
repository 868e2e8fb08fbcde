"""Wide hunts for faults: property tests and fuzzers that the quick run does on the same few examples each time.

``python tests/hunting.py 60`` runs each of them again and again with new examples, for 60 s each, two at a time, and
prints what they find. What is found is pinned in the test by ``@example``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

WIDER = 40  # times as many examples in a real hunt


def hunt(examples: int) -> Callable[[Any], Any]:
    """Marks a Hypothesis test (above its ``@given``) as a hunt that does this many examples in the quick run."""
    many = examples * WIDER if os.environ.get("LLAVA_ZH_HUNT") else examples

    def mark(test: Any) -> Any:
        return pytest.mark.hunt(settings(max_examples=many)(test))

    return mark


def _hunts() -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "hunt", "-p", "no:randomly", "tests"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if "::" in line]


def _run(test: str, seconds: float) -> str:
    """The output of the first run that failed, or nothing."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed = str(random.randrange(1 << 32))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", f"--hypothesis-seed={seed}", test]
        # One run may be longer than the hunt; it is ended then, and what it had not found by that time counts as none.
        left = max(end - time.monotonic(), 1) + 30
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=left,
                env={**os.environ, "LLAVA_ZH_HUNT": "1"},
            )
        except subprocess.TimeoutExpired:
            return ""
        if done.returncode:
            return f"=== {test} (seed {seed})\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
    return ""


def main(seconds: float) -> int:
    hunts = _hunts()
    with ThreadPoolExecutor(2) as pool:
        found = 0
        for text in pool.map(lambda test: _run(test, seconds), hunts):
            if text:  # at once, for whoever ends this early
                found += 1
                print(text, flush=True)
    print(f"{len(hunts) - found} passed, {found} failed")
    return 1 if found or not hunts else 0


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
