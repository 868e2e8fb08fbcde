"""The regular files of a tar, read once from start to end, past whatever is wrong with it.

`tarfile` ends at the first zero block and at the first header that is none. Here every whole member is given, and what
was passed over, is cut short or follows the end marker is told at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import BadFile
from ..gates.limits import MEMBERS
from ..gates.magic import GZIP
from ..sa1b.tar_header import BLOCK, REGULAR, Pax, checksum_fits, header_name, is_header, number, with_records
from .compressed import gunzipped

# Extended headers of one member, together.
_MAX_EXTENDED = 1 << 20
_LONG_NAME, _EXTENDED, _SKIPPED = 76, frozenset((88, 120)), frozenset((75, 103))
# Links, devices and folders have no data, whatever their size field says.
_WITHOUT_DATA = frozenset(b"123456")


class TarFile(NamedTuple):
    """A regular file in a tar; `data` is None where it was not wanted."""

    name: str
    offset: int
    size: int
    data: bytes | None


def tar_files(pieces: Iterator[bytes], label: str, wanted: Callable[[str, int], bool]) -> Iterator[TarFile]:
    """The regular files in the tar, plain or gzip, whose bytes `pieces` are.

    Args:
        wanted: Whether the data of a file of this name and size is to be read; it is passed over otherwise.

    Raises:
        BadFile: When all whole files were given: something is wrong with the tar. It names the first such place.
    """
    first = next(pieces, b"")
    joined = _chain(first, pieces)
    source = _Source(gunzipped(joined, label) if first.startswith(GZIP) else joined)
    walk = _Walk(source, wanted)
    for count, file in enumerate(walk.files()):
        if count == MEMBERS.value:
            raise BadFile(f"{label}: {MEMBERS.exceeded()}")
        yield file
    if source.damage is not None:
        raise BadFile(f"{label}: the tar archive is damaged or cut short. {source.damage}")
    if walk.problem:
        raise BadFile(f"{label}: the tar archive is damaged or cut short: {walk.problem}. Fetch the file again.")


def _chain(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


class _Source:
    """A stream that knows where it is, and keeps the error that ended it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")
        self.at = 0
        self.damage: BadFile | None = None

    def read(self, length: int) -> bytes:
        """The next `length` bytes, fewer at the end only."""
        parts = list(self._parts(length))
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def skip(self, length: int) -> int:
        """Pass over `length` bytes; how many there were."""
        return sum(map(len, self._parts(length)))

    def _parts(self, length: int) -> Iterator[memoryview]:
        while length > 0:
            if not self._held:
                try:
                    piece = next(self._pieces, None)
                except BadFile as error:
                    self.damage, piece = error, None
                if piece is None:
                    return
                self._held = memoryview(piece)
            part, self._held = self._held[:length], self._held[length:]
            length -= len(part)
            self.at += len(part)
            if part:
                yield part


class _Walk:
    def __init__(self, source: _Source, wanted: Callable[[str, int], bool]) -> None:
        self.source, self.wanted = source, wanted
        self.problem = ""  # the first thing that is wrong
        self._end: int | None = None  # where an end marker was met, if nothing has followed it yet
        self._lost: int | None = None  # where a header was due and is searched for since

    def files(self) -> Iterator[TarFile]:
        """All whole regular files."""
        pax = Pax()
        while True:
            at = self.source.at
            block = self.source.read(BLOCK)
            if len(block) < BLOCK:
                self._ended(at, block)
                return
            if self._lost is not None and not is_header(block):
                continue  # zeros too: they may be of a member whose header is gone
            if not any(block):
                self._end = at if self._end is None else self._end
                continue
            size = number(block[124:136])
            if not checksum_fits(block) or size is None:
                self._found(f"no header where one is due, at byte {at}")
                self._lost, pax = at, Pax()
                continue
            if self._end is not None:
                self._found(f"its end marker is at byte {self._end}, and more follows at byte {at}")
            self._end = self._lost = None
            kind = block[156]
            if kind == _LONG_NAME or kind in _EXTENDED:
                pax = self._extended(pax, kind, size)
            elif kind in _SKIPPED:
                self._pass_over(size)
            else:
                file = self._member(block, at, size, pax)
                pax = Pax()
                if file is not None:
                    yield file

    def _extended(self, pax: Pax, kind: int, size: int) -> Pax:
        if size + pax.taken > _MAX_EXTENDED:
            self._pass_over(size)
            return pax._replace(refused=True, taken=pax.taken + 1)
        payload = self.source.read(size)
        self.source.skip(-size % BLOCK)
        if kind == _LONG_NAME:
            name = payload.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return pax._replace(name=name, taken=pax.taken + size)
        return with_records(pax, payload)

    def _member(self, block: bytes, at: int, size: int, pax: Pax) -> TarFile | None:
        kind = block[156]
        size = size if pax.size is None else pax.size
        name = header_name(block) if pax.name is None else pax.name
        if pax.refused or size < 0:
            self._found(f"the member at byte {at} has no name or size that is one")
            self._lost = at
            return None
        if kind in _WITHOUT_DATA:
            return None
        if kind not in REGULAR or pax.sparse or name.endswith("/"):
            self._pass_over(size)
            return None
        data = self.source.read(size) if self.wanted(name, size) else None
        there = self.source.skip(size) if data is None else len(data)
        if there < size:
            self._found(f"it ends within the member {name[:200]!r} at byte {at}")
            return None
        if self.source.skip(-size % BLOCK) < -size % BLOCK:
            self._found(f"it ends after the member {name[:200]!r} at byte {at}")
        return TarFile(name, at, size, data)

    def _pass_over(self, size: int) -> None:
        whole = size + -size % BLOCK
        if self.source.skip(whole) < whole:
            self._found(f"it ends at byte {self.source.at}, within a member")

    def _ended(self, at: int, block: bytes) -> None:
        if self._lost is not None or (self._end is not None and not any(block)):
            return
        if block:
            self._found(f"it ends within a header, at byte {at}")
        else:
            self._found(f"it ends at byte {at} without an end marker, so members may be missing")

    def _found(self, problem: str) -> None:
        self.problem = self.problem or problem
