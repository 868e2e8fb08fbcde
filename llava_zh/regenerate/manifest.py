"""The manifest of a run: what must be the same when it goes on, and a readable difference when it is not."""

from __future__ import annotations

import difflib
import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_zh.errors import BadFile, RunConflict
from llava_zh.lines import write_lines

if TYPE_CHECKING:
    from llava_zh.regenerate.dialogue import PromptChoice
    from llava_zh.regenerate.run import Settings

#: Kept for the reader's sake; a run goes on with other versions.
_INFORMATIVE = {"versions", "created"}


def manifest_of(identity: dict[str, Any], choice: PromptChoice, settings: Settings, unit_rows: int) -> dict[str, Any]:
    """What makes a run this run; nothing secret, and nothing that may change while it goes on."""
    return {
        "format": 1,
        "input": identity,
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


def check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new run, or make sure that the one in `folder` says the same.

    Raises:
        RunConflict: The folder holds another run, or files that are no run.
        BadFile: The manifest that is there cannot be read.
    """
    path = folder / "manifest.json"
    manifest = json.loads(json.dumps(manifest))  # as it will be read back: tuples are lists
    if not path.exists():
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("journal", "data"))
        foreign += sorted(f"data/{entry.name}" for entry in (folder / "data").iterdir())
        if foreign:
            raise RunConflict(
                f"{folder} is not empty and holds no manifest.json: found {', '.join(foreign[:5])}. "
                "Choose an empty or new output_dir."
            )
        write_lines(path, [json.dumps(manifest, ensure_ascii=False, indent=2).encode(), b"\n"])
        return
    try:
        known = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadFile(f"{path} is no JSON: {error}. Put it back, or choose another output_dir.") from None
    differences = [*_differences("", _comparable(known), _comparable(manifest))]
    if differences:
        raise RunConflict(
            f"{folder} holds another run ({path} against what is asked now):\n"
            + "\n".join(differences)
            + "\nAsk for the same to go on with that run, or choose another output_dir."
        )


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


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)
