"""What runs next. The trial store is the memory; the agenda derives everything from it and holds nothing else.

`todo = declared - done`: static trials come from the plan, search trials are declared one by one as the outcomes they
may see come in, and the winner of a search is declared over the seeds once the search has ended. A trial that scores
the network of another one waits for that one's weights; where they were not kept, that one is trained again. An
executor asks `next`, passes each epoch to `goes_on` and says when a trial has `ended`.
"""

from collections import deque
from dataclasses import dataclass, field

from pipeline import search
from pipeline.plan import Plan, SearchPlan, Trial
from pipeline.store import TrialStore


@dataclass
class SearchRun:
    """One search on one data set: its trials by number, and its winner's trials once it has ended."""

    plan: SearchPlan
    trials: list[Trial] = field(default_factory=list)
    params: list[dict[str, search.Value]] = field(default_factory=list)
    winner: int | None = None
    final: list[Trial] = field(default_factory=list)


class Agenda:
    """The trials of a sweep, and the order in which they start."""

    def __init__(self, plan: Plan, store: TrialStore) -> None:
        self.store = store
        self.declared: dict[str, Trial] = {}
        self.failed: set[str] = set()  # in this run; an older failure is tried again
        self.running: set[str] = set()
        self._done: set[str] = set()  # a record that is done stays so
        self._queue: deque[Trial] = deque()
        self._waiting: dict[str, list[Trial]] = {}  # for the weights of the trial with this key
        self.searches = [SearchRun(plan=item) for item in plan.searches]
        self._advance_searches()
        for trial in plan.trials.values():
            self._declare(trial)

    def next(self) -> Trial | None:
        """The next trial to start; None when every other one waits for a running one, or when nothing is left."""
        if not self._queue:
            return None
        trial = self._queue.popleft()
        self.running.add(trial.key)
        return trial

    def finished(self) -> bool:
        """Whether nothing is running and nothing is left to start."""
        return not self._queue and not self.running

    def ended(self, key: str) -> None:
        """A trial has a terminal record in the store; declare what that makes possible."""
        self.running.discard(key)
        if not self.terminal(key):
            self.failed.add(key)
        self._release(key)
        self._advance_searches()

    def goes_on(self, key: str, epoch: int) -> bool:
        """Whether a running trial should train on after an epoch; only search trials are ever stopped."""
        for run in self.searches:
            keys = [trial.key for trial in run.trials]
            if key in keys:
                seen = self._seen(run, keys.index(key))
                last = run.trials[keys.index(key)].config.recipe.schedule.epochs
                curve = self._curve(run, key)
                return epoch >= last or not search.should_stop(run.plan.search, curve, epochs=last, seen=seen)
        return True

    def keeps_weights(self, key: str) -> bool:
        """Whether another trial waits for what this one has trained."""
        return key in self._waiting

    def queued(self) -> list[Trial]:
        """The trials that are ready and have not started."""
        return list(self._queue)

    def terminal(self, key: str) -> bool:
        """Whether a trial is done, with its weights if they are waited for, or has failed in this run."""
        if key not in self._done and self.store.state(key) == "done":
            self._done.add(key)
        lacks_weights = key in self._waiting and not self.store.has_weights(key)
        return key in self.failed or (key in self._done and not lacks_weights)

    def unfinished(self) -> list[Trial]:
        """The declared trials that are neither done nor failed."""
        return [trial for trial in self.declared.values() if not self.terminal(trial.key)]

    def complete(self) -> bool:
        """Whether every trial, those that searches still have to declare included, is done or failed."""
        return not self.unfinished() and all(len(run.trials) == run.plan.search.trials for run in self.searches)

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
                (self._queue.appendleft if first else self._queue.append)(trial)

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

    def _advance_searches(self) -> None:
        for run in self.searches:
            while self._can_propose(run):
                number = len(run.trials)
                params = search.propose(run.plan.search, number, seen=self._seen(run, number), taken=run.params)
                trial = run.plan.trial(number, params)
                run.trials.append(trial)
                run.params.append(params)
                self._declare(trial, first=True)  # others wait for it
            self._crown(run)

    def _can_propose(self, run: SearchRun) -> bool:
        visible = run.trials[: self._horizon(run, len(run.trials))]
        return len(run.trials) < run.plan.search.trials and all(self.terminal(trial.key) for trial in visible)

    def _crown(self, run: SearchRun) -> None:
        ended = len(run.trials) == run.plan.search.trials and all(self.terminal(trial.key) for trial in run.trials)
        if run.final or not ended:
            return
        run.winner = search.winner(self.outcomes(run))
        if run.winner is not None:
            run.final = run.plan.winner_trials(run.params[run.winner])
            for trial in run.final:
                self._declare(trial)

    def _horizon(self, run: SearchRun, number: int) -> int:
        return max(0, number - run.plan.search.lag + 1)

    def _seen(self, run: SearchRun, number: int) -> list[search.Outcome]:
        return [self._outcome(run, earlier) for earlier in range(self._horizon(run, number))]

    def _outcome(self, run: SearchRun, number: int) -> search.Outcome:
        key = run.trials[number].key
        curve = self._curve(run, key)
        if self.store.state(key) != "done":
            return search.Outcome(params=run.params[number], value=None, curve=curve)
        result = self.store.result(key)
        value = result["metrics"][run.plan.search.objective]
        return search.Outcome(run.params[number], value, curve, pruned=result["status"] == "pruned")

    def _curve(self, run: SearchRun, key: str) -> dict[int, float]:
        name = f"val/{run.plan.search.objective}"
        return {int(line["epoch"]): line[name] for line in self.store.epochs(key)}
