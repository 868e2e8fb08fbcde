"""Whether the hubs answer, have the published files, and give ranges of their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import HubError, LlavaZhError
from ...gates.counts import counted
from .. import text
from .findings import Finding, Findings, first_line
from .machine import without_password

if TYPE_CHECKING:
    from ...catalog.facts import DatasetFacts

SECONDS = 5.0  # for an answer of a hub: a person is waiting


def hub_findings(source: str) -> Findings:
    """Whether a hub answers, and what it has of each dataset."""
    from ... import list_datasets
    from ...files import hub
    from ...load import dataset_facts
    from ...storage import http

    endpoint = without_password(hub.HUBS[source].endpoint())
    if hub.offline():
        yield Finding("", endpoint, "not asked, for HF_HUB_OFFLINE is set; what the cache holds:")
    else:
        try:
            _, seconds = http.asked_once(hub.HUBS[source].endpoint(), seconds=SECONDS)
        except HubError as error:
            advice = {
                "huggingface": "check the network and proxies; set HF_ENDPOINT to a mirror, or load from modelscope",
                "modelscope": "check the network and proxies; MODELSCOPE_ENDPOINT says which site is asked",
            }[source]
            yield Finding("failed", endpoint, first_line(error), advice)
            return
        yield Finding("ok", endpoint, f"answers in {seconds:.2f} s")
    for name in list_datasets():
        facts = dataset_facts(name)
        if source not in facts.repos:
            continue
        try:
            yield _published(facts, source)
        except LlavaZhError as error:
            yield Finding("failed", facts.repos[source], first_line(error))


def _published(facts: DatasetFacts, source: str) -> Finding:
    """Whether a dataset's files are listed, and byte ranges of the largest can be read."""
    from ...catalog import row_files
    from ...files import hub
    from ...storage import http

    repo, revision = facts.repository(source)
    files = hub.hub_files(source, repo, revision, None)
    lacking = {name for name in facts.file_names if not row_files.named(files, name)}
    if lacking or not files:
        advice = "the repository has changed, or only a part is cached; `llava-zh download` fetches it"
        return Finding("failed", repo, f"has no {', '.join(sorted(lacking)) or 'files'}", advice)
    cached = sum(file.path is not None for file in files)
    detail = (
        f"{counted(len(files), 'files')}, {text.size(sum(file.size for file in files))}, {cached} of them in the cache"
    )
    largest = max(files, key=lambda file: file.size)
    if largest.path is None:
        client = hub.HUBS[source]
        try:
            status, _ = http.asked_once(
                client.url(largest), client.headers(None), byte=largest.size - 1, seconds=SECONDS
            )
        except HubError as error:
            return Finding("failed", repo, f"{detail}; reading fails: {first_line(error)}", client.hint)
        if status != 206:
            problem = "the server ignores byte ranges" if status == 200 else f"reading is refused (status {status})"
            advice = "`llava-zh download` can still fetch it whole" if status == 200 else client.hint
            return Finding("failed", repo, f"{detail}; {problem}", advice)
        detail += "; byte ranges can be read"
    return Finding("ok", repo, detail)
