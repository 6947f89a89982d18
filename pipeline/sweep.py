"""The sweep stage: expand the experiments, subtract what the store has, run the rest, export the results."""

import getpass
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from pipeline import experiments, export, provenance
from pipeline.agenda import Agenda
from pipeline.params import Params, ParamsError, load
from pipeline.plan import Plan, expand
from pipeline.progress import Sight
from pipeline.store import TrialStore
from pipeline.tracking import Tracker
from reid.data.dataset import ReidData
from reid.data.pack import PackInfo

UNFINISHED, LOCKED = 3, 4


def run(root: Path) -> int:
    """Run the sweep of `root`'s params.yaml; the exit code is 0 only when every declared trial has ended."""
    params = load(root / "params.yaml")
    plan = _plan(root, params)
    (root / "results").mkdir(exist_ok=True)
    try:
        with alone(root / "results" / "sweep.lock"):
            return _run(root, params, plan)
    except filelock.Timeout as locked:
        print(f"another sweep is running: {_owner(Path(locked.lock_file))}; wait for it or stop it", file=sys.stderr)
        return LOCKED


def outline(root: Path) -> dict[str, Any]:
    """What a sweep would do: trials declared, done and to run, and how many cells of the tables share one."""
    params = load(root / "params.yaml")
    plan = _plan(root, params)
    agenda = Agenda(plan, TrialStore(root / params.sweep.store))
    waiting = sum(item.search.trials for item in plan.searches) - sum(len(run.trials) for run in agenda.searches)
    return {
        "experiments": list(params.experiments),
        "datasets": list(params.datasets),
        "declared": len(agenda.declared),
        "done": len(agenda.declared) - len(agenda.unfinished()),
        "to_run": len(agenda.unfinished()),
        "later": waiting,
        "cells": plan.num_cells,
        "epochs": sum(trial.epochs for trial in agenda.unfinished()),
    }


def describe(summary: dict[str, Any]) -> str:
    """The outline as a sentence or two."""
    shared = summary["cells"] - summary["declared"]
    return (
        f"{', '.join(summary['experiments'])} on {', '.join(summary['datasets'])}: {summary['declared']} trials for "
        f"{summary['cells']} cell values{f' ({shared} shared)' if shared > 0 else ''}; {summary['done']} done, "
        f"{summary['to_run']} to run ({summary['epochs']} epochs), up to {summary['later']} more that searches ask for"
    )


def _plan(root: Path, params: Params) -> Plan:
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


def _run(root: Path, params: Params, plan: Plan) -> int:
    store = TrialStore(root / params.sweep.store)
    agenda = Agenda(plan, store)
    _check(agenda)
    tracker = Tracker(params.tracking.uri, params.tracking.experiment, root)
    with tracker.sweep(params.profile, store):
        if not agenda.finished():
            _train(root, params, agenda, tracker)
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


def _train(root: Path, params: Params, agenda: Agenda, tracker: Tracker) -> None:
    from pipeline import execute  # Ray takes seconds to import and is not needed when all is done

    with execute.session():
        limit = execute.slots(cpus=params.sweep.cpus_per_trial, gpus=params.sweep.gpus_per_trial)
        resources = execute.Resources(
            store=agenda.store.root,
            data=(root / "data").absolute(),
            cpus=params.sweep.cpus_per_trial,
            gpus=params.sweep.gpus_per_trial,
            state_epochs=params.sweep.checkpoint_epochs,
            retries=params.sweep.max_failures,
            concurrent=min(limit, params.sweep.concurrent or limit),
        )
        with Sight(agenda, resources.concurrent) as sight:
            execute.execute(agenda, resources, [sight, tracker])


def _verdict(agenda: Agenda) -> int:
    """Say how it ended; declared = done + failed + unfinished, and only the last makes the stage fail."""
    unfinished, failed = agenda.unfinished(), sorted(agenda.failed)
    for key in failed:
        print(f"failed: {agenda.declared[key].name}: {agenda.store.failure(key)['reason']}")
    done = len(agenda.declared) - len(failed) - len(unfinished)
    print(f"{len(agenda.declared)} declared = {done} done + {len(failed)} failed + {len(unfinished)} unfinished")
    if failed:
        print("the report shows the failed trials as such; run them again with: make retry")
    if agenda.complete():
        return 0
    print("unfinished: nothing done is lost; the same command goes on from here", file=sys.stderr)
    return UNFINISHED


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the sweep's lock; it goes with the process, however that dies.

    Raises:
        filelock.Timeout: another process holds it.
    """
    with filelock.FileLock(path, timeout=0):
        owner = {"pid": os.getpid(), "host": provenance.host(), "user": getpass.getuser(), "since": time.ctime()}
        path.with_suffix(".owner").write_text(json.dumps(owner))
        yield


def _owner(lock: Path) -> str:
    owner = json.loads(lock.with_suffix(".owner").read_text())
    return f"process {owner['pid']} of {owner['user']} on {owner['host']}, since {owner['since']}"
