"""What a sweep would do: the command `plan`, and what a sweep asks before it starts."""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import census, costs, locks, status, sweep
from pipeline.agenda import Agenda
from pipeline.costs import Estimate
from pipeline.params import Params, Sweep, load
from pipeline.plan import Plan
from pipeline.remote import store_at
from reid.data.pack import PackInfo


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What params.yaml declares, how far that is, and what the rest costs."""

    params: Params
    plan: Plan
    agenda: Agenda
    cost: Estimate
    concurrent: int


def run(root: Path, *, as_json: bool) -> None:
    """Print what a sweep of `root`'s params.yaml would train, share and cost; nothing is trained."""
    outlook = look(root)
    summary = outline(outlook)
    print(json.dumps(summary) if as_json else describe(summary, outlook))


def consent(root: Path, *, yes: bool) -> bool:
    """Whether a sweep may start: it is short enough, or `yes`. Leaves a note of what it declares for `status`.

    Raises:
        ParamsError: params.yaml or the data do not fit.
    """
    outlook = look(root)
    said = "" if yes else costs.refusal(outlook.cost, outlook.params.sweep.ask_above_hours)
    if said:
        print(said, file=sys.stderr)
        return False
    if not locks.held(root / locks.LOCK):
        _note(root, outlook)
    return True


def look(root: Path) -> Outlook:
    """Expand params.yaml and hold it against the store."""
    params = load(root / "params.yaml")
    plan = sweep.declared(root, params)
    agenda = Agenda(plan, store_at(params.sweep.store, root, cache=params.sweep.cache))
    concurrent = at_once(params.sweep)
    cost = costs.estimate(
        agenda,
        cpus=params.sweep.cpus_per_trial,
        gpus=params.sweep.gpus_per_trial,
        concurrent=concurrent,
        num_ids={name: _identities(PackInfo.load(root / "data" / name)) for name in params.datasets},
    )
    return Outlook(params=params, plan=plan, agenda=agenda, cost=cost, concurrent=concurrent)


def at_once(sweep: Sweep) -> int:
    """How many trials run at a time on this machine; at least one."""
    import torch  # is asked for GPUs

    fit = len(os.sched_getaffinity(0)) // sweep.cpus_per_trial
    if sweep.gpus_per_trial:
        fit = min(fit, int(torch.cuda.device_count() / sweep.gpus_per_trial))
    return max(1, min(fit, sweep.concurrent or fit))


def outline(outlook: Outlook) -> dict[str, Any]:
    """Trials declared, done and to run, how many cells of the tables share one, and what is to run costs."""
    agenda, unfinished = outlook.agenda, outlook.agenda.unfinished()
    return {
        "experiments": list(outlook.params.experiments),
        "datasets": list(outlook.params.datasets),
        "declared": len(agenda.declared),
        "done": len(agenda.declared) - len(unfinished),
        "to_run": len(unfinished),
        "later": agenda.to_come(),
        "cells": outlook.plan.num_cells,
        "epochs": sum(trial.epochs for trial in unfinished),
        "concurrent": outlook.concurrent,
        "cost": asdict(outlook.cost),
    }


def describe(summary: dict[str, Any], outlook: Outlook) -> str:
    """The outline for people."""
    shared = summary["cells"] - summary["declared"]
    first = (
        f"{', '.join(summary['experiments'])} on {', '.join(summary['datasets'])}: {summary['declared']} trials for "
        f"{summary['cells']} cell values{f' ({shared} shared)' if shared > 0 else ''}; {summary['done']} done, "
        f"{summary['to_run']} to run ({summary['epochs']} epochs), up to {summary['later']} more that searches ask for"
    )
    lines = costs.describe(outlook.cost, concurrent=outlook.concurrent) if summary["to_run"] or summary["later"] else []
    return "\n".join([first, *lines])


def _identities(info: PackInfo) -> int:
    return int(info.counts["train"]["identities"])


def _note(root: Path, outlook: Outlook) -> None:
    gpus = outlook.params.sweep.gpus_per_trial
    trials = {
        trial.key: {"name": trial.name, "kind": census.kind(trial.spec, gpus=gpus), "epochs": trial.epochs}
        for trial in outlook.agenda.declared.values()
    }
    note = status.Note(
        started=time.time(), params=status.fingerprint(root), later=outlook.agenda.to_come(), trials=trials
    )
    note.write(root)
