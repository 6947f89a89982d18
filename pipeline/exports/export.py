"""Results as files: a row for each declared trial, the epochs of each, and what was declared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from pipeline.exports import counts, curves, picturing, queries
from pipeline.planning.experiments import ARROW, Experiment, Row
from pipeline.planning.keys import canonical_json
from pipeline.planning.metrics import RECORDED
from pipeline.planning.params import Params
from pipeline.planning.plan import Plan, PlannedRow, Trial, pairs
from pipeline.planning.searches import Search
from pipeline.planning.strict import redact
from pipeline.running.agenda import Agenda, SearchRun
from pipeline.storage.store import PerQuery, TrialStore
from reid.config import to_dict
from reid.data import manifest
from reid.data.dataset import ReidData
from reid.data.readers import readers

_ALONE = "To score a network on data it has not seen, list two data sets or more."


class Runs(Protocol):
    """Where the trials are in MLflow, as far as it is known."""

    experiment_id: str

    def run_ids(self) -> dict[str, str]:
        """MLflow's run of each trial key."""


def write(root: Path, params: Params, plan: Plan, agenda: Agenda, runs: Runs) -> None:
    """Write what the report is made from into `results/`: the trials, their epochs and queries, and the plan.

    `root` is the checkout, which also holds the prepared data.
    """
    folder = root / "results"
    picturing.export(folder / "pictures", plan, agenda.store)
    run_ids = runs.run_ids()
    rows = [_row(trial, agenda.store) for trial in sorted(agenda.declared.values(), key=lambda trial: trial.name)]
    for row in rows:
        row["run_id"] = run_ids.get(row["key"], "")
        row["experiment_id"] = runs.experiment_id if row["run_id"] else ""
    pd.DataFrame(rows).to_parquet(folder / "trials.parquet", index=False)
    queries.write_scores(folder / queries.PER_QUERY, _per_query(agenda))
    data = {name: ReidData.load(root / "data" / name) for name in params.datasets}
    queries.write_identities(folder / queries.QUERIES, data)
    searches = {(run.plan.experiment, run.plan.dataset): _search(run, agenda) for run in agenda.searches}
    manifests = {name: manifest.read(root / "data" / name / "manifest.parquet") for name in params.datasets}
    content = outline(params, plan, searches, manifests)
    curves.write(folder, agenda.store, agenda.declared)
    (folder / "plan.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _per_query(agenda: Agenda) -> Iterator[tuple[str, PerQuery]]:
    """The arrays of every final trial that is done."""
    for trial in agenda.declared.values():
        if trial.config.evaluate_on == "test" and agenda.store.state(trial.key) == "done":
            arrays = agenda.store.per_query(trial.key)
            if arrays is not None:
                yield trial.key, arrays


def _row(trial: Trial, store: TrialStore) -> dict[str, Any]:
    state = store.state(trial.key)
    row = {
        "key": trial.key,
        "source": trial.source.key if trial.source else "",
        "setting": trial.setting,
        "name": trial.name,
        "dataset": trial.dataset,
        "method": trial.config.method,
        "seed": trial.config.seed,
        "evaluate_on": trial.config.evaluate_on,
        "protocol": canonical_json(to_dict(trial.config.recipe.protocol)),
        "data_digest": _data_digest(trial.spec),
        "code_digest": trial.spec["code_digest"],
        "config": canonical_json(trial.spec["config"]),
        "status": state if state == "failed" else "missing",
        "reason": store.failure(trial.key)["reason"] if state == "failed" else "",
    }
    return row | (recorded(store.result(trial.key)) if state == "done" else _NOTHING)


def _data_digest(spec: dict[str, Any]) -> str:
    """Of what was trained on; with an arrow to that of what was scored, where it is another data set."""
    own = str(spec["data_digest"])
    target = spec.get("scored_on", {"dataset": spec["dataset"]})
    return own if target["dataset"] == spec["dataset"] else f"{own}{ARROW}{target['data_digest']}"


# Of a cost, what is not always there: a scoring has no epochs, a CPU no memory of a GPU, older records nothing of it.
MEASURED = ("cpu_seconds", "epoch_seconds", "step_seconds", "peak_memory_mb", "peak_gpu_memory_mb")
_NOTHING: dict[str, Any] = {
    "epochs": 0,
    **dict.fromkeys(("seconds", *MEASURED), float("nan")),
    **dict.fromkeys(("cpus", "gpus"), 0),
    **dict.fromkeys(("device", "commit", "python", "torch", "started", "finished"), ""),
    "dirty": False,
}


def recorded(result: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `trials.parquet` that come from a trial's `result.json`."""
    metrics, cost, environment = result["metrics"], result["cost"], result["environment"]
    return {
        "status": result["status"],
        **{name: float(value) for name, value in metrics.items()},
        **{name: factor * cost[own] for name, (factor, own) in RECORDED.items() if own in cost},
        "epochs": result["epochs"],
        **{name: cost[name] for name in ("seconds", "cpus", "gpus", "device")},
        **{name: cost.get(name, float("nan")) for name in MEASURED},
        **{name: environment[name] for name in ("commit", "dirty", "python", "torch")},
        "started": result["started"],
        "finished": result["finished"],
    }


def outline(
    params: Params,
    plan: Plan,
    outcomes: Mapping[tuple[str, str], Mapping[str, Any]],
    manifests: Mapping[str, pd.DataFrame],
) -> dict[str, Any]:
    """The content of `results/plan.json`.

    Args:
        params: what the plan was expanded from.
        plan: what is declared.
        outcomes: for each search (experiment, data set): `trials`, a list of `number`, `params`, `values` (of the
            objectives, none where it failed), `status` and `key`; `winners`, the `number` and `params` of the best, as
            many as are tested; and `over`, whether it asks for no more trials.
        manifests: of the data sets, for their statistics.
    """
    return {
        "profile": params.profile,
        "store": str(params.sweep.store),
        "datasets": {dataset: readers()[dataset] for dataset in params.datasets},
        "transfers": {pair.key: pair.title for pair in pairs(params.datasets)},
        "seeds": list(params.seeds),
        "mlflow_ui": redact(params.tracking.ui),
        "experiments": [
            _experiment(plan, experiment, rows, outcomes, manifests)
            for experiment, rows in plan.experiments
            if experiment.kind != "pictures"
        ],
    }


def _experiment(
    plan: Plan,
    experiment: Experiment,
    rows: Sequence[PlannedRow],
    outcomes: Mapping[tuple[str, str], Mapping[str, Any]],
    manifests: Mapping[str, pd.DataFrame],
) -> dict[str, Any]:
    searches = {item.dataset: item for item in plan.searches if item.experiment == experiment.name}
    best = {
        dataset: [item.winner_trials(one["params"]) for one in outcomes[experiment.name, dataset]["winners"]]
        for dataset, item in searches.items()
    }
    found = {
        dataset: _search_outline(item.search, outcomes[experiment.name, dataset]) for dataset, item in searches.items()
    }
    alone = experiment.transfer and not any(row.trials for row in rows)
    return {
        "name": experiment.name,
        "kind": experiment.kind,
        "title": experiment.title,
        "note": f"{experiment.note} {_ALONE}".strip() if alone else experiment.note,
        "reference": experiment.reference_row,
        "metrics": list(experiment.metrics),
        "published": experiment.published,
        "published_datasets": list(experiment.datasets),
        "figure": experiment.figure.model_dump(mode="json") if experiment.figure else None,
        "rows": [_row_outline(row.row, _found(row.row, best) if row.row.winner else row.trials) for row in rows],
        "search": found or None,
        "counts": {dataset: counts.count(manifest, experiment.metrics) for dataset, manifest in manifests.items()}
        if experiment.kind == "statistics"
        else None,
    }


def _found(row: Row, best: Mapping[str, Sequence[Sequence[Trial]]]) -> dict[str, Sequence[Trial]]:
    """The trials of a row that reports what a search found; none where it has not found so many."""
    return {dataset: (trials[row.place - 1] if row.place <= len(trials) else ()) for dataset, trials in best.items()}


def _row_outline(row: Row, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    return {
        "label": row.label,
        "method": row.method,
        "variant": row.variant,
        "overrides": row.overrides,
        "published_method": row.published_method,
        "embedding": row.embedding,
        "series": row.series,
        "winner": row.place,
        "settings": {dataset: cell[0].setting for dataset, cell in trials.items() if cell},
        "keys": {dataset: [trial.key for trial in cell] for dataset, cell in trials.items()},
    }


def _search_outline(search: Search, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "objectives": list(search.objectives),
        "space": {path: space.model_dump(mode="json", exclude_defaults=True) for path, space in search.space.items()},
        "trials": outcome["trials"],
        "winners": outcome["winners"],
        "over": outcome["over"],
    }


def _search(run: SearchRun, agenda: Agenda) -> dict[str, Any]:
    """A search as plan.json tells it: every trial with its outcome, and the best."""
    trials = [
        {
            "number": number,
            "params": dict(outcome.params),
            "values": list(outcome.values),
            "status": "missing" if not outcome.values else "pruned" if outcome.pruned else "done",
            "key": run.trials[number].key,
        }
        for number, outcome in enumerate(agenda.outcomes(run))
    ]
    winners = [{"number": number, "params": run.params[number]} for number in run.best]
    return {"trials": trials, "winners": winners, "over": run.over}
