"""The engine room of a run: a sliding window of rows between the source, the servers and the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from llava_zh.errors import BadAnswer, BadArgument, LlavaZhError, OutputError, RootNotFound, RunConflict, ServerError
from llava_zh.images.names import ImageSource, image_name
from llava_zh.regenerate.client import Client
from llava_zh.regenerate.dialogue import Asking, Messages, converse
from llava_zh.regenerate.faults import Refused, Transient
from llava_zh.regenerate.images import Picture, fetch_image, keep_image, make_picture
from llava_zh.regenerate.jobs import Job, failure, finished_row, make_job, passed_key
from llava_zh.regenerate.ledger import Ledger
from llava_zh.regenerate.protocol import Answer, Body
from llava_zh.regenerate.report import Session
from llava_zh.regenerate.source import Event, Passed, Row, Source, read_units
from llava_zh.regenerate.tasks import first_error
from llava_zh.storage.retries import backoff

#: Rows fetched from the source at a time; a chunk waits for its last row, so it must not be large.
CHUNK = 32
#: Rows whose images one thread reads at a time.
BATCH = 4
#: Images held in memory and not sent yet, in bytes, before more are read.
BYTES_IN_FLIGHT = 96 * 2**20
#: Seconds that a finished row may wait to be written; less would cost a fast server's run a tenth of its rate.
FLUSH_AFTER = 0.005
#: So many rows failed one after the other, none done between, and the run stops: it is not the rows.
HOPELESS_AFTER = 100


@dataclass(frozen=True)
class Settings:
    """How a run asks; see :func:`llava_zh.regenerate.regenerate` for the meanings."""

    model: str
    parameters: Mapping[str, Any]
    limit: int | None
    max_pixels: int | None
    send_paths: bool
    seed: int
    concurrency: int = 64
    max_retries: int = 8
    answer_attempts: int = 3
    stall_after: float = 120.0


def check_counts(**counts: int | None) -> None:
    """Raise BadArgument for an argument of a run, or of a batch of it, that counts something and is less than 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise BadArgument(f"{name} must be at least 1; found {value}.")


class ByteBudget:
    """Keeps the encoded images in memory under a limit, as far as one image alone does not exceed it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._typical = 2**20  # bytes to expect of an image that is not read yet
        self._freed = asyncio.Event()

    async def reserve(self, images: int) -> int:
        """Wait for room for so many images; the bytes to expect of them."""
        expected = images * self._typical
        while self._held and self._held + expected > self._limit:
            self._freed.clear()
            await self._freed.wait()
        self._held += expected
        return expected

    def settle(self, reserved: int, actual: int, images: int) -> None:
        """The images are read and have so many bytes."""
        self._typical += (actual // images - self._typical) // 8
        self.release(reserved - actual)

    def release(self, size: int) -> None:
        self._held -= size
        self._freed.set()


class Run:
    """One session of a run; `await` its :meth:`work`."""

    def __init__(
        self,
        source: Source,
        choice: Asking,
        ledger: Ledger,
        client: Client,
        settings: Settings,
        session: Session,
        say: Callable[[str], None],
        on_tick: Callable[[], None],
        on_stall: Callable[[str], None] = lambda reason: None,
        events: Iterator[Event] | None = None,
    ) -> None:
        """Events are those of :func:`events_of`, where they have been begun to be read."""
        self.source, self.choice, self.ledger, self.client = source, choice, ledger, client
        self.settings, self.session = settings, session
        self.say, self.on_tick, self.on_stall = say, on_tick, on_stall
        self._events = events_of(source, ledger, settings) if events is None else events
        self._window = 2 * settings.concurrency + CHUNK
        self._open = 0  # rows read and not yet done or failed
        self._failed_in_a_row = 0
        self._stall_reported = False

    async def work(self) -> None:
        """Ask for every row that is not done. Ends early, with everything kept, when cancelled or on an error."""
        self._ready: asyncio.Queue[Job] = asyncio.Queue()
        self._less = asyncio.Event()  # set whenever a row is through
        self._unflushed = asyncio.Event()
        self._kept = 0  # rows that are through and not yet handed to the operating system
        self._bytes = ByteBudget(BYTES_IN_FLIGHT)
        # Threads of our own: they are not waited for when the run is interrupted.
        self._readers = ThreadPoolExecutor(1, "llava-zh-rows")
        self._loaders = ThreadPoolExecutor(min(16, self.settings.concurrency), "llava-zh-images")
        self.session.started = self.session.last_moved = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                helpers = [group.create_task(self._tick()), group.create_task(self._flush())]
                helpers += [group.create_task(self._worker()) for _ in range(self.settings.concurrency)]
                await self._feed()
                for helper in helpers:
                    helper.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            self._readers.shutdown(wait=False, cancel_futures=True)
            self._loaders.shutdown(wait=False, cancel_futures=True)

    # -- rows in -------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Keep the window full until the source is empty, then wait for it to empty."""
        loop = asyncio.get_running_loop()
        while chunk := await loop.run_in_executor(self._readers, _chunk, self._events):
            jobs = [job for event in chunk if (job := self._take(event)) is not None]
            for start in range(0, len(jobs), BATCH):
                await self._load(jobs[start : start + BATCH])
            await self._until_open(self._window)
        await self._until_open(0)

    async def _until_open(self, most: int) -> None:
        while self._open > most:
            self._less.clear()
            await self._less.wait()

    def _take(self, event: Event) -> Job | None:
        """Tell the ledger; the job of a row that is still to be done."""
        if isinstance(event, Row):
            job = make_job(self.source, self.choice, event)
            if not self.ledger.is_known(job.place):
                self._open += 1
                return job
        elif isinstance(event, Passed):
            self.ledger.check_first(event.position, passed_key(self.source, self.choice, event))
        else:
            self.ledger.tell(event)
        return None

    async def _load(self, jobs: list[Job]) -> None:
        """Have the images of some rows read in one thread, once there is room; then the rows are ready.

        A few rows at a time, because a hop to a thread and back costs as much as reading an image from memory.
        """
        count = sum(len(job.images) for job in jobs)
        reserved = await self._bytes.reserve(count)

        def done(future: asyncio.Future[list[list[bytes] | Exception]]) -> None:
            if future.cancelled():
                return
            for job, loaded in zip(jobs, future.result(), strict=True):
                job.loaded = loaded
                job.held = sum(map(len, loaded)) if isinstance(loaded, list) else 0
                self._ready.put_nowait(job)
            self._bytes.settle(reserved, sum(job.held for job in jobs), count)

        work = [job.images for job in jobs]
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._loaders, _fetch_all, work, self.settings.max_pixels).add_done_callback(done)

    async def _load_after(self, delay: float, job: Job) -> None:
        """Bring a row back, in no worker's time: one that waits for room would keep others from making it."""
        await asyncio.sleep(delay)
        await self._load([job])

    # -- one row -------------------------------------------------------------------------------------------

    async def _worker(self) -> None:
        while True:
            job = await self._ready.get()
            self.session.in_flight += 1
            try:
                await self._attempt(job)
            except Transient as fault:
                self._retry(job, fault)
            except BadAnswer as error:
                self._ask_again(job, error)
            except (OutputError, RunConflict, RootNotFound):
                raise
            except LlavaZhError as error:
                if isinstance(error, ServerError) and not isinstance(error, Refused):
                    raise
                self._give_up(job, getattr(error, "reason", type(error).__name__), error)
            finally:
                self.session.in_flight -= 1

    async def _attempt(self, job: Job) -> None:
        try:
            pictures = self._pictures(job)
            turns, answer = await converse(job.row, pictures, job.prompt, partial(self._ask, job), self.choice.read)
        finally:
            self._let_go(job)
        names = [image_name(image, self.source.image_base) or await self._keep(image) for image in job.images]
        self.ledger.done(job.place, finished_row(job, self.settings.model, names, turns, answer))
        self.session.done += 1
        self.session.completion_tokens += answer.completion_tokens
        self._failed_in_a_row = 0
        self._through()

    def _pictures(self, job: Job) -> list[Picture]:
        loaded, job.loaded = job.loaded, None
        if not isinstance(loaded, list):
            raise loaded or AssertionError("a job is loaded before it is attempted")
        as_path = self.settings.send_paths
        return [make_picture(data, image, as_path=as_path) for data, image in zip(loaded, job.images, strict=True)]

    def _let_go(self, job: Job) -> None:
        """The bytes of the row's images have left, or are not needed."""
        self._bytes.release(job.held)
        job.held = 0

    async def _keep(self, image: ImageSource) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._loaders, keep_image, self.ledger.folder, image)

    async def _ask(self, job: Job, messages: Messages) -> Answer:
        parameters = dict(self.settings.parameters)
        if job.bad_answers:
            parameters["seed"] = self.settings.seed + job.bad_answers
        body = Body(self.settings.model, messages, parameters)
        if job.prompt.kind != "original":  # whose later turns need the pictures again
            messages.clear()
        job.asked += 1
        self.session.asked += 1
        return await self.client.ask(body, partial(self._let_go, job))

    # -- faults --------------------------------------------------------------------------------------------

    def _retry(self, job: Job, fault: Transient) -> None:
        self.session.retries[fault.reason] += 1
        job.retries += fault.blames_row
        if job.retries > self.settings.max_retries:
            self._give_up(job, fault.reason, fault)
            return
        delay = backoff(max(job.retries, 1), fault.retry_after)
        self._group.create_task(self._load_after(delay, job))

    def _ask_again(self, job: Job, error: BadAnswer) -> None:
        reason = str(getattr(error, "reason", "answer does not parse"))
        job.bad_answers += 1
        if job.bad_answers >= self.settings.answer_attempts:
            self._give_up(job, reason, error)
            return
        self.session.retries[reason] += 1
        self._group.create_task(self._load_after(0.0, job))

    def _give_up(self, job: Job, reason: str, error: LlavaZhError) -> None:
        self.ledger.failed(job.place, reason, failure(job, error))
        self.session.failed += 1
        self._failed_in_a_row += 1
        self._through()
        if self._failed_in_a_row >= HOPELESS_AFTER:
            raise ServerError(
                f"{HOPELESS_AFTER} rows failed one after the other, so the run stopped. The last: {error} "
                "When the cause is gone, run again with retry_failed."
            )

    def _through(self) -> None:
        self._open -= 1
        self._less.set()
        self._kept += 1
        if self._kept > self.settings.concurrency // 2:
            # On a busy machine the timer comes late; a kill must not cost more than this beside what is in flight.
            self._hand_over()
        else:
            self._unflushed.set()
        self.session.last_moved = time.monotonic()
        self._stall_reported = False

    async def _flush(self) -> None:
        """Write what is done, a few milliseconds' worth of rows at a time."""
        while True:
            await self._unflushed.wait()
            await asyncio.sleep(FLUSH_AFTER)
            self._hand_over()

    def _hand_over(self) -> None:
        self._unflushed.clear()
        self._kept = 0
        self.ledger.flush()

    # -- time ----------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.ledger.sync()
            self._look_for_hung_requests()
            self.on_tick()

    def _look_for_hung_requests(self) -> None:
        """Re-send what takes far longer than anything answered so far; say so when nothing moves at all."""
        if not self.session.in_flight:
            return
        slowest = self.client.slowest_answer
        patience = max(self.settings.stall_after, 4 * slowest)
        if slowest and (hung := self.client.resend_hung(patience)):
            self.session.resent += hung
            self.say(f"{hung} requests got no answer for {patience:.0f} s and are sent again")
        still = time.monotonic() - self.session.last_moved
        if still > patience and not self._stall_reported:
            self._stall_reported = True
            reason = f"no row was finished for {still:.0f} s, with {self.session.in_flight} in flight"
            self.say(reason)
            self.on_stall(reason)


def events_of(source: Source, ledger: Ledger, settings: Settings) -> Iterator[Event]:
    """What the reader tells of the rows that are not finished."""
    return read_units(source, ledger.plan, ledger.standing(), ledger.unit_rows, settings.limit)


def _chunk(events: Iterator[Event]) -> list[Event]:
    return list(islice(events, CHUNK))


def _fetch_all(jobs: list[list[ImageSource]], max_pixels: int | None) -> list[list[bytes] | Exception]:
    """For each job the bytes of its images, or what went wrong."""
    results: list[list[bytes] | Exception] = []
    for images in jobs:
        try:
            results.append([fetch_image(image, max_pixels) for image in images])
        except Exception as error:
            results.append(error)
    return results
