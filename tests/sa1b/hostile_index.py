"""Use indexes of an archive that a stranger wrote: ``python -m sa1b.hostile_index ARCHIVE SEED ROUNDS``.

Each is the archive's own with some edits and a checksum that fits, or with bytes changed behind the checksum's back.
It has to be refused as BadIndex, or be of use: every look-up ends, every read gives as many bytes as promised or
BadArchive. Anything else, a minute of time or a gigabyte of memory included, ends this process.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from typing import Any

import numpy as np
from isal import isal_zlib

from llava_zh.errors import BadArchive, BadIndex
from llava_zh.sa1b import store
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.index import ArchiveIndex, assemble
from llava_zh.sa1b.index_file import ARRAYS, is_name
from llava_zh.sa1b.source import LocalSource

NUMBERS = [0, 1, 2, 7, 511, 512, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
TEXTS = ["", "x", "..", "../x", "a//b", "a/", "/", "a::b", "tar", "gzip", "zip", "\0", "\ud800", "windows", "9" * 5000]


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Some JSON that may stand for any other."""
    pick = rng.randrange(8 if depth < 3 else 5)
    if pick < 2:
        return rng.choice(NUMBERS) * rng.choice((1, 1, -1))
    if pick == 2:
        return rng.choice((None, True, 1.5, float("nan"), float("inf")))
    if pick < 5:
        return rng.choice(TEXTS)
    if pick == 5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): anything(rng, depth + 1) for _ in range(rng.randrange(3))}


def edited(rng: random.Random, value: Any) -> Any:
    """`value` with one thing in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        pick = rng.random()
        if pick < 0.15:
            return {key: kept for key, kept in value.items() if key != name}
        if pick < 0.25:
            return value | {rng.choice([*TEXTS, *ARRAYS]): anything(rng)}
        return value | {name: edited(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        row = rng.randrange(len(value))
        return [*value[:row], edited(rng, value[row]), *value[row + 1 :]]
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-8, -1, 1, 8))
    return anything(rng)


def hostile(rng: random.Random, good: bytes) -> bytes:
    """An index file made of `good`."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 5))):
        length = int.from_bytes(data[8:12], "little")
        pick = rng.random()
        if pick < 0.2 and len(data) > 16:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif pick < 0.3:
            del data[rng.randrange(len(data) + 1) :]
        elif pick < 0.35:
            data += bytes(rng.randrange(40))
        elif pick < 0.65 and 16 + length <= len(data):
            try:
                header = json.dumps(edited(rng, json.loads(data[16 : 16 + length]))).encode()
            except (ValueError, RecursionError):
                continue
            if rng.random() < 0.1:
                header = rng.choice((b"[" * 200_000, b"{" * 10, b'{"kind":' * 100_000, b"\xff" * 8, b"9" * 10_000))
            header += b" " * (-len(header) % 8)
            data[8 : 16 + length] = len(header).to_bytes(4, "little") + data[12:16] + header
        elif len(data) > 16 + length + 8:
            place = rng.randrange(16 + length, len(data) - 7) // 8 * 8
            data[place : place + 8] = np.array([rng.choice(NUMBERS)], "u8").tobytes()
    if rng.random() < 0.9:
        end = 16 + int.from_bytes(data[8:12], "little") + before_windows(data)
        data[12:16] = isal_zlib.crc32(bytes(data[16:end]), isal_zlib.crc32(bytes(data[8:12]))).to_bytes(4, "little")
    return bytes(data)


def before_windows(data: bytearray) -> int:
    """The bytes of arrays that the checksum covers."""
    try:
        counts = json.loads(data[16 : 16 + int.from_bytes(data[8:12], "little")])["arrays"]
        covered = [(name, dtype) for name, dtype in ARRAYS.items() if name != "windows" and name in counts]
        return min(int(sum((counts[name] * np.dtype(dtype).itemsize + 7) // 8 * 8 for name, dtype in covered)), 1 << 40)
    except (OverflowError, ValueError, TypeError, KeyError, RecursionError):
        return len(data)


def use(source: LocalSource, data: bytes) -> bool:
    """Do with an index all that is done with indexes; whether it was good."""
    try:
        index = ArchiveIndex(data)
    except BadIndex:
        return False
    source.fresh(index.archive, True)
    source.grown_from(index.archive)
    index.id_range()
    index.scan()
    archive = Archive(source, index)
    members = list(index.members())
    assert len(members) == len(index)
    for name in ("sa_1.jpg", "other/x.jpg", "x.jpg", "", "zzz"):
        index.find(name)
        index.find_base(name)
        list(index.under(name))
    for member in members:
        assert is_name(member.name)
        for start, stop in ((0, None), (3, 9)):
            try:
                wanted = member.size if stop is None else max(0, min(stop, member.size) - start)
                assert len(archive.read(member, start, stop)) == wanted
            except BadArchive:
                pass
    return True


def main(path: str, seed: int, rounds: int) -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        signal.alarm(60)
    source = LocalSource(path)
    kind, scan = store.scan(source, 1)
    good = assemble(kind, scan, source.state())
    assert use(source, good)
    used = 0
    for number in range(rounds):
        data = hostile(random.Random(f"{seed} {number}"), good)
        try:
            used += use(source, data)
        except BaseException:
            print(f"seed {seed}, round {number}", flush=True)
            raise
    print(f"{used} of {rounds} could be used")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
