"""What a notebook shows of a result: figures in a table, and text that is never markup."""

from __future__ import annotations

from llava_zh.curation.report import CurationReport
from llava_zh.exporters.run import ExportSummary
from llava_zh.gates.html_tables import html_table


def test_a_table_has_a_line_for_each_figure_and_no_markup_from_outside() -> None:
    figures = {"rows": 1000, "none": None, "empty": {}, "failed": {"<b>": 2, "c": 3}, "notes": ["a"]}
    shown = html_table("Run <x>", figures)
    assert "<b>" not in shown and "<x>" not in shown
    assert shown.count("<tr>") == 1 + 1 + 2 + 1
    assert "&lt;b&gt;: 2" in shown and "1,000" in shown and "none" not in shown


def test_what_the_calls_return_is_a_table_in_a_notebook() -> None:
    report = CurationReport({}, rows=1200, kept=1000, dropped=200)
    report.reasons["loop"] = {"count": 200, "examples": []}
    assert "loop: 200" in report._repr_html_()
    summary = ExportSummary("/x/<y>", ("a", "b"), 1200, None, 7, 0, 1_000_000, 2, 0, 1.25, "load it\nso")
    shown = summary._repr_html_()
    assert "/x/&lt;y&gt;" in shown and "1.0 MB" in shown and "1,200" in shown
