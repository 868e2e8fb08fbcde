"""Whether every bit of a baseline JPEG says what a JPEG may say: what decoders forgive is damage here.

libjpeg fills in what is missing and skips what is left over, and Pillow hides that it did. This walk over the Huffman
codes does neither: each block has at most 64 coefficients, the scan holds exactly the blocks that the frame promises,
and ends in less than a byte of ones before the end marker, which is the last thing in the file. A JPEG has no
checksum: bytes may still be wrong where other coefficients fit as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from llava_zh.gates.magic import JPEG

_BASELINE = (0xC0, 0xC1)
_MAX_BLOCKS = 1 << 24
_SLACK = 1024  # bytes that a wrong place is given more, for the zeros that are stuffed in
_END = 1 << 13  # coefficients that the end of a block counts for: more than there are

Lookup = np.ndarray[Any, Any]


class _Frame(NamedTuple):
    width: int
    height: int
    components: list[tuple[int, int, int]]  # id, horizontal and vertical sampling


class Scan(NamedTuple):
    """The entropy-coded part of a JPEG: where its blocks start in `bits`, and what comes with each."""

    starts: np.ndarray[Any, Any]  #: bit offsets of the blocks
    components: tuple[int, ...]  #: of the blocks of one MCU, in order
    columns: int  #: MCUs a row
    dc: np.ndarray[Any, Any]  #: the constant coefficient of each block, undone of its prediction


class BadJpeg(ValueError):
    """What is wrong with a JPEG; `at` is a byte behind the first wrong one, None where that may be any."""

    def __init__(self, what: str, at: int | None = None) -> None:
        super().__init__(what)
        self.at = at


class NotBaseline(ValueError):
    """A JPEG of a kind that is not walked over (progressive, arithmetic, with restart markers), good or not."""


def check_jpeg(data: bytes) -> Scan:
    """The blocks of the baseline JPEG `data`.

    Raises: BadJpeg where it is damaged; NotBaseline for a JPEG of another kind.
    """
    if not data.startswith(JPEG):
        raise BadJpeg("it does not start as a JPEG")
    frame: _Frame | None = None
    tables: dict[int, Lookup] = {}
    restart, position = 0, 2
    while True:
        if len(data) < position + 4 or data[position] != 0xFF:
            raise BadJpeg(f"there is no marker at {position}")
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if len(body) != length - 2:
            raise BadJpeg("a segment is cut short")
        position += 2 + length
        if marker in _BASELINE:
            frame = _frame(body)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise NotBaseline("not a baseline JPEG")
        elif marker == 0xC4:
            _huffman(body, tables)
        elif marker == 0xDD and length == 4:
            restart = int.from_bytes(body, "big")
        elif marker == 0xDA:
            if frame is None:
                raise BadJpeg("the picture comes before its frame")
            if restart:
                raise NotBaseline("restart markers")
            return _scan(data, position, body, frame, tables)
        elif not (0xE0 <= marker <= 0xEF or marker in (0xDB, 0xFE, 0xDD)):
            raise BadJpeg(f"an unknown marker {marker:#x}")


def _frame(body: bytes) -> _Frame:
    if len(body) < 6 or len(body) != 6 + 3 * body[5] or body[0] != 8:
        raise BadJpeg("the frame's header is damaged")
    components = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body), 3)]
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for _, h, v in components) or not components:
        raise BadJpeg("the frame's header is damaged")
    return _Frame(int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big"), components)


def _huffman(body: bytes, tables: dict[int, Lookup]) -> None:
    """For each table in `body`: by the next 16 bits, the length of the code that they start with, and its symbol."""
    while body:
        which, counts = body[0], body[1:17]
        symbols = body[17 : 17 + sum(counts)]
        if len(counts) != 16 or len(symbols) != sum(counts):
            raise BadJpeg("a Huffman table is cut short")
        table = np.zeros(1 << 16, "u4")  # 0: no code
        code, row = 0, 0
        for length, count in enumerate(counts, 1):
            for symbol in symbols[row : row + count]:
                start = code << (16 - length)
                table[start : start + (1 << (16 - length))] = length | symbol << 8
                code += 1
            row += count
            code <<= 1
        tables[which] = table
        body = body[17 + len(symbols) :]


def _ac_steps(table: Lookup) -> Lookup:
    """By the next 16 bits of an AC code: the bits that it takes with its value, and above 8 bits the coefficients."""
    length, symbol = table & 0xFF, table >> 8
    run, size = symbol >> 4, symbol & 15
    count = np.where(size > 0, run + 1, np.where(run == 15, 16, _END))
    bad = (length == 0) | ((size == 0) & (run != 15) & (run != 0)) | (size > 10)
    return np.where(bad, 0, (length + size) | count << 8).astype("u4")


def _scan(data: bytes, start: int, header: bytes, frame: _Frame, tables: dict[int, Lookup]) -> Scan:
    if len(header) != 4 + 2 * len(frame.components) or header[0] != len(frame.components):
        raise NotBaseline("several scans")
    raw = np.frombuffer(data, "u1", offset=start)
    marks = np.flatnonzero(raw[:-1] == 0xFF)
    ends = marks[raw[marks + 1] != 0]
    if not len(ends) or data[start + ends[0] + 1] != 0xD9:
        place = start + int(ends[0]) + 2 if len(ends) else None
        raise BadJpeg("there is a marker in the picture, or no end marker", place)
    if start + ends[0] + 2 != len(data):
        raise BadJpeg("the end marker is not at the end")
    size = int(ends[0])
    stuffed = marks[marks < size] + 1
    packed = np.delete(raw[:size], stuffed)
    padded = np.concatenate((packed, np.full(8, 0xFF, "u1"))).astype("u4")
    wide = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    windows = np.empty((len(wide), 8), "u2")
    for shift in range(8):
        windows[:, shift] = wide >> (8 - shift)
    at = windows.reshape(-1)  # the 16 bits from each bit on
    single = len(frame.components) == 1
    order: list[int] = []
    dc_tables: list[Lookup] = []
    ac_tables: list[Any] = []
    known: dict[int, Any] = {}
    for number, (_, across, down) in enumerate(frame.components):
        which = header[2 + 2 * number]
        dc, ac = which >> 4, 16 | which & 15
        if dc not in tables or ac not in tables:
            raise BadJpeg("a Huffman table is missing")
        if ac not in known:
            known[ac] = _ac_steps(tables[ac])[at].data
        order += [number] * (1 if single else across * down)
        dc_tables.append(tables[dc])
        ac_tables.append(known[ac])
    across, down = (max(c[i] for c in frame.components) for i in (1, 2))
    unit = (8, 8) if single else (8 * across, 8 * down)
    columns, rows = -(-frame.width // unit[0]), -(-frame.height // unit[1])
    if not 0 < columns * rows * len(order) <= _MAX_BLOCKS:
        raise BadJpeg("the picture has no size, or too large a one")
    try:
        starts, end = _walk(at, order, dc_tables, ac_tables, columns * rows, 8 * len(packed))
    except BadJpeg as error:
        if error.at is not None:  # a bit of the picture's data
            error.at = start + error.at // 8 + int(np.searchsorted(stuffed, error.at // 8)) + _SLACK
        raise
    left = 8 * len(packed) - end
    if left > 7 or (left and int(packed[-1]) & ((1 << left) - 1) != (1 << left) - 1):
        raise BadJpeg("the picture does not end where its data does")
    return Scan(starts, tuple(order), columns, _constants(starts, at, padded, order, dc_tables))


def _walk(
    at: Lookup, order: list[int], dc_tables: list[Lookup], ac_tables: list[Any], units: int, bits: int
) -> tuple[np.ndarray[Any, Any], int]:
    """Bit offsets of all blocks, and where the last one ends."""
    window = at.data
    steps = [(table.data, ac) for table, ac in ((dc_tables[number], ac_tables[number]) for number in order)]
    starts: list[int] = []
    position = 0
    for _ in range(units):
        for dc, ac in steps:
            starts.append(position)
            if position >= bits:
                raise BadJpeg("the picture's data ends too early")
            code = dc[window[position]]
            length = code & 0xFF
            size = code >> 8
            if not length or size > 11:
                raise BadJpeg(f"no code at bit {position}", position)
            position += length + size
            count = 1
            while count < 64:
                step = ac[position]
                if not step:
                    raise BadJpeg(f"no code at bit {position}", position)
                position += step & 0xFF
                count += step >> 8
                if position > bits:
                    raise BadJpeg("the picture's data ends too early")
            if 64 < count < _END:
                raise BadJpeg(f"too many coefficients at bit {position}", position)
    return np.array(starts, "i8"), position


def _constants(
    starts: np.ndarray[Any, Any], at: Lookup, padded: Lookup, order: list[int], dc_tables: list[Lookup]
) -> np.ndarray[Any, Any]:
    """The DC values of all blocks: each code gives the difference to the block before in its component."""
    number = np.tile(np.array(order), len(starts) // len(order))
    values = np.empty(len(starts), "i8")
    for component in range(len(dc_tables)):
        rows = np.flatnonzero(number == component)
        code = dc_tables[component][at[starts[rows]]]
        length, size = (code & 0xFF).astype("i8"), (code >> 8).astype("i8")
        bits = at[np.minimum(starts[rows] + length, len(at) - 1)].astype("i8") >> (16 - size)
        values[rows] = np.cumsum(np.where(bits < (1 << size >> 1), bits - (1 << size) + 1, bits) * (size > 0))
    return values


def seam(scan: Scan) -> tuple[float, int]:
    """How much the picture's brightness or colour jumps where it jumps most for no reason, and at which block.

    Each DC value is the difference to the one before, so a wrong one changes all that follow: the picture is lighter or
    darker from there on, with a seam as long as a row. The jump is told in medians of what seams the picture has
    anyway: whole photographs stay below ten or twenty.
    """
    count, columns = len(scan.components), scan.columns
    number = np.array(scan.components)
    values = scan.dc.reshape(-1, count)
    best = 0.0, 0
    for component in sorted(set(scan.components)):
        one = values[:, number == component].mean(axis=1)
        down = one[columns:] - one[:-columns]  # to the one above
        if len(down) <= 3 * columns:
            continue
        summed = np.cumsum(np.concatenate(([0.0], down)))
        jumps = (summed[columns:] - summed[:-columns]) / columns
        beside = np.abs(jumps[columns:-columns] - (jumps[: -2 * columns] + jumps[2 * columns :]) / 2)
        at = int(beside.argmax())
        score = float(beside[at] / (np.median(beside) + 0.01))
        if score > best[0]:
            best = score, (at + 2 * columns) * count
    return best
