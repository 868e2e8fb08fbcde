"""Where one image lies under a root.

A path names its archive (``sa_000003/sa_3001.jpg``), or only the image (``sa_3001.jpg``), or has something before them
(``sa1b/sa_000003/sa_3001.jpg``, ``sam/images/sa_3001.jpg``). ``sa_<id>.jpg`` is one image in all of SA-1B, so that its
last one or two parts say which; any other file is found at its own path alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from llava_zh.errors import BadArchive, BadIndex, NotPermitted
from llava_zh.sa1b import advice, store
from llava_zh.sa1b.archive import Archive
from llava_zh.sa1b.hits import FileHit, MemberHit
from llava_zh.sa1b.index import ArchiveIndex
from llava_zh.sa1b.layout import Root
from llava_zh.sa1b.remote import RefusedImage
from llava_zh.sa1b.urls import archive_stem, member_key, shard_of

#: Shard folders that are asked for an image whose archive nobody names, where their ranges of ids do not tell.
_ASKED_LOCAL, _ASKED_REMOTE = 2000, 64

Hit = FileHit | MemberHit


def find(root: Root, path: str) -> Hit | None:
    """Where the image at `path` lies under `root`, or None.

    Raises: BadArchive, BadIndex or BadImage when what should hold it cannot be used, and nothing else has it.
    """
    stem, slash, name = path.partition("/")
    if not slash:
        return _unnamed(root, path)
    base = path.rpartition("/")[2]
    key = member_key(base)
    if root.flat_first and key is not None and root.blind:
        hit: Hit | None = _find_flat(root, base)
        if hit is not None:
            return hit
    failure: Exception | None = None
    for place in root.extracted_folders(stem):
        try:
            hit = root.file(f"{place}/{name}")
            # Only a number tells that the file there is the same image.
            if hit is None and key is not None and "/" not in name:
                hit = root.file(f"{place}/images/{name}")
        except (RefusedImage, NotPermitted) as error:
            failure = failure or error
            continue
        if hit is not None:
            return hit
    try:
        hit = _in_archives(root, path, stem, name)
    except (BadArchive, BadIndex) as error:
        hit, failure = None, error
    if hit is not None:
        return hit
    if key is not None:
        shard = shard_of(path)
        if shard is None:
            hit = _unnamed(root, base)
        elif shard != stem:
            hit = find(root, f"{shard}/{base}")
        else:
            hit = _find_flat(root, base)
    if hit is None and failure is not None:
        raise failure
    return hit


def _ask(root: Root, paths: Iterable[str]) -> tuple[FileHit | None, Exception | None]:
    """The first of the files at `paths`; else the error of a server that refuses one."""
    refused = None
    for path in paths:
        try:
            hit = root.file(path)
        except (RefusedImage, NotPermitted) as error:
            refused = refused or error
            continue
        if hit is not None:
            return hit, None
    return None, refused


def _in_archives(root: Root, path: str, stem: str, name: str) -> MemberHit | None:
    failure: BadArchive | BadIndex | None = None
    places = [(stem, name)] if root.archive_paths(stem) else _deeper(root, path)
    for address, inner in places:
        for archive_path in root.archive_paths(address):
            try:
                archive = root.archive(archive_path)
                member = archive.index.find(inner)
                if member is None and root.grown(archive_path, archive):
                    root.forget(archive)
                    archive = root.archive(archive_path)
                    member = archive.index.find(inner)
            except (BadArchive, BadIndex) as error:
                failure = failure or error
                continue
            if member is not None:
                return MemberHit(archive, member)
    if failure is not None:
        raise failure
    return None


def _deeper(root: Root, path: str) -> Iterator[tuple[str, str]]:
    """The archives that more than the first part of `path` address, and what is left of it."""
    known = root.stems()
    at = path.find("/", path.find("/") + 1)
    while at > 0:
        if path[:at] in known:
            yield path[:at], path[at + 1 :]
        at = path.find("/", at + 1)


def _find_flat(root: Root, base: str) -> FileHit | None:
    hit, refused = _ask(root, (f"{folder}/{base}".lstrip("/") for folder in root.flat_folders()))
    if root.blind:
        root.flat_first = hit is not None or root.flat_first
    if hit is None and refused is not None:
        raise refused
    return hit


def _unnamed(root: Root, name: str) -> Hit | None:
    """The image called `name`, whichever archive or folder it is in."""
    key = member_key(name)
    if key is None:
        return root.file(name) if root.blind or name in root.listing().files else None
    hit: Hit | None = _find_flat(root, name)
    if hit is not None:
        return hit
    hit, _ = _ask(root, _likely(root, name, key >> 1))
    if hit is not None:
        return hit
    for archive in candidates(root, key >> 1):
        member = archive.index.by_key(key)
        if member is not None:
            return MemberHit(archive, member)
    hit, _ = _ask(root, _everywhere(root, name))
    return hit


def _likely(root: Root, name: str, image: int) -> Iterator[str]:
    for folder in likely_shards(root, image):
        yield f"{folder}/{name}"
        yield f"{folder}/images/{name}"


def _everywhere(root: Root, name: str) -> Iterator[str]:
    asked = 0
    for folders in root.found.shards.values():
        for folder in folders:
            if asked == (_ASKED_LOCAL if root.local else _ASKED_REMOTE):
                return
            asked += 1
            yield f"{folder}/{name}"
            yield f"{folder}/images/{name}"


def likely_shards(root: Root, image: int) -> list[str]:
    """The shard folders that can hold the image with this id.

    Shards hold ascending ranges of ids that do not overlap: any one id of each tells which two come into question, and
    of few of them, by halves.
    """
    shards = [path for name in sorted(root.found.shards) for path in root.found.shards[name]]
    low, high = 0, len(shards)
    while low < high:
        middle = (low + high) // 2
        some = root.some_id(shards[middle])
        if some is None:
            del shards[middle]
            high -= 1
        elif some <= image:
            low = middle + 1
        else:
            high = middle
    return shards[max(0, low - 1) : low + 1]


def candidates(root: Root, image: int) -> Iterator[Archive]:
    """The archives that may hold the image with this id: by their indexes, then by the first id of the others.

    Archives hold ascending ranges that do not overlap, so of those without an index (local ones are indexed on the
    way) only the two whose first image is nearest come into question.
    """
    samples: list[tuple[int, str]] = []
    for path in (path for paths in root.stems().values() for path in paths):
        try:
            archive = root.load_index(path)
            if archive is None and root.local:
                first = store.first_id(root.source(path))
                if first is not None:
                    samples.append((first, path))
        except (BadArchive, OSError):
            continue
        ids = archive.index.id_range() if archive is not None else None
        if archive is not None and ids is not None and ids[0] <= image <= ids[1]:
            yield archive
    samples.sort()
    place = bisect_right(samples, (image, "\uffff"))
    for _, path in samples[max(0, place - 1) : place + 1]:
        yield root.archive(path)


def why_absent(index: ArchiveIndex, name: str, archive: str) -> str | None:
    """What is known of why the archive of `index`, shown as `archive`, has no member `name`; None if it is whole."""
    step = advice.about([archive_stem(archive.rpartition("/")[2]) or archive], index.problem_counts)
    step = f" Next: {step}." if step else ""
    own = next((p for p in index.problems if p.member and name in (p.member, p.member.rpartition("/")[2])), None)
    if own is not None:
        what = "was left out" if own.kind in ("damaged", "lost", "truncated") else "cannot be opened"
        return f"{name} in {archive} (at {own.offset:,}) {what}: {own.detail}.{step}"
    fault = next((p for p in index.problems if p.kind in ("damaged", "lost") and not p.member), None)
    if fault is not None:
        return (
            f"No member {name} in {archive}, which is damaged at {fault.offset:,} (before compression): "
            f"{fault.detail}. If it had that member, it was lost there.{step}"
        )
    if any(p.kind == "truncated" for p in index.problems):
        whole = f"only its first {index.end:,} bytes (before compression) are whole"
        return f"No member {name} in {archive}, which is truncated: {whole}.{step}"
    if any(p.kind in ("damaged", "lost") for p in index.problems):
        return f"No member {name} in {archive}, which is damaged: `llava-zh sa1b verify` tells where.{step}"
    return None
