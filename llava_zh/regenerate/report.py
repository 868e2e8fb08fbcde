"""What a run did: figures while it goes on and at its end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_zh.gates.counts import counted
from llava_zh.gates.html_tables import html_table
from llava_zh.regenerate.ledger import Ledger
from llava_zh.regenerate.tally import figures
from llava_zh.storage.lines import write_lines

#: Reasons that a summary names; of the others it says how many there are.
SHOWN = 6


@dataclass
class Session:
    """Counts of one session of a run, kept while it works."""

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    asked: int = 0
    resent: int = 0
    restarts: int = 0
    completion_tokens: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)
    last_moved: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-6)


@dataclass(frozen=True)
class Report:
    """The figures of a run.

    Attributes:
        output_dir: The folder of the run.
        status: ``finished``, ``interrupted`` or ``stopped`` (by an error).
        rows: Rows in the output so far, of all sessions.
        distinct: Different rows among them, by their keys; as many, or something is wrong.
        failed: Rows given up so far, by reason, of all sessions; the commonest reason first.
        lengths_before, lengths_after: Rows, mean, smallest, largest and quantiles of the length of the answers, in
            characters; None where there is none. They are exact up to 20,000 characters and to within 1 % beyond; of
            units that version 0.1 has finished to within ten, and `to_within_ten` says how many rows those are.
        prompt_tokens, completion_tokens: Sums over the output.
        session: Of this session: seconds, rows done and failed, requests, retries by reason, images and completion
            tokens a second, and GPU-hours for a million rows at this rate (None if no row was done).
        notes: What has changed since the run began, and how to take it in.
    """

    output_dir: str
    status: str
    rows: int
    distinct: int
    failed: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    lengths_before: dict[str, Any] | None
    lengths_after: dict[str, Any] | None
    session: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, ledger: Ledger, status: str, session: Session, gpus: int, notes: Sequence[str] = ()) -> Report:
        """The figures of a ledger that is closed, and of its session."""
        rate, tally = session.done / session.seconds, ledger.tally
        return cls(
            output_dir=str(ledger.folder),
            status=status,
            rows=tally.rows,
            distinct=ledger.distinct_keys(),
            failed={reason: count for reason, count in ledger.failures.most_common() if count},
            prompt_tokens=tally.prompt_tokens,
            completion_tokens=tally.completion_tokens,
            lengths_before=figures(tally.before, tally.lengths_before),
            lengths_after=figures(tally.after, tally.lengths_after),
            session={
                "seconds": round(session.seconds, 3),
                "done": session.done,
                "failed": session.failed,
                "requests": session.asked,
                "retries": dict(session.retries.most_common()),
                "resent": session.resent,
                "server_restarts": session.restarts,
                "rows_per_second": round(rate, 3),
                "completion_tokens_per_second": round(session.completion_tokens / session.seconds, 3),
                "gpus": gpus,
                "gpu_hours_per_million_rows": round(gpus * 1e6 / rate / 3600, 1) if rate else None,
            },
            notes=list(notes),
        )

    @property
    def failed_file(self) -> Path:
        """The rows that were given up, each with its reason, what was wrong and the answer there was; may be empty."""
        return Path(self.output_dir) / "failed.jsonl"

    def write(self) -> None:
        """Put the report into ``report.json`` of its folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2)
        write_lines(Path(self.output_dir) / "report.json", [text.encode(), b"\n"])

    def _repr_html_(self) -> str:
        """A table for a notebook."""
        return html_table(
            "Regeneration",
            {
                "folder": self.output_dir,
                "status": self.status,
                "rows": self.rows,
                "failed": self.failed,
                "characters before": self.lengths_before,
                "characters after": self.lengths_after,
                "this session": self.session,
                "notes": self.notes,
            },
        )

    def summary(self) -> str:
        """The report for a reader, several lines."""
        session = self.session
        lines = [
            f"{self.status}: {counted(self.rows, 'rows')} in {self.output_dir}, {sum(self.failed.values()):,} failed",
            f"this session: {session['done']:,} done, {session['failed']:,} failed in {session['seconds']:,.1f} s; "
            f"{session['rows_per_second']:,.1f} rows/s, {session['completion_tokens_per_second']:,.0f} tokens/s; "
            f"{session['requests']:,} requests",
        ]
        if session["gpu_hours_per_million_rows"] is not None:
            lines.append(
                f"at this rate {session['gpu_hours_per_million_rows']:,.1f} GPU-hours a million rows "
                f"({session['gpus']} GPU)"
            )
        for title, lengths in (("before", self.lengths_before), ("after", self.lengths_after)):
            if lengths:
                lines.append(
                    f"characters {title}: mean {lengths['mean']:g}, min {lengths['min']}, p5 {lengths['p5']}, "
                    f"median {lengths['p50']}, p95 {lengths['p95']}, max {lengths['max']}"
                )
        if session["retries"]:
            lines.append(f"retried: {_commonest(session['retries'])}")
        if self.failed:
            lines.append(f"failed: {_commonest(self.failed)}")
            lines.append(
                f"each of them, with what was wrong, is in {self.failed_file}; "
                "retry_failed=True (--retry-failed) asks for them again"
            )
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _commonest(counts: Mapping[str, int]) -> str:
    """Counts by reason in a line, the largest first; of many reasons those that make up most."""
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    said = ", ".join(f"{reason} {count:,}" for reason, count in ordered[:SHOWN])
    rest = ordered[SHOWN:]
    more = "other reason" if len(rest) == 1 else "other reasons"
    return f"{said}, {len(rest)} {more} {sum(count for _, count in rest):,}" if rest else said
