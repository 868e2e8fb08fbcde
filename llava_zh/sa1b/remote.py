"""What the errors of a remote filesystem mean: a file that is not there, one that is refused, a server in trouble."""

from __future__ import annotations

from llava_zh.errors import BadImage
from llava_zh.safe_text import safe

#: Answers to a listing that say only that this server gives none.
NO_LISTING = (400, 401, 403, 404, 405, 410, 501)


class RefusedImage(BadImage):
    """A server that refuses a file (401, 403) rather than not having it."""


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that `error`, or what caused it, is about."""
    while error is not None:
        status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
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
    return BadImage(f"{where} could not be read this time ({status or safe(str(why)) or type(why).__name__}).")
