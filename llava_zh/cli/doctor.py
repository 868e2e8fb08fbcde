"""``llava-zh doctor``: what is installed, reachable and readable here, and what to do about what is not."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..catalog.facts import DatasetFacts
from ..errors import LlavaZhError
from ..files.data_files import SOURCES
from ..gates.safe_text import public_name
from ..sa1b.access import ROOT_VARIABLE
from . import text
from .commands import Subparsers, new_parser

_EXAMPLE = """\
  llava-zh doctor
  llava-zh doctor --source modelscope
  llava-zh doctor --data-dir llava-zh-demo/internvl --image-root llava-zh-demo/sa1b
"""

SECONDS = 5.0  # for an answer of a hub: a person is waiting
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


@dataclass(frozen=True)
class Finding:
    """One line of the checklist; `advice` is what to do about it. A `state` of "" is for the reader to judge."""

    state: Literal["ok", "missing", "failed", ""]
    what: str
    detail: str
    advice: str = ""


Findings = Iterator[Finding]


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "doctor",
        help="what is installed, reachable and readable here, and what to do about the rest",
        description=(
            "Prints a checklist: versions, extras, tokens (whether there is one, never the token), both hubs and the "
            "published files on them, the files and images on disk, caches. Nothing is downloaded or indexed. What is "
            "missing is told with what to do; the exit status is 1 only if what an option names cannot be used."
        ),
        example=_EXAMPLE,
    )
    parser.add_argument("--source", choices=SOURCES, help="ask this hub only (default: both)")
    parser.add_argument("--data-dir", metavar="DIR", help="also check the published files in this folder")
    parser.add_argument("--image-root", metavar="ROOT", help="folder or URL of SA-1B to check (default: SA1B_ROOT)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    # A title, the check, and whether an option asked for it: then what is not usable decides the exit status.
    sections: list[tuple[str, Callable[[], Findings], bool]] = [
        ("Versions", _versions, False),
        ("Extras", _extras, False),
        ("Environment", _environment, False),
    ]
    hubs = [args.source] if args.source else SOURCES
    sections += [(f"Hub {source}", partial(_hub, source), bool(args.source)) for source in hubs]
    if args.data_dir:
        sections.append((f"Files in {args.data_dir}", partial(_files, args.data_dir), True))
    sections.append(("SA-1B images", partial(_images, args.image_root), bool(args.image_root)))
    sections.append(("Caches", _caches, False))
    status = 0
    for title, check, asked in sections:
        text.say(text.one_line(title))
        for finding in _guarded(check):
            text.say(text.one_line(f"  {finding.state or '–':7}  {finding.what}: {finding.detail}"))
            if finding.advice:
                text.say(f"  {'':7}  → {finding.advice}")
            if asked and finding.state in ("missing", "failed"):
                status = 1
        sys.stdout.flush()
    return status


def _guarded(check: Callable[[], Findings]) -> Findings:
    """The findings of a check that must not end the others, whatever it comes upon."""
    try:
        yield from check()
    except Exception as error:
        yield Finding("failed", "this check", _first_line(error))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# -- this installation -------------------------------------------------------------------------------------


def _versions() -> Findings:
    from .. import __version__

    yield Finding("ok", "llava-zh", __version__)
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _installed(requirement, 'pip install --upgrade "llava-zh"')


def _extras() -> Findings:
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        extras = metadata("llava-zh").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        extras = []
    for extra in extras:
        wanted = [r for r in _requirements() if r.marker is not None and r.marker.evaluate({"extra": extra})]
        found = [_installed(r, "") for r in wanted if not r.marker.evaluate({"extra": ""})]
        lacking = [finding for finding in found if finding.state != "ok"]
        detail = ", ".join(f"{finding.what} {finding.detail}" for finding in lacking or found)
        advice = f'to use it: pip install "llava-zh[{extra}]"' if lacking else ""
        yield Finding("missing" if lacking else "ok", extra, detail, advice)


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


def _environment() -> Findings:
    from ..files import hub

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
            yield Finding("", name, _without_password(value))


def _without_password(value: str) -> str:
    """A setting to print; of the URLs in it, which commas separate, users, passwords and queries are left out."""
    return ",".join(map(public_name, value.split(",")))


# -- hubs --------------------------------------------------------------------------------------------------


def _hub(source: str) -> Findings:
    import requests

    from .. import list_datasets
    from ..files import hub
    from ..load import dataset_facts

    endpoint = _without_password(hub.HUBS[source].endpoint())
    if hub.offline():
        yield Finding("", endpoint, "not asked, for HF_HUB_OFFLINE is set; what the cache holds:")
    else:
        try:
            answer = requests.head(hub.HUBS[source].endpoint(), timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            advice = {
                "huggingface": "check the network and proxies; set HF_ENDPOINT to a mirror, or load from modelscope",
                "modelscope": "check the network and proxies; MODELSCOPE_ENDPOINT says which site is asked",
            }[source]
            yield Finding("failed", endpoint, f"unreachable ({type(error).__name__})", advice)
            return
        yield Finding("ok", endpoint, f"answers in {answer.elapsed.total_seconds():.2f} s")
    for name in list_datasets():
        facts = dataset_facts(name)
        if source not in facts.repos:
            continue
        try:
            yield _published(facts, source)
        except LlavaZhError as error:
            yield Finding("failed", facts.repos[source], _first_line(error))


def _published(facts: DatasetFacts, source: str) -> Finding:
    """Whether a dataset's files are listed, and byte ranges of the largest can be read."""
    import requests

    from ..catalog import row_files
    from ..files import hub

    repo, revision = facts.repository(source)
    files = hub.hub_files(source, repo, revision, None)
    lacking = {name for name in facts.file_names if not row_files.named(files, name)}
    if lacking or not files:
        advice = "the repository has changed, or only a part is cached; `llava-zh download` fetches it"
        return Finding("failed", repo, f"has no {', '.join(sorted(lacking)) or 'files'}", advice)
    cached = sum(file.path is not None for file in files)
    detail = f"{len(files)} files, {text.size(sum(file.size for file in files))}, {cached} of them in the cache"
    largest = max(files, key=lambda file: file.size)
    if largest.path is None:
        client, last = hub.HUBS[source], largest.size - 1
        request = {**client.headers(None), "Range": f"bytes={last}-{last}", "Accept-Encoding": "identity"}
        try:
            with requests.get(client.url(largest), headers=request, timeout=SECONDS, stream=True) as answer:
                status = answer.status_code
        except requests.RequestException as error:
            return Finding("failed", repo, f"{detail}; reading fails ({type(error).__name__})", client.hint)
        if status != 206:
            problem = "the server ignores byte ranges" if status == 200 else f"reading is refused (status {status})"
            advice = "`llava-zh download` can still fetch it whole" if status == 200 else client.hint
            return Finding("failed", repo, f"{detail}; {problem}", advice)
        detail += "; byte ranges can be read"
    return Finding("ok", repo, detail)


# -- on this machine ---------------------------------------------------------------------------------------


def _files(data_dir: str) -> Findings:
    """The rows found in a folder: published files by their names, else whatever has rows."""
    from .. import list_datasets
    from ..catalog import row_files
    from ..files.data_files import local_files
    from ..load import dataset_facts

    try:
        files = local_files(data_dir, None)
    except LlavaZhError as error:
        yield Finding("failed", "folder", _first_line(error))
        return
    everything = [dataset_facts(name) for name in list_datasets()]
    configs = [
        (facts.name, config)
        for facts in everything
        for name, config in facts.file_names.items()
        if any(row_files.is_named(file, name) for file in files)
    ]
    # Rows of no published name are found out from their columns, in the same way for all datasets of which that holds.
    detected = [(facts.name, facts.default_config) for facts in everything if not facts.file_names]
    for path, config in configs or detected[:1]:
        label = f"{path} {config}" if configs else "rows"
        try:
            yield Finding("ok", label, _first_row(path, config, data_dir))
        except LlavaZhError as error:
            yield Finding("failed", label, str(error))


def _first_row(path: str, config: str | None, data_dir: str) -> str:
    from .. import load_dataset_builder
    from .show import image_size, images_of

    builder = load_dataset_builder(path, config, data_dir=data_dir)
    row = next(iter(builder.as_streaming_dataset(split="train").decode(False)), None)
    if row is None:
        return f"{builder.config.found}; no rows"
    image = next(images_of(row), None)
    if image is None or builder.FACTS.in_sa1b or not builder.config.images.decode:
        return f"{builder.config.found}; the first row reads"
    return f"{builder.config.found}; the first row reads, its image too ({image_size(image)})"


def _images(image_root: str | None) -> Findings:
    """What the SA-1B root holds, and one image out of it. No index is built: that takes a minute an archive."""
    import fsspec

    if image_root is None and not os.environ.get(ROOT_VARIABLE):
        advice = "give --image-root, or set SA1B_ROOT; without them rows come with image URLs that are not opened"
        yield Finding("missing", "root", "none given", advice)
        return
    try:
        filesystem = fsspec.filesystem("sa1b", fo=image_root) if image_root is not None else fsspec.filesystem("sa1b")
        held = filesystem.archives()
    except LlavaZhError as error:
        yield Finding("failed", "root", _first_line(error))
        return
    for root in filesystem.roots:
        kinds = Counter(info.kind for info in held if info.root == root.name)
        detail = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no archive, no folder of images"
        yield Finding("ok" if kinds else "failed", root.name, detail)
    for info in [info for info in held if info.problem][:5]:
        yield Finding("failed", info.path, str(info.problem), "`llava-zh sa1b verify` tells what can be saved")
    unindexed = [info for info in held if not info.indexed and not info.problem]
    if unindexed:
        advice = "the first use of each indexes it; `llava-zh sa1b index` does so for all"
        yield Finding("", "index", f"{len(unindexed)} of {len(held)} archives have none yet", advice)
    if readable := next((info for info in held if info.indexed and not info.problem), None):
        yield _one_image(filesystem, readable)


def _one_image(filesystem: Any, info: Any) -> Finding:
    from ..gates import pictures

    try:
        if info.kind == "flat":
            path = f"sa_{info.ids[0]}.jpg"
        else:
            path = next(name for name in filesystem.ls(info.name, detail=False) if name.endswith(".jpg"))
        found = pictures.decodes(filesystem.cat_file(path), f"sa1b://{path}")
        return Finding("ok", f"sa1b://{path}", f"{found.width}×{found.height}, decodes")
    except StopIteration:
        return Finding("failed", info.path, "holds no .jpg")
    except (LlavaZhError, OSError) as error:
        return Finding("failed", info.path, _first_line(error), "`llava-zh sa1b verify` checks all images")


def _caches() -> Findings:
    import datasets

    from ..files import hub
    from ..sa1b.store import cache_dir

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
