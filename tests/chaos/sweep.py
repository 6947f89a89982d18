"""A sweep of fake trials as a process of its own: `python sweep.py <store> <trials> [<silent seconds>]`."""

import sys
from pathlib import Path

from pipeline import execute, locks, sweep
from pipeline.agenda import Agenda
from pipeline.desk import Resources
from pipeline.plan import Plan
from pipeline.progress import Sight
from pipeline.shares import Machines, Node, Share, Shares
from pipeline.store import TrialStore
from pipeline.supervision import InterruptedSweep, Interrupts
from pipeline.trial import Assignment, Terms
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
    """Trials of one core each, two at a time."""
    return Resources(
        terms=Terms(store=root, data=root, state_epochs=1, trial_seconds=None, silent_seconds=60),
        shares=Shares(Share(cpus=1, gpus=0.0, processes=1), {}),
        machines=Machines([Node(2, 0)], concurrent=2),
        max_failures=2,
    )


def assignment(root: Path, key: str) -> Assignment:
    """What a worker is told of one of these trials."""
    usual = resources(root)
    return Assignment(key=key, share=usual.shares.usual, **vars(usual.terms))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
