"""What a sweep does about trials that hang, die or fail, in the worker and on the driver.

In the worker: a clock that ends a trial which has gone silent even where that holds the interpreter's lock, and the
settings of the process that a trial starts from. On the driver: which failure is tried again, and what Ctrl-C and
SIGTERM ask for.
"""

import atexit
import contextlib
import enum
import errno
import faulthandler
import fcntl
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_LAST_WORDS = "last_words.txt"
_LOCK, _LOCK_SECONDS = "attempt.lock", 60.0  # the worker of a killed sweep dies within seconds
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MARK = "REID_SWEEP"
_KEEP_ENVIRONMENT = "SPT_NOENV"  # Ray's processes write their titles over the environment else, and over the mark
_MOURNER = """
import os, signal, sys, time
sys.stdin.read()
quiet = 0
while quiet < 3:  # one that dies may have started another a moment before
    quiet += 1
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if sys.argv[1].encode() in file.read().split(b"\\0"):
                    os.kill(int(name), signal.SIGKILL)
                    quiet = 0
        except OSError:
            pass
    time.sleep(0.1)
"""
_STOP_SECONDS = 15.0  # of the 20 that a scheduler grants before it kills


class Cause(enum.StrEnum):
    """Why an attempt at a trial failed."""

    DIVERGED = "diverged"
    ERROR = "error"
    MEMORY = "out of memory"
    TIMEOUT = "timeout"
    LOST = "worker lost"
    PREEMPTED = "preempted"
    READ_WRITE = "file or network error"
    NO_ROOM = "disk full"
    NETWORK_DAMAGED = "damaged weights"  # of the trial whose network it scores
    UNFIT = "unfit machine"  # which lacks the code, the store or the data


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt failed: the cause, a line for tables, and what people need to find out more."""

    cause: Cause
    reason: str
    detail: str = ""


class FailedError(Exception):
    """An attempt has failed in another process, where it was found out why; made of the fields of its `failure`."""

    def __init__(self, cause: Cause, reason: str, detail: str) -> None:
        super().__init__(cause, reason, detail)  # all that travels between processes
        self.failure = Failure(cause=cause, reason=reason, detail=detail)


class LostWorkersError(Exception):
    """Of the processes of a trial one has died without a word."""


def tries_again(cause: Cause, earlier: Sequence[Cause], max_failures: int) -> bool:
    """Whether a trial is attempted once more in this sweep.

    A trial is a pure function: what it raised it would raise again. Only what comes from outside is worth another
    attempt; of running out of memory, one.

    Args:
        cause: of the failure.
        earlier: those of the attempts before.
        max_failures: how many failures are followed by another attempt; a preempted attempt is none.
    """
    if cause is Cause.PREEMPTED:
        return True
    if cause in (Cause.DIVERGED, Cause.ERROR, Cause.NO_ROOM) or (cause is Cause.MEMORY and cause in earlier):
        return False
    return len([one for one in earlier if one is not Cause.PREEMPTED]) < max_failures


class UnfitMachineError(Exception):
    """This machine cannot run the trial, whatever the trial: it lacks the code, the store or the data."""


def cause_of(error: Exception) -> Cause:
    """The cause that an exception of a trial stands for."""
    import torch  # slow to import, and there already where a trial has failed

    from reid.distributed import LostProcessError
    from reid.train import DivergedError

    match error:
        case UnfitMachineError():
            return Cause.UNFIT
        case DivergedError():
            return Cause.DIVERGED
        case LostProcessError():
            return Cause.LOST
        case torch.OutOfMemoryError() | MemoryError():
            return Cause.MEMORY
        case RuntimeError() if "can't allocate memory" in str(error):  # how torch says it of a CPU
            return Cause.MEMORY
        case OSError() if error.errno in NO_ROOM:
            return Cause.NO_ROOM
        case OSError():
            return Cause.READ_WRITE
    return Cause.ERROR


def kernel_kills() -> int:
    """How many processes the kernel has killed on this machine for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, value = line.split()
            if name == "oom_kill":
                return int(value)
    return 0


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep any other worker out of a trial's folder: one that a killed sweep left behind, or that was given up as lost.

    Raises:
        TimeoutError: another worker is in it, and stays there.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    with (folder / _LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{folder}: another process works on this trial and does not end") from None
                time.sleep(0.1)
        yield


class Watch:
    """Ends this process when a trial in it takes too long; the trial says when it is alive.

    The clock is a C thread that needs nothing of the interpreter, so that it also ends a trial that never gives up the
    interpreter's lock. What the process was at goes to a file in the trial's folder, and so does a SIGTERM.

    Args:
        folder: of the trial.
        trial_seconds: for the whole attempt; None: no limit.
        silent_seconds: between two signs of life; None: no limit.
    """

    def __init__(self, folder: Path, *, trial_seconds: float | None, silent_seconds: float | None) -> None:
        self._path = folder / _LAST_WORDS
        self._end = None if trial_seconds is None else (time.monotonic() + trial_seconds, trial_seconds)
        self._silent_seconds = silent_seconds

    def __enter__(self) -> "Watch":
        self._file = self._path.open("w")
        faulthandler.register(signal.SIGTERM, file=self._file, chain=True)
        self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGTERM)
        self._file.close()
        self._path.unlink(missing_ok=True)

    def alive(self) -> None:
        """Wind the clock up again."""
        limits = []
        if self._end is not None:
            end, limit = self._end
            limits.append((max(end - time.monotonic(), 1e-3), f"an attempt may take {minutes(limit)}"))
        if self._silent_seconds is not None:
            limits.append((self._silent_seconds, f"no epoch ended within {minutes(self._silent_seconds)}"))
        if limits:
            seconds, words = min(limits)
            self._file.seek(0)
            self._file.truncate()
            self._file.write(f"{words}\n")
            self._file.flush()
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)


def last_words(folder: Path) -> Failure | None:
    """What the file of a `Watch` says of a worker that has died; None if it was ended by neither clock nor SIGTERM."""
    path = folder / _LAST_WORDS
    text = path.read_text(errors="replace") if path.exists() else ""
    if "Timeout (" in text:
        limit = text.partition("\n")[0]
        return Failure(cause=Cause.TIMEOUT, reason=f"timeout: {limit}", detail=text)
    if "(most recent call first)" in text:
        return Failure(cause=Cause.PREEMPTED, reason="preempted: the worker was told to stop", detail=text)
    return None


def claim(*, cpus: int, gpus: float) -> None:
    """Set this process up for a trial with its share of the machine, whatever the trial before left behind.

    Args:
        cpus: threads to compute with.
        gpus: share of a GPU: of its memory no more than that is used. 0 hides all GPUs.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(cpus)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch  # reads all these

    torch.set_num_threads(cpus)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    torch.manual_seed(0)
    gc.collect()
    _freeze()
    if gpus and torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(gpus, 1.0))


@functools.cache
def _freeze() -> None:
    """Leave out of every later collection what the imports have made: looking through it takes 0.25 s a trial."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # else some libraries complain at the end that nobody has collected theirs


@contextlib.contextmanager
def mourned() -> Iterator[None]:
    """See to it that no process started inside the block outlives this one: Ray's take up to a minute to notice.

    A small process waits for the end of this one, however that comes, and kills what inherited a mark from it. Where
    the system has no /proc nothing is done.
    """
    mark = f"{MARK}={uuid.uuid4().hex}"
    command = [sys.executable, "-S", "-c", _MOURNER, mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):  # Ctrl-C is not for it
        os.environ |= {MARK: mark.partition("=")[2], _KEEP_ENVIRONMENT: "1"}
        try:
            yield
        finally:
            for name in (MARK, _KEEP_ENVIRONMENT):
                os.environ.pop(name, None)


class InterruptedSweep(BaseException):
    """The sweep was told to stop where there is nothing to wait for."""


class Interrupts:
    """What Ctrl-C and SIGTERM ask for: one Ctrl-C to start no more trials, a second one or SIGTERM to stop at once.

    Where trials run, inside `heeded`, they are asked whether; elsewhere a signal raises `InterruptedSweep`. A process
    that was told to stop and has not within 15 s is ended, with the exit code given.

    Args:
        exit_code: of the process that would not stop.
    """

    def __init__(self, exit_code: int) -> None:
        self.stopped = False
        self._exit_code = exit_code
        self._drain: Callable[[], None] | None = None
        self._drained = False
        self._deadline = threading.Timer(_STOP_SECONDS, os._exit, (exit_code,))
        self._deadline.daemon = True

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._install()
        return self

    def __exit__(self, *_: object) -> None:
        self._deadline.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def heeded(self, drain: Callable[[], None]) -> Iterator[None]:
        """For as long as trials run: `drain` is called for the first Ctrl-C; who runs them looks at `stopped`."""
        self._install()  # Ray has put its own in their place
        self._drain = drain
        try:
            yield
        finally:
            self._drain = None

    def _install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._drain is not None and not self._drained:
            self._drained = True
            self._drain()
            _say("Ctrl-C: no further trial starts, and those that run are let finish. Ctrl-C again stops them now")
            return
        if not self.stopped:
            self._deadline.start()
        self.stopped = True
        _say(f"{signal.Signals(number).name}: stopping now; trials that run go on from their last checkpoint next time")
        if self._drain is None:
            raise InterruptedSweep


def _say(line: str) -> None:
    os.write(2, f"\n{line}\n".encode())  # print may be what was interrupted


def minutes(seconds: float) -> str:
    """A limit as params.yaml has it."""
    return f"{seconds / 60:g} min"
