"""The sweep stage: expand the experiments, subtract what the store has, run the rest, export the results."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.exports import export
from pipeline.mlflow_view.tracking import Tracker
from pipeline.planning.params import Params, ParamsError, load
from pipeline.planning.shares import Machines, Share
from pipeline.running import cluster, costs, outline
from pipeline.running.agenda import Agenda
from pipeline.running.cluster import Node
from pipeline.running.desk import Resources
from pipeline.running.outline import Outlook
from pipeline.running.progress import Sight
from pipeline.running.supervision import NO_ROOM, InterruptedSweep, Interrupts
from pipeline.running.trial import Terms
from pipeline.storage import locks, staging
from pipeline.storage.remote import store_at

REFUSED, UNFINISHED, LOCKED = 2, 3, 4
_UNFINISHED = "unfinished: nothing done is lost; the same command goes on from here"


def run(root: Path, address: str | None = None, nodes: Sequence[Node] | None = None, *, yes: bool) -> int:
    """Run the sweep of `root`'s params.yaml; the exit code is 0 only when every declared trial has ended.

    Args:
        root: of the checkout.
        address: of the Ray cluster to run it on; None: on this machine.
        nodes: the machines of that cluster.
        yes: however long it takes.

    Raises:
        ParamsError: params.yaml, the data and the machines do not go together; nothing was started.
        ClusterError: the machines of the cluster are not fit; nothing was started.
    """
    try:
        with Interrupts(UNFINISHED) as interrupts:
            params = load(root / "params.yaml")
            store = store_at(params.sweep.store, root, cache=params.sweep.cache)
            with locks.alone_at(root, store):
                return _run(root, outline.look(root, params, store, nodes), address, interrupts, yes=yes)
    except locks.HeldError as held:
        print(f"another sweep is running: {held}; wait for it or stop it", file=sys.stderr)
        return LOCKED
    except InterruptedSweep:
        print(_UNFINISHED, file=sys.stderr)
        return UNFINISHED
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"{error}; make room, then: {_UNFINISHED}", file=sys.stderr)
        return UNFINISHED


def _run(root: Path, outlook: Outlook, address: str | None, interrupts: Interrupts, *, yes: bool) -> int:
    params, agenda = outlook.params, outlook.agenda
    refusal = "" if yes else costs.refusal(outlook.cost, params.sweep.ask_above_hours)
    if refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    _check(agenda)
    outline.note(root, outlook)
    tracker = Tracker(params.tracking.uri, params.tracking.experiment, root)
    with ExitStack() as stack:
        resources = None if agenda.finished() else stack.enter_context(_session(root, params, agenda, address))
        with tracker.sweep(params.profile, agenda.store):
            if resources is not None:
                _train(agenda, resources, tracker, interrupts)
            tracker.sync(agenda.declared.values())
    export.write(root, params, outlook.plan, agenda, tracker)
    return _verdict(agenda)


def _check(agenda: Agenda) -> None:
    """Rehearse every configuration that is to be trained, so that a misfit costs seconds and not a night.

    Raises:
        ParamsError: one line for every configuration that cannot take its first step.
    """
    from reid.rehearsal import rehearse

    trained = (trial for trial in agenda.unfinished() if trial.source is None)
    configurations = {replace(trial.config, seed=0): trial.name for trial in trained}
    problems = []
    for config, name in configurations.items():
        try:
            rehearse(config)
        except (ValueError, RuntimeError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ParamsError(problems)


@contextmanager
def _session(root: Path, params: Params, agenda: Agenda, address: str | None) -> Iterator[Resources]:
    """A Ray session on machines that are fit, and what each trial gets of them.

    Raises:
        ClusterError: they are not.
    """
    if address:
        os.environ.update(cluster.SETTINGS)
    from pipeline.running import execute  # Ray takes seconds to import and is not needed when all is done

    terms = Terms(
        store=agenda.store,
        data=staging.ready(root / "data", _data_sets(agenda), params.sweep.data, cache=params.sweep.cache),
        state_epochs=params.sweep.checkpoint_epochs,
        trial_seconds=_seconds(params.sweep.trial_minutes),
        silent_seconds=_seconds(params.sweep.silent_minutes),
    )
    with execute.session(address):
        resources = Resources(
            terms=terms,
            shares=params.shares(),
            machines=Machines(execute.machines(), params.sweep.concurrent, execute.machines if address else None),
            max_failures=params.sweep.max_failures,
        )
        if address:
            cluster.admit(execute.machines(), _needs(root, params, agenda, resources))
        yield resources


def _needs(root: Path, params: Params, agenda: Agenda, resources: Resources) -> cluster.Needs:
    return cluster.Needs(
        store=agenda.store.place,
        data=str((root / "data").absolute()) if params.sweep.data is None else None,
        cache=params.sweep.cache,
        datasets=params.datasets,
        shares=_shares(agenda, resources),
        concurrent=params.sweep.concurrent,
    )


def _train(agenda: Agenda, resources: Resources, tracker: Tracker, interrupts: Interrupts) -> None:
    from pipeline.running import execute

    at_once = max(map(resources.machines.at_once, _shares(agenda, resources)), default=1)  # of those that need least
    try:
        with Sight(agenda, at_once) as sight:
            execute.execute(agenda, resources, [sight, tracker], interrupts)
    except execute.HaltedError as problem:
        print(f"nothing more could be run: {problem}; mend that, then go on", file=sys.stderr)


def _shares(agenda: Agenda, resources: Resources) -> tuple[Share, ...]:
    """Those of what is to run; a search's trials are yet to come."""
    searched = {resources.shares.of([run.plan.experiment]) for run in agenda.searches if not run.final}
    return tuple(searched | {agenda.share(trial, resources.shares) for trial in agenda.unfinished()})


def _data_sets(agenda: Agenda) -> set[str]:
    """Those that what is to run, and what searches may ask for, is trained or scored on."""
    specs = [trial.spec for trial in agenda.unfinished()]
    needed = {spec["dataset"] for spec in specs} | {run.plan.dataset for run in agenda.searches}
    return needed | {spec["scored_on"]["dataset"] for spec in specs if "scored_on" in spec}


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else minutes * 60


def _verdict(agenda: Agenda) -> int:
    """Say how it ended: declared = done + failed + unfinished, counted from the store; the exit code."""
    failures = {key: agenda.store.failure(key)["reason"] for key in sorted(agenda.failed)}
    for key, reason in failures.items():
        print(f"failed: {agenda.declared[key].name}: {reason}")
    done = sum(agenda.store.state(key) == "done" for key in agenda.declared.keys() - failures.keys())
    unfinished = len(agenda.unfinished())
    print(f"{len(agenda.declared)} declared = {done} done + {_by_kind(failures)} + {unfinished} unfinished")
    if failures:
        print("the report shows the failed trials as such; run them again with: make retry")
    lost = len(agenda.declared) - done - len(failures) - unfinished
    if lost:
        print(
            f"{lost} of them have lost their record since it was written: damaged, or changed by hand", file=sys.stderr
        )
    elif agenda.complete():
        return 0
    print(_UNFINISHED, file=sys.stderr)
    return UNFINISHED


def _by_kind(failures: dict[str, str]) -> str:
    """`3 failed (2 timeout, 1 diverged)`: a reason begins with its kind."""
    kinds = Counter(reason.partition(":")[0] for reason in failures.values())
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0])))
    return f"{len(failures)} failed" + (f" ({said})" if said else "")
