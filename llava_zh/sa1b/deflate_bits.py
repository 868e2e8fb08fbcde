"""Bits before a deflate stream that starts in the middle of a byte."""

from __future__ import annotations


def _empty_blocks(bit: int) -> bytes:
    value, length = 0, 0
    if bit % 2:
        # A dynamic Huffman block of odd length that holds nothing. Code lengths: symbol 18 has 1 bit, 0 and 1 have 2,
        # in a table of all 19 entries. Then 138 + 118 zeros, and length 1 for end-of-block and for one distance.
        order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
        fields = [(0, 1), (2, 2), (0, 5), (0, 5), (15, 4)]
        fields += [({18: 1, 0: 2, 1: 2}.get(symbol, 0), 3) for symbol in order]
        # Huffman codes go most significant bit first: 18 is 0, 0 is 10, 1 is 11.
        fields += [(0, 1), (138 - 11, 7), (0, 1), (118 - 11, 7), (3, 2), (3, 2), (0, 1)]
        for number, width in fields:
            value |= number << length
            length += width
    while length % 8 != bit:
        value |= 2 << length  # fixed Huffman block (01 after a zero bit), end-of-block 0000000
        length += 10
    return value.to_bytes((length + 7) // 8, "little")


_PREFIXES = [_empty_blocks(bit) for bit in range(8)]


def bits_before(bit: int) -> bytes:
    """Empty deflate blocks whose length is `bit` modulo 8, so that a stream that starts at that bit can follow.

    The last byte is not full: the stream's first byte, with the bits before `bit` cleared, is or-ed into it.
    """
    return _PREFIXES[bit]
