"""The report of a curation as one page to read, which loads nothing, runs nothing, and works without a network.

All that comes from rows (texts, paths, ids, names of tasks) is hostile: it goes through :func:`_text`, and the page
allows no script, no picture and no address.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from html import escape
from typing import Any

from llava_zh.curation.report import REASONS
from llava_zh.curation.text import detect_language
from llava_zh.gates.counts import counted
from llava_zh.gates.safe_text import one_line, safe

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --faint: #666d76; --line: #d9dde2; --panel: #f5f7f9;
  --kept: #3b7dbf; --lost: #d1663f; --limit: #8a2f2f; --differs: #ffe3b3; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --faint: #99a1aa; --line: #343a41;
  --panel: #1c2125; --kept: #5b9bd8; --lost: #e0805c; --limit: #f0a3a3; --differs: #5c4518; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
:lang(zh) { font-family: "PingFang SC", "Hiragino Sans GB", "Noto Sans CJK SC", "Source Han Sans SC", "Microsoft YaHei",
  "WenQuanYi Micro Hei", system-ui, sans-serif; line-height: 1.75; text-align: justify; line-break: strict; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
.faint, figcaption, dt { color: var(--faint); font-size: .875rem; }
a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: .2em; }
.counts { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.25rem 0; padding: 0; }
.counts div { display: flex; flex-direction: column-reverse; }
.counts dd { margin: 0; font-size: 1.75rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.advice { border-left: 4px solid var(--lost); background: var(--panel); padding: .75rem 1rem; margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; font-size: .875rem; color: var(--faint); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td svg { display: block; width: 10rem; height: .75rem; margin-top: .45rem; }
figure { margin: 1rem 0 2rem; }
figure svg { width: 100%; height: auto; display: block; }
.kept { fill: var(--kept); } .lost { fill: var(--lost); } .axis { stroke: var(--line); }
.limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg text { fill: var(--faint); font: 13px system-ui, sans-serif; } svg .limits { fill: var(--limit); }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .35em 0 .9em; border-radius: 2px; }
.key.kept { background: var(--kept); margin-left: 0; } .key.lost { background: var(--lost); }
.pair, .example { border: 1px solid var(--line); border-radius: 6px; margin: .75rem 0; background: var(--panel); }
.pair { display: grid; grid-template-columns: 1fr 1fr; } .pair > * + * { border-left: 1px solid var(--line); }
.side, .example { padding: .6rem .9rem; min-width: 0; }
.side p, .example p { margin: .25rem 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.pair footer { grid-column: 1 / -1; border-left: 0; border-top: 1px solid var(--line); padding: .3rem .9rem; }
.where { color: var(--faint); font-size: .8125rem; overflow-wrap: anywhere; }
.why { font-weight: 600; }
mark { background: var(--differs); color: inherit; border-radius: 2px; }
code { font: .875em/1.5 ui-monospace, "SF Mono", Consolas, monospace; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr; }
  .pair > * + * { border-left: 0; border-top: 1px solid var(--line); } td svg { width: 5rem; } }
@media print { body { max-width: none; } .pair, .example, figure { break-inside: avoid; } }
"""
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
# A Chinese character is a token of its own, as is a word, and each run of what divides them.
_TOKEN = re.compile(r"[A-Za-z0-9\u00c0-\u024f]+|\s+|.", re.DOTALL)


def page(report: Mapping[str, Any]) -> str:
    """The page of a report, given as :meth:`CurationReport.to_dict` has it."""
    source = " ".join(str(report["parameters"].get(part) or "") for part in ("path", "name")).strip()
    parts = [
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='referrer' content='no-referrer'>\n"
        f"<title>Curation of {_text(source)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        *_head(report, source),
        *_reasons(report),
        *_lengths(report),
        *_pairs(report),
        *_examples(report),
        *_settings(report),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _text(value: object) -> str:
    """A text from outside, for one line."""
    return escape(one_line(str(value)))


def _said(text: str, tag: str = "p", content: str | None = None) -> str:
    """What a row says, in its language."""
    language = {"zh": "zh-Hans", "en": "en"}.get(detect_language(text) or "", "und")
    shown = escape(safe(text)) if content is None else content
    return f"<{tag} lang='{language}' dir='auto'>{shown}</{tag}>"


def _head(report: Mapping[str, Any], source: str) -> Iterator[str]:
    rows, kept, dropped = report["rows"], report["kept"], report["dropped"]
    share = f" ({dropped / rows:.1%})" if rows else ""
    yield f"<header><h1>Curation of {_text(source)}</h1>"
    if report["dry_run"]:
        yield "<p class='faint'>A dry run: these rows would be kept and dropped; none were written.</p>"
    counts = (("rows", f"{rows:,}"), ("kept", f"{kept:,}"), ("dropped", f"{dropped:,}{share}"))
    yield "<dl class='counts'>" + "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in counts) + "</dl></header>"
    for sentence in report["advice"]:
        yield f"<p class='advice'>{_text(sentence)}</p>"


def _reasons(report: Mapping[str, Any]) -> Iterator[str]:
    found = {reason: entry["count"] for reason, entry in report["reasons"].items() if entry["count"]}
    yield "<h2>Why rows were dropped</h2>"
    if not found:
        yield "<p>No row was dropped.</p>"
        return
    yield (
        "<p class='faint'>A row that has several reasons counts for each of them.</p>"
        "<div class='wide'><table><thead><tr><th>Reason</th><th></th><th class='number'>Rows</th><th></th></tr></thead>"
        "<tbody>"
    )
    most = max(found.values())
    for reason, count in sorted(found.items(), key=lambda item: -item[1]):
        bar = _bar(0, 0, 100 * count / most, 8, "lost")
        yield (
            f"<tr><td><a href='#{reason}'><code>{reason}</code></a></td><td>{escape(REASONS[reason])}</td>"
            f"<td class='number'>{count:,}</td><td>"
            f"<svg viewBox='0 0 100 8' preserveAspectRatio='none' aria-hidden='true'>{bar}</svg></td></tr>"
        )
    yield "</tbody></table></div>"


# -- lengths -----------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 960, 240, 8, 26, 26


def _lengths(report: Mapping[str, Any]) -> Iterator[str]:
    groups = {name: figures for name, figures in report["lengths"].items() if figures["histogram"]}
    if not groups:
        return
    yield (
        "<h2>Lengths, and where the limits cut</h2>"
        "<p class='faint'>Characters of the answers of a row, for each language and task. "
        "<span class='key kept'></span>kept <span class='key lost'></span>dropped, for whatever reason. "
        "The broken lines are the limits.</p>"
    )
    for name, figures in groups.items():
        yield f"<h3>{_text(name)}, {counted(sum(figures['histogram']['all']), 'rows')}</h3>"
        yield f"<figure>{_chart(figures, name)}<figcaption>{_spreads(figures)}</figcaption></figure>"


def _spreads(figures: Mapping[str, Any]) -> str:
    low, high = (f"{bound:,}" if bound is not None else "any" for bound in figures["bounds"])
    told = [f"{low} to {high} characters are kept"]
    for which in ("all", "kept"):
        if figures[which]:
            spread = ", ".join(f"{name} {value:,}" for name, value in figures[which].items())
            told.append(f"{which}: {spread}")
    return "; ".join(told)


def _chart(figures: Mapping[str, Any], name: str) -> str:
    histogram = figures["histogram"]
    start, width, everything = histogram["start"], histogram["width"], histogram["all"]
    end = start + width * len(everything)
    most = max(everything)
    height, inner = _HEIGHT - _BOTTOM - _TOP, _WIDTH - 2 * _LEFT

    def across(length: int) -> float:
        return float(_LEFT + inner * (length - start) / (end - start))

    parts = [f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='Lengths of {_text(name)}'>"]
    for index, (count, kept) in enumerate(zip(everything, histogram["kept"], strict=True)):
        left, right = across(start + index * width), across(start + (index + 1) * width)
        tall = _tall(kept, most, height)
        lost = _tall(count - kept, most, height)
        parts.append(_bar(left + 0.5, _HEIGHT - _BOTTOM - tall, right - left - 1, tall, "kept"))
        parts.append(_bar(left + 0.5, _HEIGHT - _BOTTOM - tall - lost, right - left - 1, lost, "lost"))
    base = _HEIGHT - _BOTTOM
    parts.append(f"<line class='axis' x1='{_LEFT}' x2='{_WIDTH - _LEFT}' y1='{base}' y2='{base}'/>")
    more = figures["all"]["max"] >= end
    for at, label, anchor in (
        (start, f"{start:,}", "start"),
        ((start + end) // 2, f"{(start + end) // 2:,}", "middle"),
        (end, f"{end - width:,} and longer" if more else f"{end - 1:,}", "end"),
    ):
        parts.append(f"<text x='{across(at):.1f}' y='{_HEIGHT - 8}' text-anchor='{anchor}'>{label}</text>")
    for bound, side, anchor in zip(figures["bounds"], (0, 1), ("start", "end"), strict=True):
        if bound is not None and start <= bound <= end:
            x = min(across(bound + side), _WIDTH - 2)  # a length at the limit is kept
            parts.append(f"<line class='limit' x1='{x:.1f}' x2='{x:.1f}' y1='{_TOP - 8}' y2='{base}'/>")
            place = x if _LEFT + 60 < x < _WIDTH - 60 else max(_LEFT, min(x, _WIDTH - _LEFT))
            parts.append(f"<text class='limits' x='{place:.1f}' y='12' text-anchor='{anchor}'>{bound:,}</text>")
    return "".join([*parts, "</svg>"])


def _tall(count: int, most: int, height: float) -> float:
    """The height of a bar; a few rows among millions are seen."""
    return max(2.0, height * count / most) if count else 0.0


def _bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    if height <= 0:
        return ""
    return f"<rect class='{kind}' x='{x:.1f}' y='{y:.1f}' width='{max(width, 0.5):.1f}' height='{height:.1f}'/>"


# -- rows --------------------------------------------------------------------------------------------------


def _where(row: Mapping[str, Any]) -> str:
    told = [f"row {row['row']}"]
    if row["id"] is not None:
        told.append(f"id {_text(_cut(row['id']))}")
    images = row["image"] if isinstance(row["image"], list) else [row["image"]]
    told += [_text(_cut(image)) for image in images[:4] if image is not None]
    return f"<div class='where'>{' · '.join(told)}</div>"


def _cut(value: object, length: int = 200) -> str:
    text = str(value)
    return text if len(text) <= length else text[:length] + "…"


def _pairs(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["pairs"]:
        return
    yield (
        "<h2>Duplicates beside what they repeat</h2>"
        "<p class='faint'>Some of them, chosen evenly among all. What differs is marked.</p>"
    )
    for pair in report["pairs"]:
        kept, dropped = pair["kept"], pair["dropped"]
        both = _marked(kept["text"], dropped["text"])
        yield "<section class='pair'>"
        for title, row, shown in (("kept", kept, both[0]), ("dropped", dropped, both[1])):
            yield f"<div class='side'><strong>{title}</strong>{_where(row)}{_said(row['text'], content=shown)}</div>"
        why = f"<code>{escape(pair['reason'])}</code>: {_text(pair['detail'])}"
        yield f"<footer class='where'>{why}</footer></section>"


def _marked(one: str, other: str) -> tuple[str, str]:
    """Both texts, escaped, with what only one of them has marked."""
    left, right = _TOKEN.findall(safe(one)), _TOKEN.findall(safe(other))
    found: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for into, tokens in zip(found, (left[a:b], right[c:d]), strict=True):
            text = escape("".join(tokens))
            into.append(f"<mark>{text}</mark>" if text and kind != "equal" else text)
    return "".join(found[0]), "".join(found[1])


def _examples(report: Mapping[str, Any]) -> Iterator[str]:
    found = {reason: entry["examples"] for reason, entry in report["reasons"].items() if entry["examples"]}
    if not found:
        return
    yield "<h2>Examples of each reason</h2>"
    if not report["dry_run"]:
        yield "<p class='faint'>All dropped rows, with all their reasons, are in dropped.jsonl.</p>"
    for reason, examples in found.items():
        yield f"<h3 id='{reason}'><code>{reason}</code>: {escape(REASONS[reason])}</h3>"
        yield from map(_example, examples)


def _example(row: Mapping[str, Any]) -> str:
    text = row["text"] or "(no text)"
    return f"<div class='example'><div class='why'>{_text(row['detail'])}</div>{_where(row)}{_said(text)}</div>"


def _settings(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>What was asked</h2><div class='wide'><table><tbody>"
    yield from _told(report["parameters"].items())
    yield f"</tbody></table></div><p class='faint'>Took {report['seconds']:,.1f} s.</p>"


def _told(settings: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for name, value in settings:
        if value is not None and value != []:
            yield f"<tr><td><code>{_text(name)}</code></td><td>{_text(_cut(value, 400))}</td></tr>"
