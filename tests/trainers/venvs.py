"""Virtual environments with the real trainers, one each: their pins of `datasets` and `transformers` do not agree.
The type checkers of those who use the library have one too.

    python tests/trainers/venvs.py trl ms-swift llama-factory    # make them, or find them made

They lie in ``.ci/venvs`` (``LLAVA_ZH_VENVS`` names another folder) and are made anew when what is written here changes.
PyTorch comes first, by pip; ``LLAVA_ZH_TORCH`` may hold other arguments for ``pip install``, such as
``torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu``, for where the index gives the build for CUDA.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"
PACKAGES = {
    "trl": ["trl==1.16.0", "torchdata"],
    "ms-swift": ["ms-swift==4.6.0"],
    "llama-factory": ["llamafactory==0.9.5"],
    "type-checkers": ["basedpyright==1.40.2", "mypy==2.4.1"],
}
# They look at installed packages and run none of them.
WITHOUT_TORCH = {"type-checkers"}
# Their builds are for another PyTorch, and importing transformers beside them fails.
REMOVED = ["torchvision", "torchaudio"]


def folder_of(name: str) -> Path:
    """Where the environment for `name` is or will be."""
    return Path(os.environ.get("LLAVA_ZH_VENVS", ROOT / ".ci" / "venvs")) / name


def python_of(name: str) -> Path:
    """The Python of the environment for `name`, which is made if need be; this library is installed in it, editable."""
    folder = folder_of(name)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    torch = os.environ.get("LLAVA_ZH_TORCH", TORCH).split()
    recipe = [sys.version, torch, PACKAGES[name], (ROOT / "pyproject.toml").read_text("utf-8")]
    mark, digest = folder / "recipe", hashlib.sha256(json.dumps(recipe).encode()).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", folder)
    if name not in WITHOUT_TORCH:
        _run(python, "-m", "pip", "install", "-q", *torch)
    install = [_uv(), "pip", "install", "-q", "--python", python] if _uv() else [python, "-m", "pip", "install", "-q"]
    _run(*install, *PACKAGES[name], "-e", ROOT)
    _run(python, "-m", "pip", "uninstall", "-q", "-y", *REMOVED)
    mark.write_text(digest)
    return python


def _uv() -> str | None:
    return shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, cwd=ROOT)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or PACKAGES:
        print(python_of(wanted))
