"""Work that nobody waits for, done in order on a thread of its own, and given up at the first failure."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable

Job = Callable[[], None]

_IDLE_SECONDS = 2.0
_JOB_SECONDS = 60.0  # a job that takes longer counts as hung
_DRAIN_SECONDS = 300.0


class Worker:
    """Does jobs in order on a thread; the first one that fails or hangs is the last.

    Args:
        name: of the thread.
        idle: done whenever there has been no job for a while.
        warn: told, once, why no more jobs are done.
    """

    def __init__(self, name: str, *, idle: Job, warn: Callable[[str], None]) -> None:
        self._idle, self._warn = idle, warn
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._open, self._lock = True, threading.Lock()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)  # a hung one keeps nobody
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have a job done after those before it; dropped once the worker has stopped."""
        if self._open:
            self._jobs.put(job)

    def settle(self, seconds: float) -> None:
        """Wait until the jobs so far are done, but no longer than that."""
        settled = threading.Event()
        self.put(settled.set)
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline and not settled.wait(0.05):
            pass

    def finish(self) -> None:
        """Wait for all jobs to be done, but not for one that hangs, nor for ever; none is taken from then on."""
        self._jobs.put(None)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._open and self._thread.is_alive():
            self._thread.join(0.05)
            since = self._busy_since
            if time.monotonic() > min(deadline, deadline if since is None else since + _JOB_SECONDS):
                self._close("it does not answer, or too slowly")
        self._open = False

    def _work(self) -> None:
        try:
            while self._open and (job := self._next()) is not None:
                self._busy_since = time.monotonic()
                job()
                self._busy_since = None
        except Exception as error:
            self._close(f"{type(error).__name__}: {error}")

    def _next(self) -> Job | None:
        with contextlib.suppress(queue.Empty):
            return self._jobs.get(timeout=_IDLE_SECONDS)
        return self._idle

    def _close(self, problem: str) -> None:
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self._warn(problem)
