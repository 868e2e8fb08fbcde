"""Files of rows behind a URL: over HTTP by our own byte ranges, over anything else by fsspec (``s3://``, ``memory://``).

A file keeps the URL that messages and caches show, without what gives access; that travels beside it, as
:class:`llava_zh.sa1b.access.Access` does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import BadArgument, DataFileNotFound, HubError, LlavaZhError, MissingExtra
from ..gates import pictures
from ..gates.places import checked_name
from ..sa1b.access import Access, public, resolve
from ..sa1b.source import remote_stamp
from ..storage.http import read_range, size_and_stamp
from .data_files import MAX_DEPTH, DataFile, flatten, local_files

SOURCE = "url"
_PIECE = 4 << 20
_HINT = "Check the address, and what gives access to it (storage_options=)."
_URL = re.compile(r"(?!hf:[^/]|modelscope:|huggingface:[^/]|ms:[^/])[a-z][a-z0-9+.-]+://.", re.IGNORECASE)


def is_url(text: Any) -> bool:
    """Whether a text names a place that is read over fsspec; ``file://`` is a path."""
    return isinstance(text, str) and _URL.match(text) is not None and not text.startswith(("file://", "local://"))


def files_of(folder: str | None, data_files: Any, options: Mapping[str, Any] | None, token: Any) -> list[DataFile]:
    """As `local_files`, where the folder or files may be URLs.

    Args:
        options: What fsspec's filesystem takes, or such for each protocol.
        token: For ``hf://``.

    Raises:
        DataFileNotFound: There is no such file.
        HubError: It cannot be reached or read.
    """
    if data_files is None:
        return _below(folder or "", options, token) if is_url(folder) else local_files(folder, None)
    found: list[DataFile] = []
    for name in flatten(data_files):
        if is_url(name):
            found += _matching(name, options, token)
        elif is_url(folder):
            found += _matching(f"{str(folder).rstrip('/')}/{name}", options, token)
        else:
            found += local_files(folder, [name])
    return list(dict.fromkeys(found))


def named_exactly(files: list[DataFile], folder: str | None, data_files: Any) -> list[DataFile]:
    """Those of `files`, behind URLs, that `data_files` names one by one, and not by a pattern."""
    names = [name if is_url(name) else f"{str(folder).rstrip('/')}/{name}" for name in flatten(data_files)]
    exact = {public(name) for name in names if is_url(name) and not _is_pattern(name)}
    return [file for file in files if file.source == SOURCE and file.repo in exact]


def read(file: DataFile, offset: int, length: int) -> Iterator[bytes]:
    """Bytes `offset` to ``offset + length`` of a file behind a URL, in pieces.

    Raises:
        HubError: They cannot be had.
    """
    url, options = resolve(file.repo, {})
    if _is_http(url):
        headers = _headers(options)
        yield from read_range(url, lambda: headers, offset, length, what=file.label, hint=_HINT, size=file.size)
        return
    filesystem, path = _filesystem(url, options)
    try:
        with filesystem.open(path, "rb") as opened:
            opened.seek(offset)
            while length > 0 and (piece := opened.read(min(length, _PIECE))):
                length -= len(piece)
                yield piece
    except Exception as error:  # each filesystem has errors of its own
        raise _failed(file.label, error) from None
    if length > 0:
        raise HubError(f"{file.label}: ends before byte {file.size:,}, which its listing gives as its end. {_HINT}")


# -- finding -----------------------------------------------------------------------------------------------


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _is_pattern(url: str) -> bool:
    return any(sign in url for sign in ("*[" if _is_http(url) else "*?["))


def _matching(url: str, options: Mapping[str, Any] | None, token: Any) -> list[DataFile]:
    if not _is_pattern(url):
        access = _access(url, options, token)
        return [_file(url, posixpath.basename(public(url).split("::")[0]), access)]
    if "::" in url:
        raise BadArgument(f"{public(url)}: a chained URL cannot be a pattern; name its files one by one.")
    start = url[: min(url.index(sign) for sign in "*?[" if sign in url)].rpartition("/")[0]
    found = _listed(url, start, options, token, lambda filesystem, path: filesystem.glob(path, detail=True))
    if not found:
        raise DataFileNotFound(f"data_files: no file {public(url)!r}.")
    return found


def _below(folder: str, options: Mapping[str, Any] | None, token: Any) -> list[DataFile]:
    return _listed(
        folder, folder, options, token,
        lambda filesystem, path: filesystem.find(path, maxdepth=MAX_DEPTH + 1, detail=True),
    )  # fmt: skip


def _listed(url: str, start: str, options: Mapping[str, Any] | None, token: Any, ask: Any) -> list[DataFile]:
    """The files that `ask` finds, with their names below `start`; pictures are looked up by the paths of rows."""
    access = _access(start, options, token)
    real, known = resolve(public(start), {})
    filesystem, path = _filesystem(url, known)
    base = filesystem._strip_protocol(real).rstrip("/")
    try:
        found = ask(filesystem, path)
    except Exception as error:
        raise _failed(public(url), error) from None
    files = []
    for place, info in sorted(found.items()):
        name = str(place)[len(base) :].strip("/")
        if info.get("type") != "directory" and name and not name.lower().endswith(pictures.SUFFIXES):
            full = f"{real.rstrip('/')}/{checked_name(name, public(start))}"
            files.append(_file(full, name, _access(full, options, token) or access))
    return files


def _file(url: str, name: str, access: Access) -> DataFile:
    shown = public(url)
    real, options = resolve(shown, {})
    if _is_http(real):
        headers = _headers(options)
        size, stamp = size_and_stamp(real, lambda: headers, what=shown, hint=_HINT)
    else:
        filesystem, path = _filesystem(real, options)
        try:
            info = filesystem.info(path)
        except FileNotFoundError:
            raise DataFileNotFound(f"data_files: no file {shown!r}.") from None
        except Exception as error:
            raise _failed(shown, error) from None
        size, stamp = info.get("size"), remote_stamp(info) or str(info.get("created") or "")
    if not isinstance(size, int):
        raise HubError(f"{shown}: its size is not told, so that it cannot be read in parts. Fetch it first.")
    return DataFile(name or shown, size, SOURCE, None, shown, "", f"{size}:{stamp}", access)


# -- access ------------------------------------------------------------------------------------------------


def _access(url: str, options: Mapping[str, Any] | None, token: Any) -> Access:
    """What opens `url`, known to this process from now on."""
    protocol = url.partition("://")[0]
    given = dict(options or {})
    if isinstance(given.get(protocol), Mapping):  # as `datasets` takes them: for each protocol
        given = dict(given[protocol])
    if token is not None and protocol == "hf":
        given = {"token": token, **given}
    shown = public(url)
    return Access({shown: (url, given)}) if given or shown != url else Access()


def _headers(options: Mapping[str, Any]) -> dict[str, str]:
    inner = options.get("client_kwargs")
    return {**(inner.get("headers", {}) if isinstance(inner, Mapping) else {}), **(options.get("headers") or {})}


def _filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise MissingExtra(f"{public(url)}: {error}") from None
    except ValueError as error:  # no such protocol
        raise BadArgument(f"data_files: {public(url)!r} cannot be opened: {error}") from None
    except FileNotFoundError as error:  # an archive that a chained URL leads into
        raise DataFileNotFound(f"data_files: no file {error.filename or public(url)!r}, for {public(url)!r}.") from None
    except Exception as error:  # it is no archive, or each filesystem has errors of its own
        raise _failed(public(url), error) from None
    return filesystem, path


def _failed(shown: str, error: Exception) -> Exception:
    if isinstance(error, LlavaZhError):
        return error
    return HubError(f"{shown}: cannot be read ({type(error).__name__}: {str(error)[:200]}). {_HINT}")
