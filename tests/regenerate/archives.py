"""Real archives of small pictures, and published rows over them, for runs whose archives come and go."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

NAME = "internvl_sa1b_caption_1m_single_image_zh.jsonl"
IMAGES = 8  # in an archive


def stem(archive: int) -> str:
    return f"sa_{archive:06d}"


def write_archive(root: Path, archive: int) -> None:
    """``ROOT/sa_000007.tar``, plain, with eight pictures."""
    root.mkdir(exist_ok=True)
    with tarfile.open(root / f"{stem(archive)}.part", "w") as tar:
        for image in images_of(archive):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 12), (image * 7 % 256, archive * 5 % 256, 99)).save(buffer, "JPEG")
            member = tarfile.TarInfo(f"./sa_{image}.jpg")
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    (root / f"{stem(archive)}.part").rename(root / f"{stem(archive)}.tar")


def images_of(archive: int) -> range:
    return range(archive * 100 + 1, archive * 100 + 1 + IMAGES)


def write_rows(folder: Path, archives: int, seed: int = 0, below: str | None = None) -> list[str]:
    """A published file with one row an image of so many archives, in no order; the images in that order.

    Args:
        below: A folder that paths name in place of the archive.
    """
    folder.mkdir(exist_ok=True)
    images = [f"{below or stem(archive)}/sa_{image}.jpg" for archive in range(archives) for image in images_of(archive)]
    random.Random(seed).shuffle(images)
    rows: Iterable[dict[str, Any]] = (
        {
            "id": number, "image": image, "width": 16, "height": 12,
            "conversations": [{"from": "human", "value": "<image>\n描述。"}, {"from": "gpt", "value": "旧。"}],
        }
        for number, image in enumerate(images)
    )  # fmt: skip
    (folder / NAME).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return images
