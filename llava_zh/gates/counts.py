"""Numbers of things as they are said: ``1 row``, ``2 rows``, ``77,000 rows``."""

from __future__ import annotations


def counted(number: int, thing: str, things: str | None = None) -> str:
    """`number` and the word for it: `thing` for one, else `things`, by default `thing` with an s."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
