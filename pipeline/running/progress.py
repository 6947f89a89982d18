"""How far a sweep is: a live view in a terminal, plain lines elsewhere; both with an estimate of the time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.planning.plan import Trial
from pipeline.planning.words import duration
from pipeline.running.agenda import Agenda

_PLAIN_SECONDS = 20.0
_TROUBLE = ("failed", "again", "preempted")
_RECENT = 0.7  # weight of the past in the running mean of seconds per epoch


@contextmanager
def counted(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with an ETA in a terminal, a line every some seconds elsewhere; the callable takes done and total."""
    if sys.stdout.isatty():
        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(label)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = started = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PLAIN_SECONDS:
            last = now
            print(
                f"{label}: {done} of {total}, about {duration((now - started) * (total - done) / done)} left",
                flush=True,
            )

    yield line


@dataclass
class _Running:
    trial: Trial
    epoch: int = 0
    losses: str = ""


@dataclass
class Sight:
    """Shows a sweep while it runs; everything it knows it is told or reads from the agenda."""

    agenda: Agenda
    concurrent: int
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    _started: float = field(default_factory=time.monotonic)
    _running: dict[str, _Running] = field(default_factory=dict)
    _epoch_seconds: float | None = None
    _last_line: float = 0.0
    _live: Live | None = None

    def __enter__(self) -> "Sight":
        if self.stream.isatty():
            self._live = Live(self._view(), console=Console(file=self.stream), refresh_per_second=2).__enter__()
        else:
            self._print(f"{self._summary()}; {self.concurrent} at a time")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(self._view())
            self._live.__exit__(None, None, None)
        self._print(f"{self._summary()}; took {duration(time.monotonic() - self._started)}")

    def started(self, trial: Trial) -> None:
        """A trial has been given to a worker."""
        self._running[trial.key] = _Running(trial)

    def epoch(self, key: str, metrics: dict[str, float]) -> None:
        """A trial has finished an epoch."""
        running = self._running[key]
        running.epoch, running.losses = int(metrics["epoch"]), f"loss {metrics['loss']:.3f}"
        seconds = metrics["seconds"]
        past = self._epoch_seconds
        self._epoch_seconds = seconds if past is None else _RECENT * past + (1 - _RECENT) * seconds
        self._tick()

    def ended(self, key: str, verdict: str) -> None:
        """An attempt at a trial is over. What is not as it should be stays to be read above the live view."""
        trial = self._running.pop(key).trial
        why = self.agenda.store.attempts(key)[-1].get("reason", "") if verdict in _TROUBLE else ""
        line = f"{verdict:>9}  {trial.name}  ({why or self._summary() + self._eta()})"
        if self._live is None:
            self._print(line)
        elif verdict in _TROUBLE:
            self._live.console.print(line, highlight=False, markup=False)
        self._tick()

    def _tick(self) -> None:
        if self._live is not None:
            self._live.update(self._view())
        elif time.monotonic() - self._last_line > _PLAIN_SECONDS:
            at = ", ".join(f"{run.trial.name} {run.epoch}/{run.trial.epochs}" for run in self._running.values())
            self._print(f"{'running':>9}  {at}  ({self._summary()}{self._eta()})")

    def _print(self, line: str) -> None:
        if self._live is None or not self._live.is_started:
            print(line, file=self.stream, flush=True)
            self._last_line = time.monotonic()

    def _counts(self) -> tuple[int, int, int]:
        declared, failed = len(self.agenda.declared), len(self.agenda.failed)
        return declared - len(self.agenda.unfinished()) - failed, failed, declared

    def _summary(self) -> str:
        done, failed, declared = self._counts()
        return f"{done} of {declared} trials done" + (f", {failed} failed" if failed else "")

    def _eta(self) -> str:
        """Time left: the epochs still to run, at the recent speed, over the trials that run side by side."""
        if self._epoch_seconds is None:
            return ""
        left = sum(trial.epochs for trial in self.agenda.queued())
        left += sum(run.trial.epochs - run.epoch for run in self._running.values())
        return f"; about {duration(left * self._epoch_seconds / self.concurrent)} left"

    def _view(self) -> Group:
        done, failed, declared = self._counts()
        bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=40))
        bar.add_task(f"{self._summary()}{self._eta()}", total=declared, completed=done + failed)
        table = Table.grid(padding=(0, 2))
        for run in self._running.values():
            table.add_row(run.trial.name, f"epoch {run.epoch}/{run.trial.epochs}", run.losses)
        return Group(bar, table)
