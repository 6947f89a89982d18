"""What a sweep would do: what is declared, how far that is and what the rest costs; the command `plan`."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.planning import experiments
from pipeline.planning.params import Params, load
from pipeline.planning.plan import Plan, expand
from pipeline.planning.shares import Machines
from pipeline.planning.strict import ParamsError
from pipeline.running import costs, machine
from pipeline.running.agenda import Agenda
from pipeline.running.cluster import Node
from pipeline.running.costs import Estimate
from pipeline.running.declaration import Note, fingerprint
from pipeline.storage import census
from pipeline.storage.remote import store_at
from pipeline.storage.store import TrialStore
from reid.data.dataset import ReidData
from reid.data.pack import PackInfo


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What params.yaml declares, how far that is, and what the rest costs."""

    params: Params
    plan: Plan
    agenda: Agenda
    cost: Estimate


def run(root: Path, *, as_json: bool, nodes: Sequence[Node] | None = None) -> None:
    """Print what a sweep of `root`'s params.yaml would train, share and cost; nothing is trained."""
    params = load(root / "params.yaml")
    outlook = look(root, params, store_at(params.sweep.store, root, cache=params.sweep.cache), nodes)
    summary = outline(outlook)
    print(json.dumps(summary) if as_json else describe(summary, outlook))


def look(root: Path, params: Params, store: TrialStore, nodes: Sequence[Node] | None) -> Outlook:
    """Expand parameters, hold what they declare against the store, and what is left against machines.

    Args:
        root: of the checkout.
        params: its parameters.
        store: the trial store that they name.
        nodes: the machines of a cluster; None: this one alone.

    Raises:
        ParamsError: they and the data in `root` do not go together.
        FileNotFoundError: a data set has not been prepared.
    """
    plan = declared(root, params)
    agenda = Agenda(plan, store)
    most = params.sweep.concurrent
    cost = costs.estimate(
        agenda,
        shares=params.shares(),
        machines=Machines([machine.node()], most) if nodes is None else Machines(nodes, most, lambda: nodes),
        num_ids={name: _identities(PackInfo.load(root / "data" / name)) for name in params.datasets},
    )
    return Outlook(params=params, plan=plan, agenda=agenda, cost=cost)


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
        "concurrent": outlook.cost.concurrent,
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
    lines = costs.describe(outlook.cost) if summary["to_run"] or summary["later"] else []
    return "\n".join([first, *lines])


def _identities(info: PackInfo) -> int:
    return int(info.counts["train"]["identities"])


def note(root: Path, outlook: Outlook) -> None:
    """Leave word of what a sweep declares, for `status`; whoever holds its lock does."""
    agenda, shares = outlook.agenda, outlook.params.shares()
    gpus = {key: agenda.share(trial, shares).all_gpus for key, trial in agenda.declared.items()}
    trials = {
        key: {"name": trial.name, "kind": census.kind(trial.spec, gpus=gpus[key]), "epochs": trial.epochs}
        for key, trial in agenda.declared.items()
    }
    word = Note(started=time.time(), params=fingerprint(root), later=agenda.to_come(), trials=trials)
    word.write(root)
