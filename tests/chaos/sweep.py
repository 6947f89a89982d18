"""A sweep of fake trials as a process of its own: `python sweep.py <store> <trials> [<address of a cluster>]`."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from pipeline import sweep
from pipeline.planning.plan import Plan
from pipeline.planning.shares import Machines, Node, Share, Shares
from pipeline.running import cluster
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Resources
from pipeline.running.progress import Sight
from pipeline.running.supervision import InterruptedSweep, Interrupts
from pipeline.running.trial import Assignment, Terms
from pipeline.storage import locks
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from tests.chaos import fake


def main(root: Path, count: int, address: str | None = None) -> int:
    """As `pipeline.sweep.run`, without data, experiments and MLflow."""
    if address:
        os.environ.update(cluster.SETTINGS)
    from pipeline.running import execute

    try:
        with Interrupts(sweep.UNFINISHED) as interrupts, locks.alone(root / "sweep.lock"):
            plan = Plan(experiments=(), trials={one.key: one for one in fake.trials(count)}, searches=())
            agenda = Agenda(plan, TrialStore(root))
            share = resources(root)
            with execute.session(address, cpus=None if address else 2), Sight(agenda, 2) as sight:
                if address:
                    share = replace(share, machines=Machines(execute.machines(), None, execute.machines))
                    usual = (share.shares.usual,)
                    needs = cluster.Needs(
                        store=str(root), data=None, datasets=(), cache="~", shares=usual, concurrent=None
                    )
                    cluster.admit(execute.machines(), needs)
                execute.execute(agenda, share, [sight], interrupts, fake.work)
            return sweep._verdict(agenda)
    except cluster.ClusterError as error:
        print(error, file=sys.stderr)
        return 2
    except InterruptedSweep:
        return sweep.UNFINISHED


def resources(root: Path) -> Resources:
    """Trials of one core each, two at a time."""
    return Resources(
        terms=Terms(store=TrialStore(root), data=InPlace(root), state_epochs=1, trial_seconds=None, silent_seconds=60),
        shares=Shares(Share(cpus=1, gpus=0.0, processes=1), {}),
        machines=Machines([Node(2, 0)], concurrent=2),
        max_failures=2,
    )


def assignment(root: Path, key: str) -> Assignment:
    """What a worker is told of one of these trials."""
    usual = resources(root)
    return Assignment(key=key, share=usual.shares.usual, **vars(usual.terms))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
