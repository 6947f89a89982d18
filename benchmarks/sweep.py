"""What a sweep costs on top of its trials: trials that do nothing, and trials that sleep for thirty seconds.

`python benchmarks/sweep.py [<sleeping trials>]`, on two slots. The first figure is the time a trial that does nothing
takes of a slot; the second the wall time of a sweep over the time that its trials take by themselves.
"""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import execute, provenance
from pipeline.agenda import Agenda
from pipeline.desk import Resources
from pipeline.plan import Plan, make_trial
from pipeline.shares import Machines, Share, Shares
from pipeline.staging import InPlace
from pipeline.store import TrialStore
from pipeline.supervision import Interrupts
from pipeline.trial import Assignment, Terms, record
from reid import methods
from reid.config import Recipe, TrialConfig

SLOTS, IDLE, SECONDS = 2, 40, 30.0


def sleeping(seconds: float) -> execute.Work:
    """What a worker does instead of training."""

    def work(assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> None:
        started = time.time()
        time.sleep(seconds)
        publish({"epoch": 1.0, "loss": 0.0, "seconds": seconds})
        result = record("done", {"mAP": 0.5}, epochs=1, seconds=seconds, share=assignment.share, started=started)
        assignment.store.finish(assignment.key, result)

    return work


def sweep(count: int, seconds: float) -> float:
    """The wall time of a sweep over so many trials, from its first trial on; Ray is up."""
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
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            execute.execute(agenda, resources, [], interrupts, sleeping(seconds))
        assert agenda.complete()
        assert not agenda.failed
        return time.perf_counter() - started


def main(count: int) -> None:
    provenance.environment()
    started = time.perf_counter()
    with execute.session(cpus=SLOTS):
        print(f"Ray starts in {time.perf_counter() - started:.1f} s")
        idle = sweep(IDLE, 0.0)
        print(f"{IDLE} trials that do nothing: {idle:.1f} s, {idle * SLOTS / IDLE:.2f} s of a slot each (at most 1.0)")
        slept = sweep(count, SECONDS)
        alone = count * SECONDS / SLOTS
        print(f"{count} trials of {SECONDS:.0f} s: {slept:.1f} s, {slept / alone:.3f} of their own time (at most 1.08)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
