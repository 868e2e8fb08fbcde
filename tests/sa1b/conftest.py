"""Real JPEGs and masks, and archives of them, as small as they can be and still hold several gzip seek points."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_zh.sa1b import filesystem

Files = dict[str, bytes]


def jpeg(seed: int, size: tuple[int, int] = (480, 360)) -> bytes:
    """A photograph's statistics: smooth shapes under the noise of a camera."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]].astype("f4")
    layers = [
        128 + 60 * np.sin(rng.uniform(0.005, 0.05) * columns + rng.uniform(0.005, 0.05) * rows + rng.uniform(0, 6))
        for _ in range(3)
    ]
    pixels = np.stack(layers, -1) + rng.normal(0, 5, (size[1], size[0], 1))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype("u1")).save(out, "JPEG", quality=90)
    return out.getvalue()


def masks(image: int) -> bytes:
    rng = np.random.default_rng(image)
    counts = [bytes(rng.integers(48, 112, rng.integers(50, 400), dtype="u1")).decode() for _ in range(40)]
    return json.dumps({"image": {"image_id": image}, "annotations": [{"counts": c} for c in counts]}).encode()


def sa1b_files(ids: range) -> Files:
    """Images and masks as Meta's archives hold them, out of order."""
    files: Files = {}
    for image in sorted(ids, key=lambda i: (i * 7919) % 104729):
        files[f"sa_{image}.jpg"] = jpeg(image)
        files[f"sa_{image}.json"] = masks(image)
    return files


def tar_bytes(files: Files, prefix: str = "./", format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def write_archive(path: Path, files: Files, kind: str, prefix: str = "./") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for number, (name, data) in enumerate(files.items()):
                packing = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
                archive.writestr(prefix.removeprefix("./") + name, data, packing)
    else:
        data = tar_bytes(files, prefix)
        path.write_bytes(gzip.compress(data, 6) if kind == "gzip" else data)
    return path


def write_files(folder: Path, files: Files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


@pytest.fixture(scope="session")
def files() -> Files:
    """Forty images of about 80 kB and their masks."""
    return sa1b_files(range(1, 41))


@pytest.fixture(scope="session")
def gzip_tar(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("gzip") / "sa_000000.tar", files, "gzip")


@pytest.fixture(autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, and no root or open archive left over from another test."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LLAVA_ZH_CACHE", str(cache))
    monkeypatch.delenv("SA1B_ROOT", raising=False)
    filesystem._roots.clear()
    filesystem.Sa1bFileSystem.clear_instance_cache()
    yield cache


@pytest.fixture
def make_fs() -> Callable[..., filesystem.Sa1bFileSystem]:
    return lambda *roots, **options: filesystem.Sa1bFileSystem(
        fo=[str(root) for root in roots], skip_instance_cache=True, **options
    )


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user who may not read everything; root becomes such a user meanwhile."""
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has no permissions of this kind")
    if os.geteuid() != 0:
        yield tmp_path
        return
    import_module("huggingface_hub.utils.tqdm")  # by now: that user may not read where Python and its packages are
    folder, nobody = Path(tempfile.mkdtemp()), 65534
    os.chown(folder, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)
