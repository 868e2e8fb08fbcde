"""Which blocks of a deflate stream were not written as they stand: a check that the format itself does not have.

zlib and gzip make the codes of a block from how often each symbol is in it. Wrong bits in a block decode to other
symbols, whose numbers would mostly have made other codes. In an archive whose blocks nearly all have just the codes
that zlib makes, a block that has others is damaged; in an archive by another compressor this tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from llava_zh.sa1b.source import Source

_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
_LENGTH_EXTRA = [0] * 8 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 4 + [0]
_DISTANCE_EXTRA = [0] * 4 + [extra for extra in range(1, 14) for _ in (0, 1)]
_LENGTHS = [3 + sum(1 << extra for extra in _LENGTH_EXTRA[:row]) for row in range(28)] + [258]
_LITERALS, _DISTANCES = 286, 30
_CHUNK = 256 << 10
_FIRST_LENGTH = 257 << 8


class Block(NamedTuple):
    """A block from one bit of the archive to another, and its bytes in the stream.

    `fits` says whether its codes are what zlib would have made; None for a block that has none of its own.
    """

    start: int
    stop: int
    out_start: int
    out_stop: int
    fits: bool | None


def blocks(source: Source, bit: int, out: int) -> Iterator[Block]:
    """The blocks of the deflate stream that starts at `bit` of the archive, up to its last one or to one that breaks.

    `out` is the offset of its first byte in the decompressed stream.
    """
    size = _CHUNK
    first, window = 0, _Bits(b"")
    while True:
        if bit - 8 * first + 8 * (_CHUNK // 2) > 8 * len(window.data):
            first = bit // 8
            window = _Bits(source.pread(first, max(0, min(size, source.size - first))))
        try:
            final, end, length, fits = window.block(bit - 8 * first)
        except IndexError:  # it goes beyond what was read, or the codes make no sense
            if first + size >= source.size or size > 8 << 20:
                return
            size, first, window = 2 * size, 0, _Bits(b"")
            continue
        end += 8 * first
        yield Block(bit, end, out, out + length, fits)
        if final:
            return
        bit, out = end, out + length


class _Bits:
    """Bytes as bits, least significant first, and the blocks in them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        padded = np.frombuffer(data, "u1").astype("u4")
        wide = padded[:-2] | padded[1:-1] << 8 | padded[2:] << 16 if len(data) > 2 else padded[:0]
        windows = np.empty((len(wide), 8), "u2")
        for shift in range(8):
            windows[:, shift] = wide >> shift
        self.at = windows.reshape(-1).data  # the 16 bits from each bit on

    def block(self, bit: int) -> tuple[bool, int, int, bool | None]:
        """Whether the block at `bit` is the last, its end, its bytes decompressed, and as `Block.fits`.

        Raises: IndexError where it goes beyond the data or makes no sense.
        """
        head = self.at[bit]
        final, kind, bit = bool(head & 1), head >> 1 & 3, bit + 3
        if kind == 0:
            bit = (bit + 7) // 8 * 8
            size = self.at[bit]
            if self.at[bit + 16] ^ size != 0xFFFF:
                raise IndexError("no length of stored bytes")
            end = bit + 32 + 8 * size
            if end > len(self.at):
                raise IndexError("beyond the data")
            return final, end, size, None
        if kind == 3:
            raise IndexError("no kind of block")
        if kind == 1:
            literals, distances = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 30
        else:
            literals, distances, bit = self._tables(bit)
        end, used, far = self._symbols(bit, _codes(literals), _codes(distances))
        size = int(used[:256].sum()) + far
        if kind == 1:
            return final, end, size, None
        counts = used.tolist()
        return final, end, size, zlib_lengths(counts, _LITERALS) == literals + [0] * (_LITERALS - len(literals))

    def _tables(self, bit: int) -> tuple[list[int], list[int], int]:
        at = self.at
        literals, distances, count = (at[bit] & 31) + 257, (at[bit + 5] & 31) + 1, (at[bit + 10] & 15) + 4
        bit += 14
        lengths = [0] * 19
        for row in range(count):
            lengths[_ORDER[row]] = at[bit] & 7
            bit += 3
        codes = _codes(lengths)
        found: list[int] = []
        while len(found) < literals + distances:
            code = codes[at[bit]]
            if not code:
                raise IndexError("no code")
            bit += code & 0xFF
            symbol = code >> 8
            if symbol < 16:
                found.append(symbol)
                continue
            extra, least = {16: (2, 3), 17: (3, 3), 18: (7, 11)}[symbol]
            found += [found[-1] if symbol == 16 else 0] * (least + (at[bit] & ((1 << extra) - 1)))
            bit += extra
        return found[:literals], found[literals:], bit

    def _symbols(self, bit: int, literals: Any, distances: Any) -> tuple[int, np.ndarray[Any, Any], int]:
        """The block's end, how often each symbol is in it, and how many bytes come from before."""
        at, far = self.at, 0
        seen: list[int] = []
        add = seen.append
        while True:
            code = literals[at[bit]]
            bit += code & 0xFF
            add(code)
            if code < _FIRST_LENGTH:
                if code >> 8 == 256:
                    break
                if not code:
                    raise IndexError("no code")
                continue
            row = (code >> 8) - 257
            extra = _LENGTH_EXTRA[row]
            far += _LENGTHS[row] + (at[bit] & ((1 << extra) - 1))
            bit += extra
            code = distances[at[bit]]
            if not code:
                raise IndexError("no code")
            bit += (code & 0xFF) + _DISTANCE_EXTRA[code >> 8]
        return bit, np.bincount(np.array(seen) >> 8, minlength=_LITERALS), far


def _codes(lengths: list[int]) -> Any:
    """By the next 16 bits, the length of the code that they start with and above 8 bits its symbol; 0 for none."""
    table = np.zeros(1 << 16, "u4")
    code = 0
    for length in range(1, 16):
        for symbol, its in enumerate(lengths):
            if its == length:
                if code >> length:
                    raise IndexError("too many codes")
                table[int(format(code, f"0{length}b")[::-1], 2) :: 1 << length] = length | symbol << 8
                code += 1
        code <<= 1
    return table.data


def zlib_lengths(counts: list[int], size: int, longest: int = 15) -> list[int]:
    """The lengths of the codes that zlib gives to `size` symbols that occur `counts` times.

    Huffman's rule leaves open which of two equally frequent nodes comes first; zlib takes the shallower tree, and keeps
    its nodes in a heap of its own making, which this one repeats step by step.
    """
    total = list(counts) + [0] * (2 * size + 1 - len(counts))
    depth, parent = [0] * len(total), [0] * len(total)
    heap = [0, *(symbol for symbol in range(size) if total[symbol])]
    for symbol in range(size):  # a code has at least two symbols
        if len(heap) > 2:
            break
        if not total[symbol]:
            total[symbol] = 1
            heap.append(symbol)
    end = len(heap) - 1

    def down(row: int) -> None:
        node = heap[row]
        key = total[node], depth[node]
        child = 2 * row
        while child <= end:
            found = heap[child]
            if child < end and (total[heap[child + 1]], depth[heap[child + 1]]) <= (total[found], depth[found]):
                child += 1
                found = heap[child]
            if key <= (total[found], depth[found]):
                break
            heap[row] = found
            row, child = child, 2 * child
        heap[row] = node

    for row in range(end // 2, 0, -1):
        down(row)
    order, node = [], size
    while end > 1:
        least = heap[1]
        heap[1] = heap[end]
        end -= 1
        down(1)
        second = heap[1]
        order += [least, second]
        total[node] = total[least] + total[second]
        depth[node] = max(depth[least], depth[second]) + 1
        parent[least] = parent[second] = node
        heap[1] = node
        node += 1
        down(1)
    return _lengths(order, heap[1], parent, size, longest)


def _lengths(order: list[int], root: int, parent: list[int], size: int, longest: int) -> list[int]:
    """How deep each symbol is below `root`, none deeper than `longest`, by zlib's way of making room."""
    deep = {root: 0}
    at_depth, too_deep = [0] * (longest + 1), 0
    for node in reversed(order):
        deep[node] = deep[parent[node]] + 1
        if deep[node] > longest:
            deep[node] = longest
            too_deep += 1
        if node < size:
            at_depth[deep[node]] += 1
    lengths = [deep.get(symbol, 0) for symbol in range(size)]
    if too_deep:
        while too_deep > 0:
            bits = longest - 1
            while not at_depth[bits]:
                bits -= 1
            at_depth[bits] -= 1
            at_depth[bits + 1] += 2
            at_depth[longest] -= 1
            too_deep -= 2
        symbols = iter([node for node in order if node < size])
        for bits in range(longest, 0, -1):
            for _ in range(at_depth[bits]):
                lengths[next(symbols)] = bits
    return lengths
