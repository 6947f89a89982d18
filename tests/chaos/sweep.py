"""A sweep of fake trials as a process of its own: `python sweep.py <store> <trials> [<address of a cluster>]`."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from pipeline import cluster, locks, sweep
from pipeline.agenda import Agenda
from pipeline.desk import Resources
from pipeline.plan import Plan
from pipeline.progress import Sight
from pipeline.store import TrialStore
from pipeline.supervision import InterruptedSweep, Interrupts
from tests.chaos import fake


def main(root: Path, count: int, address: str | None = None) -> int:
    """As `pipeline.sweep.run`, without data, experiments and MLflow."""
    if address:
        os.environ.update(cluster.SETTINGS)
    from pipeline import execute

    try:
        with Interrupts(sweep.UNFINISHED) as interrupts, locks.alone(root / "sweep.lock"):
            plan = Plan(experiments=(), trials={one.key: one for one in fake.trials(count)}, searches=())
            agenda = Agenda(plan, TrialStore(root))
            share = resources(root)
            with execute.session(address, cpus=None if address else 2), Sight(agenda, 2) as sight:
                if address:
                    share = replace(share, concurrent=None)
                    needs = cluster.Needs(
                        store=str(root), data=None, datasets=(), cpus=share.cpus, gpus=share.gpus, concurrent=None
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
    return Resources(
        store=root,
        data=root,
        cpus=1,
        gpus=0,
        state_epochs=1,
        trial_seconds=None,
        silent_seconds=60,
        max_failures=2,
        concurrent=2,
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
