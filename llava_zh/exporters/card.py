"""The dataset card of an export: a README.md whose head `datasets` and the hubs read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..catalog.facts import DatasetFacts
from ..gates.counts import counted
from ..gates.safe_text import one_line, printable
from .targets import TARGETS, DataFile

_PIXELS = {
    "url": "Rows name the pictures by URL or path; none are in this folder.",
    "files": "The pictures are files in `images/`.",
    "embed": "The pictures are in the data files themselves.",
}
_SA1B_LICENCE = "https://ai.meta.com/datasets/segment-anything/"
_SA1B = (
    f"Meta's SA-1B, under the SA-1B research licence ({_SA1B_LICENCE}), which the licence of the text does not cover"
)


def card(
    facts: DatasetFacts,
    request: Mapping[str, Any],
    files: Sequence[DataFile],
    features: Any | None,
    usage: str,
    notes: str,
    version: str,
) -> str:
    """The text of README.md.

    Args:
        request: What was asked for, as it is in the export's manifest.
        features: The columns of rows that `datasets` reads, or None where it infers them.
        usage, notes: How the export is read, and what else its reader has to be known for.
    """
    configs = list(dict.fromkeys(file.config for file in files))
    pictures = request["images"]
    rows = sum(file.rows for file in files)
    copied = facts.in_sa1b and pictures != "url"
    licences = [f"- Text: {facts.licence}.", f"- Pictures: {facts.image_licence}."]
    if facts.in_sa1b:
        licences[1] = (
            f"- Pictures: {_SA1B}{': do not pass this folder on.' if copied else '; none are in this folder.'}"
        )
        if facts.has_own_images:
            licences[1] += f" Of the others: {facts.image_licence}."
    source = f"[{facts.title}]({facts.homepage})" if facts.homepage else facts.title
    settings = [
        f"- {name}: {_code(value)}"
        for name, value in request.items()
        if value not in (None, {}, "") and name != "files"
    ]
    lines = [
        "---",
        _head(facts, configs, files, features, copied),
        "---",
        "",
        f"# {facts.title}, exported for {request['to']}",
        "",
        f"{facts.description}",
        "",
        f"{counted(rows, 'rows')} in {counted(len(files), 'files')}. {_PIXELS[pictures]}",
        "",
        "## Use",
        "",
        *_fenced(usage),
        *(["", notes] if notes else []),
        *_lazy_note(facts, request),
        "",
        "## Licence",
        "",
        *licences,
        "",
        "## How it was made",
        "",
        f"Written by llava-zh {version} from {source}:",
        "",
        *settings,
    ]
    if facts.citation:
        lines += ["", "## Citation", "", *_fenced(facts.citation.strip(), "bibtex")]
    return "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    """A value, which may hold any text (a system prompt, the name of an image), as code: neither Markdown nor HTML."""
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    if re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        return text
    fence = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _fenced(text: str, language: str = "") -> list[str]:
    """A block of code, whatever stands in it."""
    fence = "`" * max(_longest_run(text) + 1, 3)
    return [f"{fence}{language}", printable(text), fence]


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _lazy_note(facts: DatasetFacts, request: Mapping[str, Any]) -> list[str]:
    if request["images"] != "url" or not facts.in_sa1b or TARGETS[request["to"]].trainer:
        return []
    return [
        "",
        "Images are `sa1b://` URLs: with llava-zh installed and `SA1B_ROOT` set to where SA-1B is, `datasets`, fsspec "
        "and what builds on them open them straight out of the archives.",
    ]


def _head(
    facts: DatasetFacts, configs: Sequence[str], files: Sequence[DataFile], features: Any | None, copied: bool
) -> str:
    from huggingface_hub import DatasetCardData

    suffix = files[0].path.rpartition(".")[2]
    head: dict[str, Any] = {
        "pretty_name": facts.title,
        "language": sorted(filter(None, {facts.config(config).language for config in configs})) or None,
        "license": "other" if copied or " " in facts.licence else facts.licence,
        "task_categories": ["image-text-to-text", "image-to-text"],
        "configs": [
            {
                "config_name": config,
                "data_files": [{"split": "train", "path": f"data/{config}-*.{suffix}"}],
                **({"default": True} if config == configs[0] else {}),
            }
            for config in configs
        ],
    }
    if copied:
        head["license_name"] = "sa-1b-research"
        head["license_link"] = _SA1B_LICENCE
    if features is not None:
        from ..streams.insides import features_in_card

        described = features_in_card(features)
        head["dataset_info"] = [{"config_name": config, "features": described} for config in configs]
    return DatasetCardData(**head).to_yaml().strip()
