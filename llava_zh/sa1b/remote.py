"""What the errors of a remote filesystem mean: a file that is not there, one that is refused, a server in trouble."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from llava_zh.errors import BadImage, ImageNotFound, LlavaZhError
from llava_zh.gates.magic import begins_as
from llava_zh.gates.safe_text import one_line

#: Answers to a listing that say only that this server gives none.
NO_LISTING = (400, 401, 403, 404, 405, 410, 501)


class Unreadable(BadImage):
    """An image on another machine that could not be read this time, and may be the next time."""


class RefusedImage(BadImage):
    """A server that refuses a file (401, 403) rather than not having it."""


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that `error`, or what caused it, is about."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):  # as botocore has it
            metadata = response.get("ResponseMetadata")
            response = metadata if isinstance(metadata, Mapping) else {}
            status = response.get("HTTPStatusCode")
        else:
            status = getattr(error, "status", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def verdict(error: Exception, where: str) -> BadImage | None:
    """What an `error` of a remote filesystem says of the file `where`: None for one that is not there.

    fsspec reports whatever goes wrong as FileNotFoundError, and the true cause as its cause.
    """
    status = status_of(error)
    if status in (401, 403) or (status is None and isinstance(error, PermissionError)):
        return RefusedImage(
            f"{where} is refused ({status or 'no permission'}). If it needs a password or a token: rows hold none, so "
            "pass image_root= (and token=) in this process too, or set SA1B_ROOT."
        )
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError) and error.__cause__ is None):
        return None
    why = error.__cause__ or error
    if isinstance(why, FileNotFoundError | NotADirectoryError) and status is None:
        return None
    return trouble(error, where)


def trouble(error: Exception, where: str) -> Unreadable:
    """The error for a place `where` whose server is in trouble, with the reason in a few words on one line."""
    return Unreadable(f"{where} could not be read this time ({_reason(error)}).")


def _reason(error: Exception) -> str:
    """Why a client failed. Its own text may be long, of several lines, and show the URL that it was given."""
    status = status_of(error)
    if status:
        return str(status)
    why = error.__cause__ or error
    kinds = {cls.__name__ for fault in (error, why, why.__cause__) for cls in type(fault).__mro__}
    if "ContentLengthError" in kinds or "content length" in str(why).lower():
        return "its answer ended before all of its bytes had come"
    if "TooManyRedirects" in kinds:
        return "its redirects do not end"
    if "TimeoutError" in kinds:
        return "no answer in time"
    text = one_line(str(getattr(why, "strerror", None) or why).strip())
    return text if 0 < len(text) <= 160 else type(why).__name__


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Whatever a remote filesystem raises within, as what it says of `where`.

    Raises: ImageNotFound for what is not there; BadImage for anything else.
    """
    try:
        yield
    except LlavaZhError:
        raise
    except Exception as error:  # every filesystem behind fsspec has errors of its own
        raise verdict(error, where) or ImageNotFound(f"{where} is not there any more.") from None


def fetch(fs: Any, path: str, start: int, stop: int, size: int, where: str) -> bytes:
    """Bytes `start` to `stop` of the file at `path`, which was announced with `size` bytes.

    A whole file is asked for without a range, so that more bytes than were announced do not go unseen.

    Raises: ImageNotFound; BadImage, also for other bytes than these, as an announcement may be wrong.
    """
    whole = start == 0 and stop >= size
    with explained(where):
        data: bytes = fs.cat_file(path) if whole else fs.cat_file(path, start=start, end=stop)
    if start == 0 and (begun := begins_as(data[:512])).endswith("page"):
        # Servers answer so, with status 200, for what they do not have or want a login for.
        raise BadImage(f"{where} is {begun}, not a picture. Open the address in a browser to see what it says.")
    if len(data) == (size if whole else stop - start):
        return data
    if len(data) == size:  # of a server without byte ranges
        return data[start:stop]
    asked = f"{size:,}" if whole else f"{stop - start:,} of its {size:,}"
    raise BadImage(f"{where} ended after {len(data):,} bytes where the server had announced {asked}.")
