"""The sweep stage: expand the experiments, subtract what the store has, run the rest, export the results."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import filelock

from pipeline import costs, export, locks, outline
from pipeline.agenda import Agenda
from pipeline.desk import Resources
from pipeline.outline import Outlook
from pipeline.params import Params, ParamsError, load
from pipeline.progress import Sight
from pipeline.shares import Machines
from pipeline.store import TrialStore
from pipeline.supervision import NO_ROOM, InterruptedSweep, Interrupts
from pipeline.tracking import Tracker
from pipeline.trial import Terms

REFUSED, UNFINISHED, LOCKED = 2, 3, 4
_UNFINISHED = "unfinished: nothing done is lost; the same command goes on from here"


def run(root: Path, *, yes: bool) -> int:
    """Run the sweep of `root`'s params.yaml; the exit code is 0 only when every declared trial has ended.

    Args:
        root: of the checkout.
        yes: however long it takes.

    Raises:
        ParamsError: params.yaml, the data and this machine do not go together; nothing was started.
    """
    try:
        with Interrupts(UNFINISHED) as interrupts:
            params = load(root / "params.yaml")
            store = TrialStore(root / params.sweep.store)
            with locks.alone_at(root, store):
                return _run(root, outline.look(root, params, store), interrupts, yes=yes)
    except filelock.Timeout as locked:
        print(
            f"another sweep is running: {locks.owner(Path(locked.lock_file))}; wait for it or stop it", file=sys.stderr
        )
        return LOCKED
    except InterruptedSweep:
        print(_UNFINISHED, file=sys.stderr)
        return UNFINISHED
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"{error}; make room, then: {_UNFINISHED}", file=sys.stderr)
        return UNFINISHED


def _run(root: Path, outlook: Outlook, interrupts: Interrupts, *, yes: bool) -> int:
    params, agenda = outlook.params, outlook.agenda
    refusal = "" if yes else costs.refusal(outlook.cost, params.sweep.ask_above_hours)
    if refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    _check(agenda)
    outline.note(root, outlook)
    tracker = Tracker(params.tracking.uri, params.tracking.experiment, root)
    with tracker.sweep(params.profile, agenda.store):
        if not agenda.finished():
            _train(root, params, agenda, tracker, interrupts)
        tracker.sync(agenda.declared.values())
    export.write(root / "results", params, outlook.plan, agenda, tracker)
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


def _train(root: Path, params: Params, agenda: Agenda, tracker: Tracker, interrupts: Interrupts) -> None:
    from pipeline import execute  # Ray takes seconds to import and is not needed when all is done

    with execute.session():
        terms = Terms(
            store=agenda.store.root,
            data=(root / "data").absolute(),
            state_epochs=params.sweep.checkpoint_epochs,
            trial_seconds=_seconds(params.sweep.trial_minutes),
            silent_seconds=_seconds(params.sweep.silent_minutes),
        )
        resources = Resources(
            terms=terms,
            shares=params.shares(),
            machines=Machines(execute.nodes(), params.sweep.concurrent),
            max_failures=params.sweep.max_failures,
        )
        try:
            with Sight(agenda, _at_once(agenda, resources)) as sight:
                execute.execute(agenda, resources, [sight, tracker], interrupts)
        except execute.UnwritableError as problem:
            print(f"nothing more could be written: {problem}; make room, then go on", file=sys.stderr)


def _at_once(agenda: Agenda, resources: Resources) -> int:
    """How many trials run at a time, of those that need least."""
    shares = {agenda.share(trial, resources.shares) for trial in agenda.unfinished()}
    return max(map(resources.machines.at_once, shares), default=1)


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
