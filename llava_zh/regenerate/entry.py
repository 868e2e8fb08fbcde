"""The run as one call: everything put together, from the arguments to the report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from llava_zh.errors import BadArgument
from llava_zh.regenerate.client import Client
from llava_zh.regenerate.dialogue import Asking, PromptChoice
from llava_zh.regenerate.first_look import first_events
from llava_zh.regenerate.ledger import Ledger
from llava_zh.regenerate.manifest import manifest_of
from llava_zh.regenerate.report import Report, Session
from llava_zh.regenerate.run import Run, Settings, check_counts, events_of
from llava_zh.regenerate.selection import open_ledger
from llava_zh.regenerate.serve import Served
from llava_zh.regenerate.source import Event, Source, open_source
from llava_zh.regenerate.tasks import run_blocking
from llava_zh.storage.progress import Progress


def regenerate(
    path_or_rows: Any,
    name: str | None = None,
    *,
    output_dir: str | Path,
    model: str,
    base_url: str | Sequence[str] | None = None,
    serve: str | None = None,
    serve_args: Sequence[str] = (),
    prompt: str | None = None,
    concurrency: int = 64,
    limit: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    api_key: str | None = None,
    max_pixels: int | None = None,
    send_paths: bool = False,
    seed: int = 0,
    timeout: float = 600.0,
    stall_after: float = 120.0,
    max_retries: int = 8,
    answer_attempts: int = 3,
    retry_failed: bool = False,
    widen: bool = False,
    unit_rows: int = 10_000,
    gpus: int = 1,
    progress: bool = True,
    **loading: Any,
) -> Report:
    """Ask a vision-language model about every image of a dataset, and write a dataset that ``load_dataset`` loads.

    The call can be killed at any moment and made again: it goes on where it was, every row is in the output once, and
    only requests that were in flight are repeated. Rows come out in ``output_dir/data/*.jsonl``, unit by unit; what was
    given up is in ``failed.jsonl``.

    The first row that is finished binds the folder to the dataset, the prompt, the model and its parameters; until then
    other settings may be given, and the run begins anew with them. The images of the first rows are looked at before
    any server is started or asked.

    Rows of text alone, which mixed sets have, are none of the run's: no model is asked about them. They are passed over
    and counted in the log; the output does not hold them. Keep them by mixing the set itself with the output.

    Args:
        path_or_rows: A dataset's name (or a path, as for ``load_dataset``), a ``datasets`` dataset, or an iterable of
            rows (mappings with an ``image``) or of images, which must be the same at every call.
        name: The config.
        output_dir: The folder of this run.
        model: Name the servers know the model by; with `serve`, the model to load, a hub id or a folder.
        base_url: Root of an OpenAI-compatible API such as ``http://127.0.0.1:8000/v1``, or several of them.
        serve: Start the server itself: ``lmdeploy``, ``vllm``, ``sglang`` or ``transformers``.
        serve_args: More arguments of that server's command line.
        prompt: A name in ``PROMPTS``, a file, or ``llava`` (the row's own task, else one drawn per image in the
            proportions that were published). By default what the config was made with.
        concurrency: Requests in flight at once, over all servers.
        limit: Only the first so many rows of the run. A later call may raise it; with a lower one, rows that were begun
            are finished and no others are.
        parameters: Passed on in every request, such as ``{"temperature": 0.7, "max_tokens": 512}``.
        api_key: Bearer token; by default the environment variable ``LLAVA_ZH_API_KEY``.
        max_pixels: Downscale larger images to so many pixels before sending; by default the original bytes are sent.
        send_paths: Send ``file://`` paths in place of bytes, to a server that shares the disk and allows it.
        seed: Seed of the draw of tasks, and of the first repeated request after an answer that did not parse.
        timeout: Seconds a request may take.
        stall_after: Seconds after which requests that take more than four times the slowest answer are sent again, and
            a standstill is reported.
        max_retries: Transient faults of one row (server errors, disconnects, timeouts) before it is given up. Faults of
            a server that fails everything do not count.
        answer_attempts: Answers that may be empty, cut off or unparsable before a row is given up.
        retry_failed: Ask again for the rows that earlier sessions gave up.
        widen: Append the rows that are selected now and were not when the run began: of archives that have arrived
            since, of more `archives`, of images that were missing or bad. Without it a run keeps the rows that
            `archives`, `bad_images` and `on_missing_image` meant when it began, and says what has arrived.
        unit_rows: Rows an output file, and a journal.
        gpus: GPUs behind the servers, for the report's GPU-hours.
        progress: Show a live line on stderr.
        loading: Passed on to ``load_dataset``: `image_root`, `data_dir`, `data_files`, `source`, `archives` and so on.

    Returns:
        The figures, which are also in ``output_dir/report.json``.

    Raises:
        ServerError: No server can be used: nothing listens, it refuses the key, it does not serve the model.
        RootNotFound, ImageNotFound, BadImage: There is no place for images, or none of the first rows' can be read.
        RunConflict: The folder holds another run, or a living process works in it.
        OutputError: The folder cannot be written.
        BadArgument, UnknownName: An argument that cannot work.
    """
    check_counts(concurrency=concurrency, unit_rows=unit_rows, limit=limit, max_pixels=max_pixels, gpus=gpus,
                 answer_attempts=answer_attempts)  # fmt: skip
    if (base_url is None) == (serve is None):
        raise BadArgument("Give either base_url, where a server listens, or serve, which starts one.")
    settings = Settings(
        model=model, parameters=dict(parameters or {}), concurrency=concurrency, limit=limit, max_pixels=max_pixels,
        send_paths=send_paths, seed=seed, max_retries=max_retries, answer_attempts=answer_attempts,
        stall_after=stall_after,
    )  # fmt: skip
    rows = open_source(path_or_rows, name, loading)
    choice = PromptChoice(prompt, rows.config, seed, rows.facts)
    servers = Servers(base_url, serve, serve_args, api_key, timeout)
    return carry_out(
        rows, choice, Path(output_dir), settings, servers, unit_rows=unit_rows, retry_failed=retry_failed, widen=widen,
        gpus=gpus, progress=progress,
    )  # fmt: skip


def carry_out(
    rows: Source,
    choice: Asking,
    output_dir: Path,
    settings: Settings,
    servers: Servers,
    *,
    unit_rows: int,
    retry_failed: bool = False,
    widen: bool = False,
    gpus: int = 1,
    progress: bool = True,
    what: str = "Regenerating",
) -> Report:
    """Ask `choice` about every row of `rows`, in a folder that loses nothing; see :func:`regenerate`."""
    folder = output_dir.expanduser().absolute()
    manifest = manifest_of(rows, choice, settings, unit_rows)
    ledger, notes = open_ledger(folder, rows, unit_rows, manifest, widen)
    session = Session()
    status = "stopped"
    bar = _Bar(what, progress, rows, settings.limit, ledger, session)
    try:
        if retry_failed:
            ledger.forgive()
        run_blocking(_session(rows, choice, ledger, servers, settings, session, bar))
        status = "finished"
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = "interrupted"
        raise
    finally:
        bar.close()
        try:
            ledger.close()
        finally:
            report = Report.of(ledger, status, session, gpus, notes)
            report.write()
    if not report.rows and not report.failed and rows.published is not None:
        raise rows.published.nothing_left()
    if report.distinct != report.rows:
        raise ledger.twice()
    return report


@dataclass(frozen=True)
class Servers:
    """Where the model is; see :func:`regenerate`."""

    base_url: str | Sequence[str] | None
    serve: str | None = None
    serve_args: Sequence[str] = ()
    api_key: str | None = None
    timeout: float = 600.0


async def _session(
    rows: Source,
    choice: Asking,
    ledger: Ledger,
    servers: Servers,
    settings: Settings,
    session: Session,
    bar: _Bar,
) -> None:
    events = events_of(rows, ledger, settings)
    first = await _in_thread(partial(first_events, events, rows, choice, settings, begun=ledger.tally.rows > 0))
    if servers.serve is None:
        served = health_url = None
        base_url = servers.base_url or ()
    else:
        log = ledger.folder / "journal" / "server.log"
        served = Served(servers.serve, settings.model, servers.serve_args, log, session, bar.say)
        base_url, health_url = served.url, served.health_url
    async with AsyncExitStack() as stack:
        if served is not None:
            await stack.enter_async_context(served)
        client = await stack.enter_async_context(
            Client(
                base_url,
                settings.model,
                api_key=servers.api_key,
                timeout=servers.timeout,
                health_url=health_url,
                on_event=bar.say,
            )
        )
        await client.check()
        run = Run(rows, choice, ledger, client, settings, session, bar.say, bar.update, events=chain(first, events))
        if served is None:
            await run.work()
        else:
            run.on_stall = served.restart_soon
            await served.guard(run.work())


async def _in_thread(work: Callable[[], list[Event]]) -> list[Event]:
    """What `work` gives, in a thread that is not waited for when the run is interrupted."""
    thread = ThreadPoolExecutor(1, "llava-zh-rows")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


class _Bar:
    """The live line: done, failed, rows a second, tokens a second, in flight and the time left."""

    def __init__(
        self, what: str, show: bool, rows: Source, limit: int | None, ledger: Ledger, session: Session
    ) -> None:
        total = min((count for count in (rows.total, limit) if count is not None), default=None)
        self._ledger, self._session = ledger, session
        self._progress = Progress(what, total, unit="rows", done=self._through(), show=show)
        self.say = self._progress.say

    def _through(self) -> int:
        return self._ledger.tally.rows + sum(self._ledger.failures.values())

    def update(self) -> None:
        session = self._session
        self._progress.note(
            f"failed {sum(self._ledger.failures.values())}, {session.in_flight} in flight, "
            f"{session.completion_tokens / session.seconds:.0f} tokens/s"
        )
        self._progress.reach(self._through())

    def close(self) -> None:
        self.update()
        self._progress.close()
