"""What can go wrong with one request, told apart by what to do about it."""

from __future__ import annotations

from llava_zh.errors import BadAnswer, ServerError


class Transient(ServerError):
    """A fault that may pass: the request is worth sending again. `reason` names it in the report."""

    reason: str
    retry_after: float | None = None  # seconds the server asked to be left alone
    blames_row: bool = True  # False where the row certainly has no part in it


class Refused(ServerError):
    """A request that the server will never accept: the row is at fault. `reason` names it in the report."""

    reason: str
    status: int


class Unserved(BadAnswer):
    """An answer that is none: empty, cut off or filtered. Attributes: reason, answer (the text, as far as it goes)."""

    reason: str
    answer: str
