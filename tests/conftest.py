"""What all tests share: a home of their own for every cache, no token and no progress bar, and the demo's files."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Whoever starts the tests in the background may have had SIGINT ignored, which all that they start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test module imports `datasets` or a hub client: they read these once. Subprocesses inherit them.
_HOME = tempfile.mkdtemp(prefix="llava-zh-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "SA1B_ROOT", "LLAVA_ZH_SOURCE"):
    os.environ.pop(_name, None)
for _name in ("HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "MODELSCOPE_ENDPOINT"):
    os.environ.pop(_name, None)
os.environ |= {
    "HF_HOME": f"{_HOME}/huggingface",
    "HF_DATASETS_CACHE": f"{_HOME}/datasets",
    "LLAVA_ZH_CACHE": f"{_HOME}/llava-zh",
    "XDG_CACHE_HOME": f"{_HOME}/xdg",
    "MODELSCOPE_CACHE": f"{_HOME}/modelscope",
    "MODELSCOPE_HOME": f"{_HOME}/modelscope-home",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}

from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402

from llava_zh.catalog import registry  # noqa: E402
from llava_zh.demo import DemoPaths, write_demo  # noqa: E402

# Two cores may be shared by many; how long an example takes says nothing. The usual run draws the same examples every
# time, so that it depends on no luck; LLAVA_ZH_HUNT=1 draws new ones, many, and prints what they find to be pinned.
settings.register_profile("llava-zh", deadline=None, max_examples=100, derandomize=True, database=None)
settings.register_profile("hunt", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("hunt" if os.environ.get("LLAVA_ZH_HUNT") else "llava-zh")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    """The miniature of both datasets, drawn once for all of pytest-xdist's workers. Not to be written to."""
    base = tmp_path_factory.getbasetemp()
    folder: Path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    with FileLock(f"{folder}.lock"):
        return write_demo(folder)


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    """What a test registers is known to it alone."""
    kept = [(known, dict(known)) for known in (registry._registered, registry._origins, registry._scripts)]
    yield
    for known, before in kept:
        known.clear()
        known.update(before)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """A file's bytes are called by their argument: they may hold the time, and workers must call a test the same."""
    return argname if isinstance(val, bytes) and len(val) > 32 else None
