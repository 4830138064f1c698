"""Drives requests by LoadGen: its queries become requests, on a bounded pool of threads.

Rules:
  - LoadGen issues queries from a thread of its own (`THREAD`) and takes a sample's time when the sample is completed.
    Checking and storing an answer comes after that, so it is not timed; except in server and offline, it comes before
    LoadGen issues the next query.
  - No exception passes through LoadGen, which is C++: the first exception ends the test, and `run` raises it.
  - LoadGen has no call that ends a test. After an error, or Ctrl-C, no request begins, and samples of unanswered
    requests are not completed. LoadGen then waits for good, and writes no summary of requests that were never made. Its
    thread stays (`running`), and the process must end without its exit handlers, which abort while a test runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, TypeVar

from transports.errors import UsageError

THREAD = "LoadGen"
Sample = tuple[int, int]
"""LoadGen's id of a sample, and the number of its input."""
Many = TypeVar("Many", bound=Iterable[Sample])
Request = Callable[[int], Callable[[], None]]
"""Makes the request with the input of the given number; returns a function to call once LoadGen has taken the time."""


def library() -> ModuleType:
    """LoadGen. Raises `UsageError` if it is not installed."""
    try:
        import mlperf_loadgen
    except ModuleNotFoundError as error:
        raise UsageError(
            "loadgen needs MLCommons' LoadGen (package 'mlcommons-loadgen'): pip install 'splitbench[loadgen]'"
        ) from error
    found: ModuleType = mlperf_loadgen
    return found


def running() -> bool:
    """Whether LoadGen still runs a test in this process."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def run(settings: Any, logs: Path, inputs: int, request: Request, threads: int) -> None:
    """Run one test of LoadGen with `settings` (its `TestSettings`); it writes its logs into the folder `logs`.

    `inputs`: the number of inputs, among which LoadGen chooses. At most `threads` requests are in flight. Raises the
    first error of `request` or of the functions that it returns; requests in flight are then awaited.
    """
    with ThreadPoolExecutor(threads) as pool:
        system = System(request, pool, threads)
        thread = threading.Thread(target=_test, args=(system, settings, logs, inputs), name=THREAD, daemon=True)
        thread.start()
        try:
            system.wait()
        finally:
            system.stopped.set()
            pool.shutdown(cancel_futures=True)
    thread.join()
    system.end()
    system.wait()  # raises an error in the check of the last answers


class System:
    """The system under test."""

    def __init__(self, request: Request, pool: ThreadPoolExecutor, threads: int) -> None:
        self.stopped = threading.Event()
        self._request = request
        self._pool, self._threads = pool, threads
        self._ended = SimpleQueue[BaseException | None]()
        self._response, self._complete = library().QuerySampleResponse, library().QuerySamplesComplete

    def one(self, samples: Iterable[Sample]) -> None:
        """Answer the samples one by one, in the calling thread."""
        for sample in samples:
            if self.stopped.is_set():
                return
            self._answer(sample)()

    def together(self, samples: Sequence[Sample]) -> None:
        """Answer the samples of a query at once; return when all are answered."""
        for done in list(self._pool.map(self._answer, samples)):
            done()

    def queued(self, samples: Sequence[Sample]) -> None:
        """Let the samples wait for free threads, which take them one by one: offline has tens of thousands."""
        waiting = iter(samples)
        for _ in samples[: self._threads]:
            self._pool.submit(self.guarded(self.one), waiting)

    def guarded(self, send: Callable[[Many], None]) -> Callable[[Many], None]:
        """`send`, wrapped so that an error ends the test instead of being raised. After the end nothing is sent."""

        def guard(samples: Many) -> None:
            if self.stopped.is_set():
                return
            try:
                send(samples)
            except BaseException as error:
                self.end(error)

        return guard

    def end(self, error: BaseException | None = None) -> None:
        """The test has ended, or must end with `error`."""
        self._ended.put(error)

    def wait(self) -> None:
        """Wait for the first `end`. Raises its error."""
        if error := self._ended.get():
            raise error

    def _answer(self, sample: Sample) -> Callable[[], None]:
        number, index = sample
        done = self._request(index)
        self._complete([self._response(number, 0, 0)])
        return done


def _test(system: System, settings: Any, logs: Path, inputs: int) -> None:
    """One test, in LoadGen's thread."""
    try:
        loadgen = library()
        sends = {"SingleStream": system.one, "MultiStream": system.together}
        send = system.guarded(sends.get(settings.scenario.name, system.queued))
        output, logging = loadgen.LogOutputSettings(), loadgen.LogSettings()
        output.outdir, output.copy_summary_to_stdout, logging.enable_trace = str(logs), False, False
        logging.log_output = output
        sut = loadgen.ConstructSUT(lambda queries: send([(each.id, each.index) for each in queries]), lambda: None)
        inputs_of = loadgen.ConstructQSL(inputs, inputs, lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(sut, inputs_of, settings, logging)
        loadgen.DestroyQSL(inputs_of)
        loadgen.DestroySUT(sut)
        system.end()
    except BaseException as error:
        system.end(error)
