"""A sweep of fake trials as a process of its own: `python sweep.py <store> <trials> [<silent seconds>]`."""

import sys
from pathlib import Path

from pipeline import execute, locks, sweep
from pipeline.agenda import Agenda
from pipeline.desk import Resources
from pipeline.plan import Plan
from pipeline.progress import Sight
from pipeline.staging import InPlace
from pipeline.store import TrialStore
from pipeline.supervision import InterruptedSweep, Interrupts
from tests.chaos import fake


def main(root: Path, count: int) -> int:
    """As `pipeline.sweep.run`, without data, experiments and MLflow."""
    try:
        with Interrupts(sweep.UNFINISHED) as interrupts, locks.alone(root / "sweep.lock"):
            plan = Plan(experiments=(), trials={one.key: one for one in fake.trials(count)}, searches=())
            agenda = Agenda(plan, TrialStore(root))
            with execute.session(cpus=2), Sight(agenda, 2) as sight:
                execute.execute(agenda, resources(root), [sight], interrupts, fake.work)
            return sweep._verdict(agenda)
    except InterruptedSweep:
        return sweep.UNFINISHED


def resources(root: Path) -> Resources:
    return Resources(
        store=TrialStore(root),
        data=InPlace(root),
        cpus=1,
        gpus=0,
        state_epochs=1,
        trial_seconds=None,
        silent_seconds=60,
        max_failures=2,
        concurrent=2,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
