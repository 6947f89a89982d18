"""What a sweep costs on top of its trials: trials that do nothing, and trials that sleep for thirty seconds.

`python benchmarks/sweep.py [<sleeping trials>]`, on two slots. The first figure is the time a trial that does nothing
takes of a slot; the second the wall time of a sweep over the time that its trials take by themselves.

In both is what lies between the first trial that is handed out and the end of the last: the start of two workers, which
import torch, scheduling, every record with its wait for the disk, Tune's end. It is told what the workers' start takes
of it, which a sweep pays once and not with every trial. Not in them: the start and end of Ray, the plan, MLflow.
"""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.planning.plan import Plan, Trial, make_trial
from pipeline.planning.shares import Machines, Share, Shares
from pipeline.running import execute
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Resources
from pipeline.running.supervision import Interrupts
from pipeline.running.trial import Assignment, Terms, record
from pipeline.storage import provenance
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from reid import methods
from reid.config import Recipe, TrialConfig

SLOTS, IDLE, SECONDS = 2, 40, 30.0


def sleeping(seconds: float) -> execute.Work:
    """What a worker does instead of training."""

    def work(assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> None:
        started = time.time()
        time.sleep(seconds)
        publish({"epoch": 1.0, "loss": 0.0, "seconds": seconds})
        result = record(
            "done", {"mAP": 0.5}, epochs=1, cost={"seconds": seconds}, share=assignment.share, started=started
        )
        assignment.store.finish(assignment.key, result)

    return work


class First:
    """Notes when the first trial has ended an epoch."""

    def __init__(self) -> None:
        self.when = 0.0

    def started(self, trial: Trial) -> None:
        """Nothing."""

    def epoch(self, key: str, metrics: dict[str, float]) -> None:
        """An epoch has ended."""
        self.when = self.when or time.perf_counter()

    def ended(self, key: str, verdict: str) -> None:
        """Nothing."""


def sweep(count: int, seconds: float) -> tuple[float, float]:
    """The wall time of a sweep over so many trials, Ray being up; and of it, what its workers took to start."""
    config = [
        TrialConfig(method="bdb", model=methods.config("bdb"), recipe=Recipe(), seed=seed) for seed in range(count)
    ]
    trials = [make_trial(one, "synthetic", {"test": "t", "val": "v"}) for one in config]
    with tempfile.TemporaryDirectory() as folder, Interrupts(exit_code=3) as interrupts:
        agenda = Agenda(Plan(experiments=(), trials={t.key: t for t in trials}, searches=()), TrialStore(Path(folder)))
        place = Path(folder)
        resources = Resources(
            terms=Terms(
                store=agenda.store, data=InPlace(place), state_epochs=1, trial_seconds=None, silent_seconds=600
            ),
            shares=Shares(Share(cpus=1, gpus=0.0, processes=1), {}),
            machines=Machines(execute.machines(), SLOTS),
            max_failures=0,
        )
        first, started = First(), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            execute.execute(agenda, resources, [first], interrupts, sleeping(seconds))
        assert agenda.complete()
        assert not agenda.failed
        return time.perf_counter() - started, first.when - started - seconds


def main(count: int) -> None:
    provenance.environment()
    started = time.perf_counter()
    with execute.session(cpus=SLOTS):
        print(f"Ray starts in {time.perf_counter() - started:.1f} s")
        idle, start = sweep(IDLE, 0.0)
        each, later = (seconds * SLOTS / IDLE for seconds in (idle, idle - start))
        print(
            f"{IDLE} trials that do nothing: {idle:.1f} s, {each:.2f} s of a slot each (at most 1.0); "
            f"after the workers' start of {start:.1f} s {later:.2f}"
        )
        slept, start = sweep(count, SECONDS)
        alone = count * SECONDS / SLOTS
        print(
            f"{count} trials of {SECONDS:.0f} s: {slept:.1f} s, {slept / alone:.3f} of their own time (at most 1.08), "
            f"the workers' start of {start:.1f} s included"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
