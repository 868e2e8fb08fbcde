"""The manifest of a run: what must be the same when it goes on, and a readable difference when it is not."""

from __future__ import annotations

import difflib
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_zh.errors import BadFile, RunConflict
from llava_zh.gates.safe_text import one_line, redacted
from llava_zh.regenerate.binding import HANDED_OUT, forget, what_binds
from llava_zh.storage.durable import open_regular
from llava_zh.storage.lines import write_lines

if TYPE_CHECKING:
    from llava_zh.regenerate.dialogue import Asking
    from llava_zh.regenerate.run import Settings
    from llava_zh.regenerate.source import Source

#: Of the folder. Version 1 (llava-zh 0.1) named rows by their places after archives and images had left some out.
FORMAT = 2
#: Bytes of a manifest at most; it holds names of files and texts of prompts.
_MOST = 16 << 20
#: Kept for the reader's sake; a run goes on with other versions.
_INFORMATIVE = {"versions", "created", "asked", "place"}


def manifest_of(source: Source, choice: Asking, settings: Settings, unit_rows: int) -> dict[str, Any]:
    """What makes a run this run; nothing secret, and nothing that may change while it goes on.

    Which rows of the input belong to it is in the plan: that may be widened. What was asked for when it began (`asked`,
    see :meth:`llava_zh.catalog.request.Request.from_dict`) is for the reader: files and pictures may have moved since.
    """
    return {
        "format": FORMAT,
        "input": source.identity,
        "asked": source.asked,
        **({"place": source.place} if source.place else {}),
        "prompts": {prompt.id: {"sha256": prompt.sha256, "text": prompt.text} for prompt in choice.prompts},
        "model": settings.model,
        "parameters": dict(settings.parameters),
        "max_pixels": settings.max_pixels,
        "seed": settings.seed,
        "unit_rows": unit_rows,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("llava-zh", "datasets", "aiohttp", "pillow")},
        },
    }


def check_manifest(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Write the manifest of a new run, or make sure that the one in `folder` says the same.

    A run that nothing binds to its settings yet begins anew, see :mod:`llava_zh.regenerate.binding`. What that changed
    comes back in a line; None for nothing.

    Raises:
        RunConflict: The folder holds another run, or files that are no run.
        BadFile: The manifest that is there cannot be read.
    """
    path = folder / "manifest.json"
    manifest = _without_secrets(json.loads(json.dumps(manifest)))  # as it will be read back: tuples are lists
    if not os.path.lexists(path):
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("journal", "data"))
        foreign += sorted(f"data/{entry.name}" for entry in (folder / "data").iterdir())
        if foreign:
            raise RunConflict(
                f"{folder} is not empty and holds no manifest.json: found {', '.join(foreign[:5])}. "
                "Choose an empty or new output_dir."
            )
        _write(path, manifest)
        return None
    known = read_manifest(path)
    _check_format(path, known)
    differences = [*_differences("", _comparable(known), _comparable(manifest))]
    # May be why: other files are in another folder.
    asked = [*_differences("asked", known["asked"], manifest.get("asked"))] if known.get("asked") else []
    if not differences and not asked:
        return None
    bound = what_binds(folder)
    if bound is None:
        given_up = forget(folder / "journal")
        _write(path, manifest)
        changed = f"no row was finished yet, so the run begins anew with what is given now: {_shortly(known, manifest)}"
        return changed if differences or given_up else None
    if not differences:
        return None
    handed_out = (
        f"Its requests are in {folder / 'batch'}; if they were sent nowhere, delete that folder to begin anew. "
    )
    raise RunConflict(
        f"{folder} holds another run ({path} against what is asked now):\n"
        + "\n".join(differences + asked)
        + f"\n{handed_out if bound == HANDED_OUT else ''}"
        + "Ask for the same to go on with that run, or choose another output_dir."
    )


def _write(path: Path, manifest: dict[str, Any]) -> None:
    write_lines(path, [json.dumps(manifest, ensure_ascii=False, indent=2).encode(), b"\n"])


def read_manifest(path: Path) -> dict[str, Any]:
    """What a manifest says.

    Raises:
        BadFile: It is no JSON of a run.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        text = file.read(_MOST + 1)
    try:
        if len(text) > _MOST:
            raise ValueError(f"more than {_MOST:,} bytes")
        known = json.loads(text)
        if not isinstance(known, dict):
            raise ValueError(f"{type(known).__name__} in place of an object")
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is no JSON of a run: {error}. Put it back, or choose another output_dir.") from None
    return known


def _check_format(path: Path, known: dict[str, Any]) -> None:
    found = known.get("format")
    if found == FORMAT:
        return
    versions = known.get("versions")
    by = versions.get("llava-zh") if isinstance(versions, dict) else None
    if found == 1:
        raise RunConflict(
            f"{path.parent} is a run of llava-zh {by or '0.1'}, in format 1; this version goes on with format {FORMAT} "
            f"only. Finish it with that version (pip install 'llava-zh=={by or '0.1.0'}'), or begin anew in another "
            "output_dir. What it has finished, in data/*.jsonl, loads as it is."
        )
    raise RunConflict(
        f"{path}: expected format {FORMAT} of a run's folder, found {_shown(found)[:100]}. It was written by another "
        f"version of llava-zh ({by or 'unknown'}), or changed by hand; use that version, or another output_dir."
    )


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return redacted(value) if isinstance(value, str) else value


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in _INFORMATIVE}


def _differences(where: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        return [
            line
            for name in names
            for line in _differences(f"{where}.{name}" if where else name, before.get(name), now.get(name))
        ]
    if before == now:
        return []
    if isinstance(before, str) and isinstance(now, str) and max(len(before), len(now)) > 60:
        changed = difflib.unified_diff(before.splitlines(), now.splitlines(), "the run", "now", lineterm="", n=0)
        return [f"  {where}:", *(f"    {line}" for line in changed)]
    return [f"  {where}: {_shown(before)} in the run, {_shown(now)} now"]


def _shortly(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, in one line: names, with the values where they are short."""
    before, now = ({**each, **(each.get("asked") or {})} for each in (before, now))
    said = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old == new or name in _INFORMATIVE:
            continue
        if name == "prompts" and old and new and old.keys() != new.keys():
            old, new = ", ".join(old), ", ".join(new)
        short = all(each is None or isinstance(each, str | int | float) for each in (old, new))
        said.append(one_line(f"{name} {_shown(new)} (was {_shown(old)})") if short else name)
    return ", ".join(said)


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
