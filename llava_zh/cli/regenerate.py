"""``llava-zh regenerate``: ask a vision-language model about every image of a dataset."""

from __future__ import annotations

import argparse
import json
from typing import Any

from . import text
from .commands import Subparsers, new_parser
from .options import add_dataset, add_json, add_load_options, add_output_dir, load_keywords, own_keywords

_EXAMPLE = """\
  llava-zh regenerate internvl-sa-1b-caption single_zh --image-root /data/sa1b --output-dir captions \\
      --base-url http://127.0.0.1:8000/v1 --model OpenGVLab/InternVL2-Llama3-76B --concurrency 256
  llava-zh regenerate llava-instruct-zh-600k default --output-dir turns --model Qwen/Qwen2.5-VL-32B-Instruct \\
      --serve vllm --serve-args="--tensor-parallel-size 4" --gpus 4 --parameters '{"temperature": 0.7}'

The same command goes on after Ctrl-C, a crash or a power cut; the API key is read from LLAVA_ZH_API_KEY.
The output loads again: load_dataset("internvl-sa-1b-caption", "single_zh", data_dir="captions")
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "regenerate",
        help="write new captions or conversations with a vision-language model, losing nothing",
        description=(
            "Asks a model behind one or several OpenAI-compatible servers about every image. Writes rows as published "
            "to DIR/data/*.jsonl, those given up to DIR/failed.jsonl and the figures to DIR/report.json."
        ),
        example=_EXAMPLE,
    )
    add_dataset(parser)
    add_output_dir(parser, "folder of this run")
    parser.add_argument("--model", required=True, help="name the servers know the model by; with --serve, what to load")
    _add_servers(parser)
    _add_asking(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows; a later call may raise it")
    parser.add_argument("--retry-failed", action="store_true", help="ask again for the rows that were given up")
    parser.add_argument(
        "--widen", action="store_true", help="append rows of archives that have arrived, or images that are not bad now"
    )
    parser.add_argument("--unit-rows", type=int, metavar="N", help="rows an output file (default: 10000)")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument(
        "--write-batch", action="store_true", help="write DIR/batch/*.jsonl for an offline batch instead"
    )
    batch.add_argument("--read-batch", nargs="+", metavar="FILE", help="read the results of such a batch")
    add_json(parser, "the report")
    add_load_options(parser, without={"row_format"})  # a model is asked about rows as published
    parser.set_defaults(run=run)


def _add_servers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where the model is")
    group.add_argument("--base-url", nargs="+", metavar="URL", help="root of the API, such as http://127.0.0.1:8000/v1")
    group.add_argument(
        "--serve",
        choices=("lmdeploy", "vllm", "sglang", "transformers"),
        help="start the server, and stop it at the end",
    )
    group.add_argument(
        "--serve-args", type=str.split, metavar="ARGS", help="more arguments of that server, as one word"
    )
    group.add_argument("--gpus", type=int, metavar="N", help="GPUs behind the servers, for the report (default: 1)")
    group.add_argument("--concurrency", type=int, metavar="N", help="requests in flight at once (default: 64)")
    group.add_argument("--timeout", type=float, metavar="S", help="seconds a request may take (default: 600)")
    group.add_argument(
        "--stall-after", type=float, metavar="S", help="seconds until a hung request is re-sent (default: 120)"
    )
    group.add_argument(
        "--max-retries", type=int, metavar="N", help="transient faults of a row until it is given up (default: 8)"
    )


def _add_asking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it is asked")
    group.add_argument(
        "--prompt",
        help="caption_en, caption_zh, conversation, complex_reasoning, detail, original, llava or a file "
        "(default: what the configuration was made with)",
    )
    group.add_argument("--parameters", type=parameters, metavar="JSON", help="such as '{\"temperature\": 0.7}'")
    group.add_argument(
        "--max-pixels", type=int, metavar="N", help="downscale larger images (default: send the original bytes)"
    )
    group.add_argument("--send-paths", action="store_true", help="send file:// paths to a server that shares the disk")
    group.add_argument("--seed", type=int, metavar="N", help="of the draw of llava tasks (default: 0)")
    group.add_argument(
        "--answer-attempts", type=int, metavar="N", help="empty, cut off or unparsable answers a row (default: 3)"
    )


# What a batch takes: all that concerns no server.
_OFFLINE_OPTIONS = (
    "output_dir",
    "model",
    "prompt",
    "parameters",
    "max_pixels",
    "send_paths",
    "seed",
    "limit",
    "unit_rows",
    "widen",
)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status, 3 if rows were given up and 130 after Ctrl-C."""
    from dataclasses import asdict

    from ..regenerate import read_batch, regenerate, write_batch

    offline = args.write_batch or args.read_batch
    own = own_keywords(regenerate, args).items()
    own_given = {name: value for name, value in own if value is not None and (not offline or name in _OFFLINE_OPTIONS)}
    given = own_given | load_keywords(args)
    try:
        if args.write_batch:
            text.say("\n".join(map(str, write_batch(args.path, args.name, **given))))
            return 0
        if args.read_batch:
            report = read_batch(args.path, args.name, results=args.read_batch, **given)
        else:
            report = regenerate(args.path, args.name, **given)
    except KeyboardInterrupt:
        text.tell(f"Stopped; the same command goes on. Figures: {args.output_dir}/report.json")
        return 130
    if args.json:
        text.say_json(asdict(report))
    else:
        text.say_typed(report.summary())
    return 3 if report.failed else 0


def parameters(text: str) -> dict[str, Any]:
    """The fields of every request, as --parameters gives them."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {text!r} ({error})") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {text!r}")
    return found
