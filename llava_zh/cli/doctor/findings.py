"""A line of the checklist, and checks that must not end each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the checklist; `advice` is what to do about it. A `state` of "" is for the reader to judge."""

    state: Literal["ok", "missing", "differs", "failed", ""]
    what: str
    detail: str
    advice: str = ""


Findings = Iterator[Finding]


def guarded(check: Callable[[], Findings]) -> Findings:
    """The findings of a check that must not end the others, whatever it comes upon."""
    try:
        yield from check()
    except Exception as error:
        yield Finding("failed", "this check", first_line(error))


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or what it is called."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
