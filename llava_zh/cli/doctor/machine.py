"""What is installed here, what the environment says, and which caches there are."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from ...gates.safe_text import public_name
from ...sa1b.access import ROOT_VARIABLE
from .. import text
from .findings import Finding, Findings

_VARIABLES = (
    "LLAVA_ZH_SOURCE",
    "LLAVA_ZH_CACHE",
    ROOT_VARIABLE,
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "MODELSCOPE_ENDPOINT",
    "MODELSCOPE_CACHE",
)
# Extras for those who change the library; nobody else lacks them.
_FOR_WORK_ON_IT = frozenset({"dev", "docs", "lint", "test"})


def versions() -> Findings:
    from ... import __version__

    yield Finding("ok", "llava-zh", __version__)
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _installed(requirement, 'pip install --upgrade "llava-zh"')


def extras() -> Findings:
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        extras = metadata("llava-zh").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        extras = []
    for extra in extras:
        if extra in _FOR_WORK_ON_IT:
            continue
        wanted = [r for r in _requirements() if r.marker is not None and r.marker.evaluate({"extra": extra})]
        found = [_installed(r, "") for r in wanted if not r.marker.evaluate({"extra": ""})]
        lacking = [finding for finding in found if finding.state != "ok"]
        detail = ", ".join(f"{finding.what} {finding.detail}" for finding in lacking or found)
        advice = f'to use it: pip install "llava-zh[{extra}]"' if lacking else ""
        yield Finding("" if lacking else "ok", extra, detail, advice)


def _requirements() -> list[Any]:
    """What the installed package says that it needs, its extras included."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        return [Requirement(line) for line in requires("llava-zh") or []]
    except PackageNotFoundError:  # run from a source tree
        return []


def _installed(requirement: Any, advice: str) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return Finding("missing", requirement.name, "not installed", advice)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding("failed", requirement.name, f"{found}, but {requirement.specifier} is needed", advice)
    return Finding("ok", requirement.name, found)


def environment() -> Findings:
    from ...files import hub

    for source, advice in (
        ("huggingface", "set HF_TOKEN or run `hf auth login`"),
        ("modelscope", "set MODELSCOPE_API_TOKEN or run `modelscope login`"),
    ):
        if hub.HUBS[source].has_token():
            yield Finding("ok", f"token for {source}", "present (not shown)")
        else:
            yield Finding("", f"token for {source}", "none", f"only gated or private datasets need one: {advice}")
    for name in _VARIABLES:
        if value := os.environ.get(name):
            yield Finding("", name, without_password(value))


def without_password(value: str) -> str:
    """A setting to print; of the URLs in it, which commas separate, users, passwords and queries are left out."""
    return ",".join(map(public_name, value.split(",")))


def caches() -> Findings:
    import datasets

    from ...files import hub
    from ...sa1b.store import cache_dir

    for what, folder, variable in (
        ("huggingface", hub.HUBS["huggingface"].cache_folder(), "HF_HOME"),
        ("modelscope", hub.HUBS["modelscope"].cache_folder(), "MODELSCOPE_CACHE"),
        ("prepared datasets", Path(datasets.config.HF_DATASETS_CACHE), "HF_DATASETS_CACHE"),
        ("indexes of archives", cache_dir(), "LLAVA_ZH_CACHE"),
    ):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = f"{text.size(shutil.disk_usage(existing).free)} free"
        if not os.access(existing, os.W_OK):
            yield Finding("failed", what, f"{folder} cannot be written", f"set {variable} to a folder that can be")
        else:
            yield Finding("ok", what, f"{folder} ({free}{'' if existing == folder else ', will be made'})")
