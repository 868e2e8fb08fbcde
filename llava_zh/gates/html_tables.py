"""A small table for a notebook, of what a call returned; whatever the figures hold is shown as text."""

from __future__ import annotations

import html
from collections.abc import Mapping

from .safe_text import one_line


def html_table(title: str, figures: Mapping[str, object]) -> str:
    """`figures` as an HTML table of two columns under `title`; those that are None or empty are left out.

    A mapping among them takes a line for each of its entries, a list one line for each.
    """
    lines = [f"<tr><th colspan='2' style='text-align:left'>{_text(title)}</th></tr>"]
    for name, value in figures.items():
        if value is None or value == "" or (isinstance(value, Mapping | list | tuple) and not value):
            continue
        entries = value.items() if isinstance(value, Mapping) else [("", each) for each in _several(value)]
        for number, (label, entry) in enumerate(entries):
            shown = f"{_text(label)}: {_text(entry)}" if label != "" else _text(entry)
            head = _text(name) if number == 0 else ""
            lines.append(f"<tr><td style='text-align:left'>{head}</td><td style='text-align:left'>{shown}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def _several(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return html.escape(one_line(f"{value:,}" if number else str(value)))
