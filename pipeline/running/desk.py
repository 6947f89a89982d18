"""A sweep's desk: where the agenda's trials are handed out and their attempts come back. Knows nothing of Ray."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.planning.plan import Trial
from pipeline.planning.shares import Machines, Room, Share, Shares, slots
from pipeline.planning.strict import ParamsError
from pipeline.running.agenda import Agenda
from pipeline.running.supervision import Cause, Failure, Interrupts, kernel_kills, last_words, minutes, tries_again
from pipeline.running.trial import Assignment, Terms, paid, record
from reid.distributed import check_batch

_GRACE_SECONDS = 5.0  # that a worker has to end itself once it is over a limit
_START_SECONDS = 120.0  # that a limit is longer until a worker begins: what it imports may come from a slow disk


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
    """How a sweep's trials share its machines, how often they are tried again, and the terms for all of them."""

    terms: Terms
    shares: Shares
    machines: Machines
    max_failures: int


@dataclasses.dataclass
class _Attempt:
    """An attempt: its share, whether a worker has it and is ready, its last sign of life, and what is wrong with it."""

    share: Share
    placed: bool = False
    ready: bool = False
    began: float = dataclasses.field(default_factory=time.monotonic)
    heard: float = dataclasses.field(default_factory=time.monotonic)
    kills: int = dataclasses.field(default_factory=kernel_kills)
    failure: Failure | None = None


class Desk:
    """What searcher, scheduler and callbacks share: which Tune trial is which of ours, and how each of ours stands."""

    def __init__(self, agenda: Agenda, resources: Resources, listeners: list[Listener], interrupts: Interrupts) -> None:
        self.agenda, self.resources, self.listeners, self.interrupts = agenda, resources, listeners, interrupts
        self.problem = ""
        self._idle = False
        self.shunned: set[str] = set()  # machines that are unfit, by Ray's ids
        self._attempts: dict[str, _Attempt] = {}
        self._causes: dict[str, list[Cause]] = {}  # of a trial's failures in this sweep

    def __deepcopy__(self, memo: dict[int, Any]) -> "Desk":
        return self  # Tune copies searchers and schedulers; there is one desk

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # Tune writes itself down for a restore that never happens; the desk stays out of it

    def start(self) -> Trial | None:
        """The next trial for a worker, its record opened; None if there is none now, or no room for it."""
        trial = None if self._idle else self.agenda.next(_Packing(self))
        if trial is None:
            self._idle = not self.resources.machines.grow  # until an attempt has ended
            if not self._attempts:
                self.check_room()
            return None
        try:
            self.agenda.store.open(trial)
        except OSError as error:
            self.agenda.again(trial.key)
            self.stop_starting(str(error))
            return None
        self._attempts[trial.key] = _Attempt(self.share(trial))
        for listener in self.listeners:
            listener.started(trial)
        return trial

    def share(self, trial: Trial) -> Share:
        """What a trial gets."""
        return self.agenda.share(trial, self.resources.shares)

    def running(self) -> list[Share]:
        """Of the trials that were started and have not ended."""
        return [attempt.share for attempt in self._attempts.values()]

    def assignment(self, trial: Trial) -> Assignment:
        """What the worker of a trial that was started is told."""
        return Assignment(
            key=trial.key,
            share=self._attempts[trial.key].share,
            keep_weights=self.agenda.keeps_weights(trial.key),
            **vars(self.resources.terms),
        )

    def check_room(self) -> None:
        """See to it that every trial can run on some machine, by so many processes.

        Raises:
            ParamsError: one line for every share that none has room for, or that a batch cannot be dealt out to.
        """
        wanted = {self.share(trial): trial.name for trial in self.agenda.unfinished()[::-1]}
        for run in self.agenda.searches:
            if not run.final:
                name = run.plan.experiment
                wanted.setdefault(self.resources.shares.of([name]), f"the trials of {name}")
        have = ", ".join(map(str, self.resources.machines.nodes))
        problems = [
            f"no machine has room for {name}, which asks for {share} (resources in params.yaml): there is {have}"
            for share, name in wanted.items()
            if not self.resources.machines.grow and not slots(share, self.resources.machines.nodes)
        ]
        if problems := problems + self._uneven():
            raise ParamsError(problems)

    def _uneven(self) -> list[str]:
        """The trials whose batches their processes cannot share equally, a line for each sampler and share."""
        found = {(trial.config.recipe.sampler, self.share(trial)): trial.name for trial in self.agenda.unfinished()}
        problems = []
        for (sampler, share), name in found.items():
            try:
                check_batch(identities=sampler.identities, images=sampler.images, processes=share.processes)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        return problems

    def has_worker(self, key: str) -> None:
        """Its limits count from now on."""
        attempt = self._attempts[key]
        attempt.placed = True
        attempt.began = attempt.heard = time.monotonic()

    def reported(self, key: str, metrics: dict[str, Any]) -> None:
        """An epoch has ended, or the worker says that it begins or why its attempt has failed."""
        attempt = self._attempts[key]
        attempt.heard = time.monotonic()
        if "ready" in metrics:
            self.has_worker(key)
            attempt.ready = True
        elif "failure" in metrics:
            found = metrics["failure"]
            attempt.failure = Failure(cause=Cause(found["cause"]), reason=found["reason"], detail=found["detail"])
        elif "epoch" in metrics:
            for listener in self.listeners:
                listener.epoch(key, metrics)

    def overdue(self, key: str) -> bool:
        """Whether a worker has outlived a limit by so much that its own clock must have stopped, too."""
        attempt = self._attempts[key]
        over = [words for past, limit, words in self._limits(key) if past > limit + _GRACE_SECONDS]
        if over and attempt.failure is None:
            reason = f"timeout: {over[0]}, and its worker does not answer"
            attempt.failure = Failure(cause=Cause.TIMEOUT, reason=reason)
        return bool(over)

    def _limits(self, key: str) -> Iterator[tuple[float, float, str]]:
        """The seconds that have passed of each limit of an attempt, those it has, and what the limit says."""
        attempt, now = self._attempts[key], time.monotonic()
        more = 0.0 if attempt.ready else _START_SECONDS
        if (limit := self.resources.terms.trial_seconds) is not None:
            yield now - attempt.began, limit + more, f"an attempt may take {minutes(limit)}"
        if (limit := self.resources.terms.silent_seconds) is not None:
            yield now - attempt.heard, limit + more, f"no epoch ended within {minutes(limit)}"

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
            cost={"seconds": sum(line["seconds"] for line in epochs), **paid(epochs)},
            share=self._attempts[key].share,
            started=epochs[0]["time"] - epochs[0]["seconds"],
        )
        with self._writing():
            self.agenda.store.finish(key, content)

    def completed(self, key: str) -> None:
        """An attempt has come to its end, a good one or a bad one."""
        self._refresh(key)
        if not self._attempts[key].placed:
            self._over(key, "preempted")  # it was taken back
        elif self._attempts[key].failure is not None:
            self.broke(key, "")
        elif self.agenda.store.state(key) == "done":
            self._over(key, self.agenda.store.result(key)["status"])
        else:
            reason = f"{Cause.READ_WRITE}: its result was written and is not in {self.agenda.store.place}/{key}"
            self._attempts[key].failure = Failure(cause=Cause.READ_WRITE, reason=reason)
            self.broke(key, "")

    def broke(self, key: str, text: str) -> None:
        """An attempt has failed: the trial is tried again, or fails, or waits until disks and machines are mended."""
        if self.interrupts.stopped:
            return
        self._refresh(key)
        found = self._attempts[key].failure or self._lost(key, text)
        again = tries_again(found.cause, self._causes.setdefault(key, []), self.resources.max_failures)
        self._causes[key].append(found.cause)
        verdict = "again" if again else "failed"
        if verdict == "failed" and found.cause not in (Cause.NO_ROOM, Cause.UNFIT):
            with self._writing():
                self.agenda.store.fail(key, reason=found.reason, detail=found.detail)
        if found.cause is Cause.NO_ROOM or (found.cause is Cause.UNFIT and not again):
            self.stop_starting(found.reason)
        self._over(key, "preempted" if self.problem and not again else verdict, reason=found.reason)

    def stop_starting(self, problem: str) -> None:
        """A disk is full, or machines are unfit: no further trial starts; those that still can go on to their end."""
        self.problem = self.problem or problem
        self.agenda.close()

    def leave(self) -> None:
        """Tune is through. What has not ended was stopped, and is resumed by the next sweep."""
        for key in list(self._attempts):
            self._over(key, "preempted")

    def _over(self, key: str, verdict: str, **more: str) -> None:
        del self._attempts[key]
        self._idle = False
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


class _Packing:
    """What there is room for, asked of one trial after the other in the order of the agenda.

    For the first one that does not fit, room is kept: what comes after it starts where it takes nothing of that. Where
    machines may be added, what waits for room is what makes them come: all that may run at a time, or one. A trial of
    several processes asks for room only once it has begun, so it begins where there is some, or all alone.
    """

    def __init__(self, desk: Desk) -> None:
        machines, shares = desk.resources.machines, desk.running()
        self._share, self._kept = desk.share, False
        self._full = machines.concurrent is not None and len(shares) >= machines.concurrent
        self._room, over = Room.of(machines.now()), False
        for share in shares:
            over = over or not self._room.holds(share)
            self._room = self._room.without(share)
        self._alone, self._grow = not shares, machines.grow
        self._may_wait = machines.grow and (machines.concurrent is not None or not over)

    def fits(self, trial: Trial) -> bool:
        """Whether it may start now."""
        share = self._share(trial)
        waits = self._may_wait if share.processes == 1 else self._grow and self._alone
        if self._full or waits or self._room.holds(share):
            return not self._full
        if not self._kept:
            self._room, self._kept = self._room.without(share), True
        return False

    def size(self, trial: Trial) -> tuple[float, ...]:
        """GPUs count before cores."""
        share = self._share(trial)
        return share.all_gpus, share.all_cpus
