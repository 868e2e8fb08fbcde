"""Read zip files that a stranger made: ``python -m sa1b.hostile_zip FOLDER SEED ROUNDS``.

Each is a sound one with some edits. It has to be refused as BadArchive, or list members that are read right or give
BadArchive. Anything else, a minute of time or a gigabyte of memory included, ends this process.
"""

from __future__ import annotations

import io
import random
import re
import signal
import sys
import zipfile
from pathlib import Path

from llava_zh.errors import BadArchive
from llava_zh.sa1b import store
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import ArchiveIndex, assemble
from llava_zh.sa1b.source import LocalSource

FILES = {
    "images/sa_1.jpg": bytes(range(256)) * 9,
    "images/sa_2.jpg": b"a" * 4000,
    "猫/1.jpg": b"meow" * 50,
    "empty": b"",
}
EXTREMES = [0, 1, 2, 30, 46, 0x7FFFFFFF, 0xFFFF, 0xFFFFFFFE, 0xFFFFFFFF]


def sound(rng: random.Random) -> bytes:
    out = io.BytesIO(rng.choice((b"", b"before")))
    out.seek(0, 2)
    with zipfile.ZipFile(out, "a") as archive:
        for name, data in FILES.items():
            entry = zipfile.ZipInfo(name)
            entry.extra = rng.choice((b"", b"\1\0\x18\0" + b"\xff" * 24, b"\1\0\x18\0" + bytes(24)))
            entry.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
            with archive.open(entry, "w", force_zip64=rng.random() < 0.3) as file:
                file.write(data)
    return out.getvalue()


def hostile(rng: random.Random, data: bytes) -> bytes:
    edited = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 9))):
        places = [match.start() for match in re.finditer(b"PK", edited)]
        pick = rng.random()
        if pick < 0.55 and places:  # in a header
            at = rng.choice(places) + rng.randrange(56)
            width = rng.choice((1, 2, 4, 8))
            edited[at : at + width] = rng.choice(EXTREMES).to_bytes(8, "little")[:width]
        elif pick < 0.75 and edited:
            edited[rng.randrange(len(edited))] ^= 1 << rng.randrange(8)
        elif pick < 0.85:
            del edited[rng.randrange(len(edited) + 1) :]
        elif places:
            start, stop = rng.choice(places), rng.randrange(len(edited) + 1)
            edited[start:start] = edited[min(start, stop) : max(start, stop)][:300]
    return bytes(edited)


def use(path: Path) -> bool:
    source = LocalSource(str(path))
    try:
        kind, scan = store.scan(source, 1)
        index = ArchiveIndex(assemble(kind, scan, source.state()))
    except BadArchive:
        return False
    archive = Archive(source, index)
    for member in index.members():
        try:
            data = archive.read(member)
        except BadArchive:
            continue
        assert len(data) == member.size <= source.size * 1032 + 1024
    return True


def main(folder: Path, seed: int, rounds: int) -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        signal.alarm(60)
    used = 0
    for number in range(rounds):
        rng = random.Random(f"{seed} {number}")
        path = folder / f"{number}.zip"
        path.write_bytes(hostile(rng, sound(rng)))
        try:
            used += use(path)
        except BaseException:
            print(f"seed {seed}, round {number}: {path}", flush=True)
            raise
        path.unlink()
    print(f"{used} of {rounds} could be used")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
