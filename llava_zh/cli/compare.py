"""``llava-zh compare``: old texts beside new ones, by measure and by a model's judgement."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog.request import image_roots
from ..errors import BadArgument
from . import text
from .commands import Subparsers, new_parser
from .options import add_json, add_output_dir, add_some, load_keywords, own_keywords
from .regenerate import parameters

if TYPE_CHECKING:
    from ..comparison import Comparison

_EXAMPLE = """\
  llava-zh compare captions                        # the output folder of `llava-zh regenerate`
  llava-zh compare new.jsonl --with old.jsonl      # two sets of rows, matched by image
  llava-zh compare captions --judge --base-url http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-VL-72B-Instruct \\
      --image-root /data/sa1b --limit 500

The judge is asked about each pair twice, in both orders, and is not told which text is old. Its answers are kept in
captions/compare/judge; the same command goes on after Ctrl-C, a crash or a power cut. The API key is read from
LLAVA_ZH_API_KEY.
"""
#: Options that mean something with --judge alone.
_OF_JUDGE = (
    "base_url", "model", "limit", "concurrency", "parameters", "max_pixels", "timeout", "max_retries",
    "answer_attempts", "retry_failed",
)  # fmt: skip


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "compare",
        help="put old texts beside new ones: lengths, faults, words, samples, and what a judge prefers",
        description=(
            "Compares the texts that a run wrote with those that they replaced: lengths, repetition, leaked prompts, "
            "refusals, wrong language, words gained and lost, the share unchanged, and sampled pairs. With --judge a "
            "model says which text fits the picture better."
        ),
        example=_EXAMPLE,
    )
    add = parser.add_argument
    add("compared", metavar="RUN", help="output folder of `llava-zh regenerate`, or a folder or file of such rows")
    add("--with", dest="other", metavar="OTHER", help="the old rows, where RUN does not hold them: a folder or file")
    add("--sample", type=int, default=20, metavar="N", help="pairs that are shown (default: 20)")
    add("--seed", type=int, default=0, metavar="N", help="of the draws of pairs (default: 0)")
    add("--language", choices=("zh", "en"), help="language of the new texts (default: what prompt or config says)")
    add_some(parser, "on_bad_row")
    add_output_dir(parser, "folder for report.json, pairs.jsonl and the judge's answers", optional=True)
    add("--output", metavar="FILE", help="file for the report alone, as JSON")
    add_json(parser, "the report")
    _add_judge(parser)
    parser.set_defaults(run=run)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a model as judge")
    add = group.add_argument
    add("--judge", action="store_true", help="ask a model which text fits the picture better, blind and in both orders")
    add("--base-url", nargs="+", metavar="URL", help="root of its API, such as http://127.0.0.1:8000/v1")
    add("--model", help="name the servers know it by")
    add(
        "--image-root",
        type=image_roots,
        metavar="ROOT",
        help="where the pictures are: folder or URL of SA-1B, or of other images",
    )
    add("--limit", type=int, metavar="N", help="pairs it is asked about (default: 200); a later call may raise it")
    add("--concurrency", type=int, metavar="N", help="requests in flight at once (default: 16)")
    add("--parameters", type=parameters, metavar="JSON", help="such as '{\"temperature\": 0}'")
    add("--max-pixels", type=int, metavar="N", help="downscale larger images (default: send the original bytes)")
    add("--timeout", type=float, metavar="S", help="seconds a request may take (default: 600)")
    add("--max-retries", type=int, metavar="N", help="transient faults of a question until it is given up (default: 8)")
    add("--answer-attempts", type=int, metavar="N", help="unreadable answers until it is given up (default: 3)")
    add("--retry-failed", action="store_true", default=None, help="ask again for what was given up")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status, 3 if the judge gave answers up and 130 after Ctrl-C."""
    from ..comparison import compare
    from ..comparison.entry import write_report

    judge = _judge(args)
    keywords = own_keywords(compare, args, without=("run",)) | load_keywords(args) | {"judge": judge}
    try:
        result = compare(args.compared, **keywords)
    except KeyboardInterrupt:
        if judge is None:
            raise  # nothing was kept that the same command could go on with
        text.tell("Stopped; the same command goes on.")
        return 130
    if args.output:
        write_report(result, Path(args.output))
    if args.json:
        text.say_json(result.to_dict(), indent=2)
    else:
        text.say("\n".join(_lines(result)))
    return 3 if result.judge is not None and result.judge["failed"] else 0


def _judge(args: argparse.Namespace) -> Any:
    from ..comparison import Judge

    given = {name: value for name in _OF_JUDGE if (value := getattr(args, name)) is not None}
    if not args.judge:
        if given or args.image_root is not None:
            names = [*given, *(["image_root"] if args.image_root is not None else [])]
            shown = ", ".join("--" + name.replace("_", "-") for name in names)
            raise BadArgument(f"{shown}: for a judge alone. Add --judge.")
        return None
    if missing := [name for name in ("base_url", "model") if name not in given]:
        shown = " and ".join("--" + name.replace("_", "-") for name in missing)
        raise BadArgument(f"--judge needs {shown}.")
    return Judge(**given)


def _lines(result: Comparison) -> Iterator[str]:
    """The result as wide as the terminal."""
    wide = text.columns()
    yield from text.wrap(text.one_line(result.title), wide)
    yield text.table(result.table(), right=(1, 2))
    for sentence in result.sentences():
        yield from text.wrap(text.one_line(text.typed(sentence)), wide)
    for number, pair in enumerate(result.samples, start=1):
        yield ""
        named = ", ".join(pair["images"]) or str(pair["id"])
        yield from text.wrap(text.one_line(f"pair {number} of {len(result.samples)}: {named}"), wide)
        for side in ("old", "new"):
            for at, line in enumerate(text.wrap(pair[side] or "(nothing)", wide - 6)):
                yield f"  {side if not at else '':<4}{line}"


__all__ = ["add_parser", "run"]
