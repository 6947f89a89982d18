"""What runs next. The trial store is the memory; the agenda derives everything from it and holds nothing else.

`todo = declared - done`: static trials come from the plan, search trials are declared one by one as the outcomes they
may see come in, and the winner of a search is declared over the seeds once the search has ended. A trial that scores
the network of another one waits for that one's weights; where they were not kept, that one is trained again. An
executor asks `next`, passes each epoch to `goes_on` and says when a trial has `ended` or is to be run `again`.
"""

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.planning import search
from pipeline.planning.plan import Plan, SearchPlan, Trial
from pipeline.planning.searches import SECONDS, Objective, Value
from pipeline.planning.shares import Share, Shares
from pipeline.running.networks import Networks
from pipeline.storage.store import TrialStore


@dataclass
class SearchRun:
    """One search on one data set: its trials by number, and once it has ended its best, each with its final trials.

    `most`: so many trials it can ask for. `over`: it asks for no more. `known`: the outcomes of trials that have ended.
    """

    plan: SearchPlan
    most: int
    trials: list[Trial] = field(default_factory=list)
    params: list[dict[str, Value]] = field(default_factory=list)
    over: bool = False
    best: list[int] = field(default_factory=list)
    final: list[list[Trial]] = field(default_factory=list)
    known: dict[int, search.Outcome] = field(default_factory=dict)


class Packing(Protocol):
    """What there is room for."""

    def fits(self, trial: Trial) -> bool:
        """Whether a trial may start now."""

    def size(self, trial: Trial) -> tuple[float, ...]:
        """How much of the machines it takes, to be compared."""


class Agenda:
    """The trials of a sweep, and the order in which they start: those that others wait for, then the longest first."""

    def __init__(self, plan: Plan, store: TrialStore) -> None:
        self.store = store
        self.declared: dict[str, Trial] = {}
        self.failed: set[str] = set()  # in this run; an older failure is tried again
        self.running: set[str] = set()
        self._done: set[str] = set()  # a record that is done stays so
        self._urgent: deque[Trial] = deque()
        self._queue: list[Trial] = []
        self.closed = False
        self.networks = Networks(plan)
        self._pace: dict[tuple[str, str], float] = {}  # seconds an epoch, of a method on a data set
        self._waiting: dict[str, list[Trial]] = {}  # for the weights of the trial with this key
        self._users: dict[str, set[str]] = {}
        for experiment, rows in plan.experiments:
            for trial in (one for row in rows for cell in row.trials.values() for one in cell):
                self._use(trial, experiment.name)
        store.refresh()
        self.searches = [SearchRun(plan=item, most=search.most(item.search)) for item in plan.searches]
        self._advance_searches()
        for trial in plan.trials.values():
            self._declare(trial)

    def next(self, room: Packing) -> Trial | None:
        """The next trial to start; None when nothing is left, what is left waits for a running one, or none fits.

        Args:
            room: what there is; it is asked of one trial after the other, the first to start first, until one fits.
        """
        if self.closed:
            return None
        trial = next(filter(room.fits, self._in_order(room)), None)
        if trial is not None:
            (self._urgent if trial in self._urgent else self._queue).remove(trial)
            self.running.add(trial.key)
        return trial

    def _in_order(self, room: Packing) -> Iterator[Trial]:
        """Of those that take equally long the largest first, so that trials of one share follow each other."""
        yield from self._urgent
        yield from sorted(self._queue, key=lambda trial: (self._expected(trial), room.size(trial)), reverse=True)

    def finished(self) -> bool:
        """Whether nothing is running and nothing is left to start."""
        return (self.closed or not self.queued()) and not self.running

    def close(self) -> None:
        """Start nothing more."""
        self.closed = True

    def again(self, key: str) -> None:
        """An attempt has ended without a terminal record: the trial is to be run once more, before the others."""
        self.running.discard(key)
        trial = self.declared[key]
        if trial.source is not None:
            self._wait(trial, trial.source)  # whose network may be what is wrong
        else:
            self._urgent.appendleft(trial)

    def ended(self, key: str) -> None:
        """A trial has a terminal record in the store; declare what that makes possible."""
        self.running.discard(key)
        if not self.terminal(key):
            self.failed.add(key)
        self._release(key)
        self._advance_searches()
        for other in self.networks.beaten(self.store, key):
            if not self._awaited(other):
                self.store.remove(self.store.weights(other))

    def goes_on(self, key: str, epoch: int) -> bool:
        """Whether a running trial should train on after an epoch; only search trials are ever stopped."""
        for run in self.searches:
            keys = [trial.key for trial in run.trials]
            if key in keys:
                self.store.refresh(key)
                stopped = self._stopped_at(run, keys.index(key))
                return stopped is None or stopped > epoch
        return True

    def keeps_weights(self, key: str) -> bool:
        """Whether another trial waits for what this one has trained, or it may be the best of a table."""
        return key in self._waiting or self.networks.candidate(key)

    def share(self, trial: Trial, shares: Shares) -> Share:
        """What a trial gets, by the experiments that show it or for which it is trained."""
        return shares.of(self._users.get(trial.key, ()), scores=trial.source is not None)

    def _use(self, trial: Trial, experiment: str) -> None:
        for one in filter(None, (trial, trial.source)):
            self._users.setdefault(one.key, set()).add(experiment)

    def queued(self) -> list[Trial]:
        """The trials that are ready and have not started."""
        return [*self._urgent, *self._queue]

    def terminal(self, key: str) -> bool:
        """Whether a trial is done, with its weights if they are waited for, or has failed in this run."""
        if key not in self._done and self.store.state(key) == "done":
            self._done.add(key)
            trial = self.declared[key]
            if (trial.config.method, trial.dataset) not in self._pace:
                self._measure(trial)
        lacks_weights = key in self._waiting and not self.store.has_weights(key)
        return key in self.failed or (key in self._done and not lacks_weights)

    def unfinished(self) -> list[Trial]:
        """The declared trials that are neither done nor failed."""
        return [trial for trial in self.declared.values() if not self.terminal(trial.key)]

    def complete(self) -> bool:
        """Whether every trial, those that searches still have to declare included, is done or failed."""
        return not self.unfinished() and all(run.over for run in self.searches)

    def to_come(self) -> int:
        """How many trials searches may still ask for, at most; those of their best not counted."""
        return sum(run.most - len(run.trials) for run in self.searches if not run.over)

    def outcomes(self, run: SearchRun) -> list[search.Outcome]:
        """The outcomes of a search's trials so far, by number."""
        return [self._outcome(run, number) for number in range(len(run.trials))]

    def _declare(self, trial: Trial, *, first: bool = False) -> None:
        if trial.key in self.declared:
            return
        self.declared[trial.key] = trial
        if not self.terminal(trial.key):
            if trial.source is not None:
                self._wait(trial, trial.source)
            else:
                (self._urgent.append if first else self._queue.append)(trial)

    def _wait(self, trial: Trial, source: Trial) -> None:
        """Queue a trial behind the one whose network it scores, which may have to be trained once more."""
        was_over = source.key in self.declared and self.terminal(source.key)
        self._waiting.setdefault(source.key, []).append(trial)
        self._declare(source)
        if was_over and not self.terminal(source.key):
            self._queue.append(source)
        if self.terminal(source.key):
            self._release(source.key)

    def _release(self, key: str) -> None:
        """A trial has ended: what waited for its weights can start, or fails with it."""
        for trial in self._waiting.pop(key, ()):
            if key in self.failed:
                self.store.open(trial)
                self.store.fail(trial.key, reason=f"{self.declared[key].name}, whose network it scores, failed")
                self.failed.add(trial.key)
            else:
                self._queue.append(trial)

    def _awaited(self, key: str) -> bool:
        """Whether a trial that has not ended scores the network of this one."""
        ready = [*self.queued(), *(self.declared[other] for other in self.running)]
        return key in self._waiting or any(trial.source and trial.source.key == key for trial in ready)

    def _measure(self, trial: Trial) -> None:
        """Learn the pace of a method on a data set from the first of its trials that is done."""
        seconds = [line["seconds"] for line in self.store.epochs(trial.key) if "seconds" in line]
        if seconds:
            self._pace[trial.config.method, trial.dataset] = sum(seconds) / len(seconds)

    def _expected(self, trial: Trial) -> float:
        """How long a trial will take: seconds, as long as any pace is known."""
        usual = sum(self._pace.values()) / len(self._pace) if self._pace else 1.0
        return trial.epochs * self._pace.get((trial.config.method, trial.dataset), usual)

    def _advance_searches(self) -> None:
        for run in self.searches:
            while self._can_propose(run):
                number = len(run.trials)
                params = search.propose(run.plan.search, number, seen=self._seen(run, number), taken=run.params)
                trial = run.plan.trial(number, params)
                run.trials.append(trial)
                run.params.append(params)
                self._use(trial, run.plan.experiment)
                self._declare(trial, first=True)  # others wait for it
            self._crown(run)

    def _can_propose(self, run: SearchRun) -> bool:
        """Whether the next trial may be asked for; where it never will be, the search is over."""
        number = len(run.trials)
        if not all(self.terminal(trial.key) for trial in run.trials[: self._horizon(run, number)]):
            return False
        run.over = number >= run.most or not search.wants_more(run.plan.search, self._seen(run, number))
        return not run.over

    def _crown(self, run: SearchRun) -> None:
        ended = run.over and all(self.terminal(trial.key) for trial in run.trials)
        if run.final or not ended:
            return
        run.best = search.ranking(run.plan.search, self.outcomes(run))[: run.plan.search.top]
        run.final = [run.plan.winner_trials(run.params[number]) for number in run.best]
        for trials in run.final:
            for trial in trials:
                self._use(trial, run.plan.experiment)
                self._declare(trial)

    def _horizon(self, run: SearchRun, number: int) -> int:
        return max(0, number - run.plan.search.lag + 1)

    def _seen(self, run: SearchRun, number: int) -> list[search.Outcome]:
        return [self._outcome(run, earlier) for earlier in range(self._horizon(run, number))]

    def _outcome(self, run: SearchRun, number: int) -> search.Outcome:
        key = run.trials[number].key
        if number not in run.known and self.terminal(key):
            run.known[number] = self._read(run, number)
        return run.known[number] if number in run.known else search.Outcome(run.params[number], (), {})

    def _read(self, run: SearchRun, number: int) -> search.Outcome:
        """What a trial that has ended left in the store. A stopped one counts as it was when it fell behind.

        It may have gone on for a while: a driver that is killed at that very epoch stops it only when it is back.
        """
        key, params = run.trials[number].key, run.params[number]
        curve = self._curve(run, key)
        if self.store.state(key) != "done":
            return search.Outcome(params, (), curve)
        result = self.store.result(key)
        cost = result["cost"]
        hours = search.gpu_hours(seconds=cost["seconds"], gpus=cost["gpus"], cpus=cost["cpus"])
        if result["status"] == "pruned":
            last = self._stopped_at(run, number) or result["epochs"]
            curve = {epoch: value for epoch, value in curve.items() if epoch <= last}
            return search.Outcome(params, (curve[last],), curve, pruned=True, hours=hours)
        values = tuple(self._value(key, name, result["metrics"]) for name in run.plan.search.objectives)
        return search.Outcome(params, values, curve, hours=hours)

    def _value(self, key: str, objective: Objective, metrics: dict[str, float]) -> float:
        if objective == SECONDS:
            return statistics.median(line[SECONDS] for line in self.store.epochs(key))
        return float(metrics[objective])

    def _stopped_at(self, run: SearchRun, number: int) -> int | None:
        trial = run.trials[number]
        epochs = trial.config.recipe.schedule.epochs
        curve = self._curve(run, trial.key)
        return search.stopped_at(run.plan.search, curve, epochs=epochs, seen=self._seen(run, number))

    def _curve(self, run: SearchRun, key: str) -> dict[int, float]:
        name = f"val/{run.plan.search.objectives[0]}"
        return {int(line["epoch"]): line[name] for line in self.store.epochs(key)}
