"""Where deflate blocks start in bytes whose beginning is lost, and whether the bits before an offset end a block.

A block that codes its symbols by tables of its own starts with these tables, themselves coded; hardly any other bits
make complete tables. A block of stored bytes has its length there twice, once inverted.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from llava_zh.sa1b.deflate_bits import bits_before

WINDOW = 32 << 10
_STEP = 64 << 10  # bytes looked through at once
_ENOUGH = 96 << 10  # compressed bytes that must decode for a block to be one
_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_LONGEST_HEADER = 320  # bytes


def shifted(data: bytes, bit: int) -> bytes:
    """`data`, of which the stream starts at `bit` of the first byte, as a deflate stream from a byte edge on."""
    if not bit:
        return data
    prefix = bits_before(bit)
    return b"".join((prefix[:-1], bytes([prefix[-1] | (data[0] >> bit << bit)]), memoryview(data)[1:]))


def block_starts(data: bytes) -> Iterator[tuple[int, bool]]:
    """Bit offsets in `data` where a block may start, ascending, and whether it is one of stored bytes."""
    for start in range(0, max(1, len(data) - 8), _STEP):
        piece = data[start : start + _STEP + _LONGEST_HEADER]
        found = [(bit, False) for bit in _coded(piece, min(_STEP, len(piece)))]
        found += [(bit, True) for bit in _stored(piece, min(_STEP, len(piece)))]
        for bit, stored in sorted(found):
            yield start * 8 + bit, stored


def _coded(piece: bytes, size: int) -> list[int]:
    padded = np.frombuffer(piece + bytes(16), "u1")
    words = np.zeros(len(piece) + 8, "u8")
    for byte in range(8):
        words |= padded[byte : byte + len(words)].astype("u8") << np.uint64(8 * byte)
    offsets = []
    for shift in range(8):
        head = (words[:size] >> np.uint64(shift)).astype("u4")
        fits = ((head >> 1 & 3) == 2) & ((head >> 3 & 31) <= 29) & ((head >> 8 & 31) <= 29)
        offsets.append(np.flatnonzero(fits) * 8 + shift)
    at = np.sort(np.concatenate(offsets))
    if not len(at):
        return []
    count = ((words[at >> 3] >> (at & 7).astype("u8")) >> np.uint64(13) & np.uint64(15)) + np.uint64(4)
    after = at + 17
    lengths = words[after >> 3] >> (after & 7).astype("u8")
    room = np.zeros(len(at), "u4")
    for row in range(19):
        length = (lengths >> np.uint64(3 * row) & np.uint64(7)).astype("u4")
        room += np.where((length > 0) & (row < count), 128 >> length, 0).astype("u4")
    return [int(bit) for bit in at[room == 128] if _tables_fit(piece, int(bit))]


def _tables_fit(piece: bytes, bit: int) -> bool:
    """Whether the tables that the block at `bit` starts with are complete."""
    value = int.from_bytes(piece[bit // 8 : bit // 8 + _LONGEST_HEADER], "little") >> (bit % 8 + 3)
    literals, distances, count = (value & 31) + 257, (value >> 5 & 31) + 1, (value >> 10 & 15) + 4
    value >>= 14
    lengths = [0] * 19
    for row in range(count):
        lengths[_ORDER[row]] = value & 7
        value >>= 3
    codes: dict[tuple[int, int], int] = {}
    code = 0
    for length in range(1, 8):
        for symbol in range(19):
            if lengths[symbol] == length:
                codes[length, int(format(code, f"0{length}b")[::-1], 2)] = symbol
                code += 1
        code <<= 1
    found: list[int] = []
    while len(found) < literals + distances:
        for length in range(1, 8):
            read = codes.get((length, value & ((1 << length) - 1)))
            if read is not None:
                break
        else:
            return False
        value >>= length
        if read < 16:
            found.append(read)
            continue
        if read == 16 and not found:
            return False
        extra, least = {16: (2, 3), 17: (3, 3), 18: (7, 11)}[read]
        found += [found[-1] if read == 16 else 0] * (least + (value & ((1 << extra) - 1)))
        value >>= extra
    if len(found) != literals + distances or not found[256]:
        return False
    return _complete(found[:literals]) and _complete(found[literals:], one_is_enough=True)


def _complete(lengths: list[int], one_is_enough: bool = False) -> bool:
    used = [length for length in lengths if length]
    return sum(1 << (15 - length) for length in used) == 1 << 15 or (one_is_enough and len(used) <= 1)


def _stored(piece: bytes, size: int) -> list[int]:
    data = np.frombuffer(piece + bytes(4), "u1").astype("u2")
    words = data[:-1] | data[1:] << 8
    fits = (words[1 : size - 1] ^ words[3 : size + 1]) == 0xFFFF  # of bytes 1 on
    fits &= data[: len(fits)] >> 5 == 0
    return [int(byte) * 8 + 5 for byte in np.flatnonzero(fits)]  # the three bits before the byte edge


def decodes_from(data: bytes, bit: int) -> bool:
    """Whether `data` decodes from `bit` on, as far as it goes or for long enough."""
    decoder = zlib.decompressobj(-15, zdict=bytes(WINDOW))
    stream = shifted(data[bit // 8 : bit // 8 + _ENOUGH], bit % 8)
    try:
        for at in range(0, len(stream), 8192):
            decoder.decompress(stream[at : at + 8192])
            if decoder.eof:
                return True
    except zlib.error:
        return False
    return True


def output_up_to(decoder: Any, data: bytes, bit: int) -> bytes | None:
    """What `decoder` gives of `data` up to `bit`, if that is exactly where a block ends; else None.

    An empty last block is put there: the decoder is at its end then, or was in the middle of something else.
    """
    trial = decoder.copy()
    low = data[bit // 8] & ((1 << bit % 8) - 1) if bit % 8 else 0
    tail = (low | 3 << bit % 8).to_bytes(3, "little")[: (bit % 8 + 10 + 7) // 8]
    try:
        out: bytes = trial.decompress(data[: bit // 8])
        if trial.eof:
            return None
        out += trial.decompress(tail)
    except zlib.error:
        return None
    return out if trial.eof else None


def unresolved(pairs: tuple[bytes, bytes]) -> np.ndarray[Any, Any]:
    """Which bytes differ between two decodes with windows of 0x00 and 0xFF: those that come out of the window."""
    first, second = (np.frombuffer(part, "u1") for part in pairs)
    return np.flatnonzero(first != second)


#: Windows by which a byte that comes out of the window tells that it does, and from where.
PROBES = (
    bytes(WINDOW),
    b"\xff" * WINDOW,
    bytes(range(256)) * (WINDOW // 256),
    b"".join(bytes([high]) * 256 for high in range(WINDOW // 256)),
)


def sparse(window: bytes, outputs: tuple[bytes, ...]) -> bytes:
    """`window` with the bytes zeroed that none of `outputs`, decodes with the four `PROBES`, refers to."""
    rows = unresolved((outputs[0], outputs[1]))
    low, high = (np.frombuffer(part, "u1")[rows].astype("u4") for part in outputs[2:4])
    kept = np.zeros(WINDOW, "u1")
    used = low | high << 8
    kept[used] = np.frombuffer(window.rjust(WINDOW, b"\0"), "u1")[used]
    return kept.tobytes()
