"""Where index files live, when they are still good, and that each is built once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from llava_zh.errors import BadArchive, BadIndex, LlavaZhError, OutputError
from llava_zh.gates import limits
from llava_zh.gates.magic import GZIP, ZIP
from llava_zh.gates.safe_text import get_logger
from llava_zh.sa1b.index import ArchiveIndex, Scan, assemble
from llava_zh.sa1b.source import Source
from llava_zh.sa1b.tar_scan import scan_tar
from llava_zh.sa1b.urls import SA_NAME
from llava_zh.storage.atomic import write_atomically
from llava_zh.storage.held import held

SUFFIX = ".sa1bx"
_ELSEWHERE = (
    "Let LLAVA_ZH_CACHE name a folder that this user can write to, or keep indexes beside the archives: "
    "llava-zh sa1b index --sidecar."
)
_log = get_logger(__name__)


def cache_dir() -> Path:
    """The folder of this library's caches: ``LLAVA_ZH_CACHE``, else the platform's (``XDG_CACHE_HOME`` respected)."""
    chosen = os.environ.get("LLAVA_ZH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("llava-zh", appauthor=False))


def check_cache() -> None:
    """See that indexes can be kept, before archives are read for them. Raises: OutputError."""
    folder = cached_path("x").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"Indexes cannot be kept in {folder}: {why}. {_ELSEWHERE}") from None


def cached_path(archive: str) -> Path:
    """The cached index file of the archive at this absolute path or URL."""
    digest = hashlib.blake2b(archive.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return cache_dir() / "sa1b" / f"{archive.rstrip('/').rpartition('/')[2][:80]}-{digest}{SUFFIX}"


def detect(source: Source) -> str:
    """What an archive is, by its first bytes: "gzip", "zip" or "tar".

    Raises: BadArchive for anything else.
    """
    head = source.read_at(0, 512)
    if head.startswith(GZIP):
        return "gzip"
    if head.startswith((ZIP, b"PK\x05\x06")):  # the second is an empty zip
        return "zip"
    if head[257:262] == b"ustar" or (len(head) == 512 and not any(head)) or _old_tar(head):
        return "tar"
    raise BadArchive(
        f"{source.path} is no tar, gzip or zip file: it has {source.size:,} bytes and starts with {head[:8]!r}. "
        "Delete it and fetch it again: llava-zh sa1b download.",
        archive=source.path,
        offset=0,
    )


def _old_tar(head: bytes) -> bool:
    digits = head[148:154].strip(b" \0")
    with contextlib.suppress(ValueError):
        return len(head) == 512 and int(digits, 8) == 256 + sum(head[:148]) + sum(head[156:])
    return False


def scan(source: Source, threads: int = 0, progress: Callable[[int], object] | None = None) -> tuple[str, Scan]:
    """Detect what `source` is and list its members in one pass; `progress` gets the archive bytes done so far."""
    kind = detect(source)
    if kind == "gzip":
        from llava_zh.sa1b.gzip_scan import scan_gzip

        return kind, scan_gzip(source, threads, progress)
    if kind == "zip":
        from llava_zh.sa1b.zip_scan import scan_zip

        return kind, scan_zip(source)
    if source.remote:
        with source.open_file() as file:

            def read_at(offset: int, size: int) -> bytes:
                file.seek(min(offset, source.size))
                if progress is not None:
                    progress(offset)
                return file.read(size)

            return kind, scan_tar(read_at)
    return kind, scan_tar(source.read_at)


def first_id(source: Source) -> int | None:
    """The image id of the first member name, sa_<id>, that an archive's first bytes show; None if they show none."""
    head = source.read_at(0, 64 << 10)
    if head.startswith(GZIP):
        with contextlib.suppress(zlib.error):
            head = zlib.decompressobj(31).decompress(head, 1 << 20)
    match = SA_NAME.search(head.decode("latin-1"))
    return None if match is None else int(match[1])


Sidecar = Callable[[], bytes | None]


def load(source: Source, archive: str, sidecar: Sidecar | None = None, *, proven: bool = False) -> ArchiveIndex | None:
    """The index of `source` if there is a good one: beside the archive, else in the cache. `archive` is its full name.

    `sidecar` reads a remote sidecar. A stale or damaged index counts as none; of a damaged one a warning is logged.
    With `proven`, one whose windows are damaged is, too; else that shows when they are used.
    """
    for index, beside in _kept(source, archive, sidecar, proven):
        if source.fresh(index.archive, beside, index.kind != "tar"):
            index.renew = lambda: _renewed(source, archive, sidecar)
            return index
    return None


def _renewed(source: Source, archive: str, sidecar: Sidecar | None) -> ArchiveIndex | None:
    index = load(source, archive, sidecar, proven=True)
    return build(source, archive, proven=True) if index is None and not source.remote else index


def _kept(
    source: Source, archive: str, sidecar: Sidecar | None, proven: bool = False
) -> Iterator[tuple[ArchiveIndex, bool]]:
    """The indexes of the archive of this name that are whole, fresh or not, and whether each lies beside it."""
    candidates: list[tuple[Path | Sidecar, bool]] = [(cached_path(archive), False)]
    if sidecar is not None:
        candidates.insert(0, (sidecar, True))
    elif not source.remote:
        candidates.insert(0, (Path(archive + SUFFIX), True))
    for where, beside in candidates:
        try:
            data = where() if callable(where) else where
            index = None if data is None else ArchiveIndex(data, f"of {source.path}")
            if proven and index is not None:
                index.prove()
        except BadIndex as error:
            _warn_of(str(error), where)
            continue
        except OSError:
            continue
        if index is not None:
            yield index, beside


_warned: set[tuple[str, int]] = set()


def _warn_of(message: str, where: Path | Sidecar) -> None:
    """Log that an index is damaged, once for what is there now."""
    version = 0
    if isinstance(where, Path):
        with contextlib.suppress(OSError):
            version = where.stat().st_mtime_ns
    if (message, version) not in _warned:
        _warned.add((message, version))
        _log.warning("%s It is made anew.", message)


def build(
    source: Source,
    archive: str,
    *,
    sidecar: bool = False,
    threads: int = 0,
    progress: Callable[[int], object] | None = None,
    rebuild: bool = False,
    proven: bool = False,
) -> ArchiveIndex:
    """Make the index of `source`, write it, and give it back; processes that want the same one wait and then read it.

    With `sidecar` it is written beside the archive, else into the cache. Where it cannot be written, a warning is
    logged and the index serves from memory. A plain tar that has grown since it was last indexed is gone through from
    where it ended then. `rebuild` makes anew one that is good; `proven` as in `load`.

    Raises: BadArchive when the archive cannot be read at all.
    """
    target = Path(archive + SUFFIX) if sidecar and not source.remote else cached_path(archive)
    with _locked(cached_path(archive).with_suffix(".lock")):
        if not rebuild:
            index = load(source, archive, proven=proven)
            if index is not None and (not sidecar or target.exists()):
                return index
        state = source.state()
        source.known_as(state)  # so that it may grow meanwhile
        earlier = None if rebuild else _grown(source, archive)
        if earlier is not None:
            kind, found = "tar", scan_tar(source.read_at, earlier.end, earlier)
        else:
            kind, found = _scanned(source, threads, progress)
        data = assemble(kind, found, state)
        if len(data) > limits.INDEX.value:
            raise BadArchive(f"{source.path}: {limits.INDEX.exceeded(len(data))}", archive=source.path)
        try:
            write_atomically(target, data)
            index = ArchiveIndex(target)
        except BadIndex:
            index = _in_memory(source, data)
        except OSError as error:
            _log.warning("Cannot write the index %s (%s); it is kept in memory only. %s", target, error, _ELSEWHERE)
            index = _in_memory(source, data)
        index.renew = lambda: _renewed(source, archive, None)
        return index


def _scanned(source: Source, threads: int, progress: Callable[[int], object] | None) -> tuple[str, Scan]:
    """As `scan`; what no archive should be able to cause is an error of that archive too, and logged."""
    try:
        return scan(source, threads, progress)
    except (LlavaZhError, OSError):
        raise
    except Exception as error:
        _log.error("Indexing %s failed with %s: %s", source.path, type(error).__name__, error)
        raise BadArchive(
            f"{source.path} cannot be indexed, for a reason that was not foreseen ({type(error).__name__}: {error}). "
            "The archive is damaged or made to do harm, or this is a fault of llava-zh.",
            archive=source.path,
        ) from error


def _in_memory(source: Source, data: bytes) -> ArchiveIndex:
    try:
        return ArchiveIndex(data, f"of {source.path}")
    except BadIndex as error:
        raise BadArchive(f"{source.path} changed while it was indexed ({error}).", archive=source.path) from None


def _grown(source: Source, archive: str) -> Scan | None:
    """What an earlier index knows of a tar that was cut off then and has only grown since, to be continued."""
    if source.remote:
        return None
    for index, _ in _kept(source, archive, None):
        if index.kind == "tar" and index.problem_counts.get("truncated") and source.grown_from(index.archive):
            return index.scan()
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; none is taken where the cache cannot be written, as nothing is then shared."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(path))
        except OSError as error:
            _log.debug("No lock %s: %s", path, error)
        yield
