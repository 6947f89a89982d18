"""A sweep's desk: where the agenda's trials are handed out and their attempts come back. Knows nothing of Ray."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.agenda import Agenda
from pipeline.plan import Trial
from pipeline.staging import DataSets
from pipeline.store import TrialStore
from pipeline.supervision import Cause, Failure, Interrupts, kernel_kills, last_words, minutes, tries_again
from pipeline.trial import Assignment, record

_GRACE_SECONDS = 5.0  # that a worker has to end itself once it is over a limit


class Listener(Protocol):
    """Is told what happens, on the driver."""

    def started(self, trial: Trial) -> None:
        """A trial has been given to a worker."""

    def epoch(self, key: str, metrics: dict[str, float]) -> None:
        """A trial has finished an epoch."""

    def ended(self, key: str, verdict: str) -> None:
        """An attempt is over. The trial has a terminal record: `done`, `pruned` or `failed`; or none: `again` (it is
        tried once more) or `preempted` (the sweep is being stopped)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """A trial's share of a machine and of time, how often it is tried again, and where things lie."""

    store: TrialStore
    data: DataSets
    cpus: int
    gpus: float
    state_epochs: int
    trial_seconds: float | None
    silent_seconds: float | None
    max_failures: int
    concurrent: int

    def assignment(self, key: str, *, keep_weights: bool = False) -> Assignment:
        """What a worker is told."""
        return Assignment(
            key=key,
            store=self.store,
            data=self.data,
            cpus=self.cpus,
            gpus=self.gpus,
            state_epochs=self.state_epochs,
            trial_seconds=self.trial_seconds,
            silent_seconds=self.silent_seconds,
            keep_weights=keep_weights,
        )


@dataclasses.dataclass
class _Attempt:
    """An attempt that runs: since when there is no sign of life from it, and what was found to be wrong with it."""

    began: float = dataclasses.field(default_factory=time.monotonic)
    heard: float = dataclasses.field(default_factory=time.monotonic)
    kills: int = dataclasses.field(default_factory=kernel_kills)
    failure: Failure | None = None


class Desk:
    """What searcher, scheduler and callbacks share: which Tune trial is which of ours, and how each of ours stands."""

    def __init__(self, agenda: Agenda, resources: Resources, listeners: list[Listener], interrupts: Interrupts) -> None:
        self.agenda, self.resources, self.listeners, self.interrupts = agenda, resources, listeners, interrupts
        self.problem = ""
        self._attempts: dict[str, _Attempt] = {}
        self._causes: dict[str, list[Cause]] = {}  # of a trial's failures in this sweep

    def __deepcopy__(self, memo: dict[int, Any]) -> "Desk":
        return self  # Tune copies searchers and schedulers; there is one desk

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # Tune writes itself down for a restore that never happens; the desk stays out of it

    def start(self) -> Trial | None:
        """The next trial for a worker, its record opened; None if there is none now."""
        trial = self.agenda.next()
        if trial is None:
            return None
        try:
            self.agenda.store.open(trial)
        except OSError as error:
            self.agenda.again(trial.key)
            self.stop_starting(str(error))
            return None
        self._attempts[trial.key] = _Attempt()
        for listener in self.listeners:
            listener.started(trial)
        return trial

    def has_worker(self, key: str) -> None:
        """Its limits count from now on."""
        attempt = self._attempts[key]
        attempt.began = attempt.heard = time.monotonic()

    def reported(self, key: str, metrics: dict[str, Any]) -> None:
        """An epoch has ended, or the worker says that it begins or why its attempt has failed."""
        attempt = self._attempts[key]
        attempt.heard = time.monotonic()
        if "ready" in metrics:
            self.has_worker(key)
        elif "failure" in metrics:
            found = metrics["failure"]
            attempt.failure = Failure(cause=Cause(found["cause"]), reason=found["reason"], detail=found["detail"])
        elif "epoch" in metrics:
            for listener in self.listeners:
                listener.epoch(key, metrics)

    def overdue(self, key: str) -> bool:
        """Whether a worker has outlived a limit by so much that its own clock must have stopped, too."""
        attempt = self._attempts[key]
        over = any(past > limit + _GRACE_SECONDS for past, limit, _ in self._limits(key))
        if over and attempt.failure is None:
            reason = "timeout: over a limit, and no answer from the worker"
            attempt.failure = Failure(cause=Cause.TIMEOUT, reason=reason)
        return over

    def _limits(self, key: str) -> Iterator[tuple[float, float, str]]:
        """The seconds that have passed of each limit of an attempt, those it has, and what the limit says."""
        attempt, now = self._attempts[key], time.monotonic()
        if (limit := self.resources.trial_seconds) is not None:
            yield now - attempt.began, limit, f"an attempt may take {minutes(limit)}"
        if (limit := self.resources.silent_seconds) is not None:
            yield now - attempt.heard, limit, f"no epoch ended within {minutes(limit)}"

    def _reached(self, key: str) -> str:
        """The limit that an attempt has come to; empty if none. Its worker heard of the start before this desk did."""
        return next((words for past, limit, words in self._limits(key) if past > 0.9 * limit), "")

    def goes_on(self, key: str, epoch: int) -> bool:
        """Whether a trial should train on after an epoch; as long as that cannot be said, it does."""
        try:
            return self.agenda.goes_on(key, epoch)
        except OSError as error:
            self.stop_starting(str(error))
            return True

    def prune(self, key: str) -> None:
        """Record a search trial that was stopped early, with what it had reached."""
        epochs = self.agenda.store.epochs(key)
        content = record(
            "pruned",
            {name.removeprefix("val/"): value for name, value in epochs[-1].items() if name.startswith("val/")},
            epochs=len(epochs),
            seconds=sum(line["seconds"] for line in epochs),
            share=self.resources.assignment(key),
            started=epochs[0]["time"] - epochs[0]["seconds"],
        )
        with self._writing():
            self.agenda.store.finish(key, content)

    def completed(self, key: str) -> None:
        """An attempt has come to its end, a good one or a bad one."""
        self._refresh(key)
        if self._attempts[key].failure is not None:
            self.broke(key, "")
        elif self.agenda.store.state(key) == "done":
            self._over(key, self.agenda.store.result(key)["status"])
        else:
            reason = f"{Cause.READ_WRITE}: its result was written and is not in {self.agenda.store.place}/{key}"
            self._attempts[key].failure = Failure(cause=Cause.READ_WRITE, reason=reason)
            self.broke(key, "")

    def broke(self, key: str, text: str) -> None:
        """An attempt has failed: the trial is tried again, or fails, or waits for the disk to have room."""
        if self.interrupts.stopped:
            return
        self._refresh(key)
        found = self._attempts[key].failure or self._lost(key, text)
        again = tries_again(found.cause, self._causes.setdefault(key, []), self.resources.max_failures)
        self._causes[key].append(found.cause)
        verdict = "again" if again else "failed"
        if verdict == "failed" and found.cause is not Cause.NO_ROOM:
            with self._writing():
                self.agenda.store.fail(key, reason=found.reason, detail=found.detail)
        if found.cause is Cause.NO_ROOM:
            self.stop_starting(found.reason)
        self._over(key, "preempted" if self.problem and not again else verdict, reason=found.reason)

    def stop_starting(self, problem: str) -> None:
        """Something cannot be written: no further trial starts, and those that still can go on to their end."""
        self.problem = self.problem or problem
        self.agenda.close()

    def leave(self) -> None:
        """Tune is through. What has not ended was stopped, and is resumed by the next sweep."""
        for key in list(self._attempts):
            self._over(key, "preempted")

    def _over(self, key: str, verdict: str, **more: str) -> None:
        del self._attempts[key]
        with self._writing():
            self.agenda.store.attempt(key, {"event": "ended", "outcome": verdict, **more})
        (self.agenda.again if verdict in ("again", "preempted") else self.agenda.ended)(key)
        for listener in self.listeners:
            listener.ended(key, verdict)

    def _lost(self, key: str, text: str) -> Failure:
        """Why a worker has died without a word, as far as can be told."""
        said = last_words(self.agenda.store.folder(key))
        if said is not None:
            return said
        if "low on memory" in text or "OutOfMemory" in text or kernel_kills() > self._attempts[key].kills:
            reason = "out of memory: the worker was killed for it"
            return Failure(cause=Cause.MEMORY, reason=reason, detail=text)
        limit = self._reached(key)
        if limit:  # on another machine, where its last words lie
            return Failure(cause=Cause.TIMEOUT, reason=f"timeout: {limit}, and its worker has ended", detail=text)
        return Failure(cause=Cause.LOST, reason="worker lost: its process or its machine died", detail=text)

    def _refresh(self, key: str) -> None:
        """Look at what a worker has written; where that fails, it is as it was."""
        with self._writing():
            self.agenda.store.refresh(key)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The store cannot be written or reached: that is the end of the sweep, and no reason to fall over."""
        try:
            yield
        except OSError as error:
            self.stop_starting(str(error))
