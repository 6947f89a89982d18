"""The sweep stage: expand the experiments, subtract what the store has, run the rest, export the results."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import filelock

from pipeline import experiments, export, locks
from pipeline.agenda import Agenda
from pipeline.desk import Resources
from pipeline.params import Params, ParamsError, load
from pipeline.plan import Plan, expand
from pipeline.progress import Sight
from pipeline.store import TrialStore
from pipeline.supervision import NO_ROOM, InterruptedSweep, Interrupts
from pipeline.tracking import Tracker
from reid.data.dataset import ReidData
from reid.data.pack import PackInfo

UNFINISHED, LOCKED = 3, 4
_UNFINISHED = "unfinished: nothing done is lost; the same command goes on from here"


def run(root: Path) -> int:
    """Run the sweep of `root`'s params.yaml; the exit code is 0 only when every declared trial has ended."""
    params = load(root / "params.yaml")
    try:
        with Interrupts(UNFINISHED) as interrupts:
            plan = declared(root, params)
            store = TrialStore(root / params.sweep.store)
            with locks.alone_at(root, store):
                return _run(root, params, plan, store, interrupts)
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


def declared(root: Path, params: Params) -> Plan:
    """What params.yaml declares on the data in `root`.

    Raises:
        ParamsError: they do not go together.
        FileNotFoundError: a data set has not been prepared.
    """
    data = {name: ReidData.load(root / "data" / name) for name in params.datasets}
    digests = {name: {split: item.digest_for(split) for split in ("val", "test")} for name, item in data.items()}
    plan = expand(params, experiments.load(params.experiments), digests)
    _check_sizes(plan, {name: PackInfo.load(root / "data" / name) for name in params.datasets})
    return plan


def _check_sizes(plan: Plan, packed: Mapping[str, PackInfo]) -> None:
    """Images of another size than was packed: an error where they would lose their shape, a warning where detail.

    Raises:
        ParamsError: one line for every data set and size that do not go together.
    """
    trials = plan.trials.values()
    used = {(trial.spec["dataset"], trial.config.recipe.image_size) for trial in trials}
    used |= {(trial.spec["scored_on"]["dataset"], trial.config.recipe.image_size) for trial in trials if trial.source}
    used |= {(search.dataset, search.base.recipe.image_size) for search in plan.searches}
    if problems := [fault for name, size in sorted(used) if (fault := packed[name].fault(size))]:
        raise ParamsError(problems)
    for warning in filter(None, (packed[name].warning(size) for name, size in sorted(used))):
        print(f"warning: {warning}", file=sys.stderr)


def _run(root: Path, params: Params, plan: Plan, store: TrialStore, interrupts: Interrupts) -> int:
    agenda = Agenda(plan, store)
    _check(agenda)
    tracker = Tracker(params.tracking.uri, params.tracking.experiment, root)
    with tracker.sweep(params.profile, store):
        if not agenda.finished():
            _train(root, params, agenda, tracker, interrupts)
        tracker.sync(agenda.declared.values())
    export.write(root / "results", params, plan, agenda, tracker)
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
        limit = execute.slots(cpus=params.sweep.cpus_per_trial, gpus=params.sweep.gpus_per_trial)
        resources = Resources(
            store=agenda.store.root,
            data=(root / "data").absolute(),
            cpus=params.sweep.cpus_per_trial,
            gpus=params.sweep.gpus_per_trial,
            state_epochs=params.sweep.checkpoint_epochs,
            trial_seconds=_seconds(params.sweep.trial_minutes),
            silent_seconds=_seconds(params.sweep.silent_minutes),
            max_failures=params.sweep.max_failures,
            concurrent=min(limit, params.sweep.concurrent or limit),
        )
        try:
            with Sight(agenda, resources.concurrent) as sight:
                execute.execute(agenda, resources, [sight, tracker], interrupts)
        except execute.UnwritableError as problem:
            print(f"nothing more could be written: {problem}; make room, then go on", file=sys.stderr)


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
    said = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind)))
    return f"{len(failures)} failed" + (f" ({said})" if said else "")
