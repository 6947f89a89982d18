"""Results as files: one row per declared trial in trials.parquet, what was declared in plan.json."""

import json
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from pipeline.agenda import Agenda, SearchRun
from pipeline.keys import canonical_json
from pipeline.params import Params
from pipeline.plan import Plan, Trial
from pipeline.store import TrialStore
from reid.config import to_dict


class Runs(Protocol):
    """Where the trials are in MLflow, as far as it is known."""

    experiment_id: str

    def run_ids(self) -> dict[str, str]:
        """MLflow's run of each trial key."""


def write(folder: Path, params: Params, plan: Plan, agenda: Agenda, runs: Runs) -> None:
    """Write `trials.parquet` and `plan.json` into `folder`."""
    run_ids = runs.run_ids()
    rows = [_row(trial, agenda.store) for trial in sorted(agenda.declared.values(), key=lambda trial: trial.name)]
    for row in rows:
        row["run_id"] = run_ids.get(row["key"], "")
        row["experiment_id"] = runs.experiment_id if row["run_id"] else ""
    pd.DataFrame(rows).to_parquet(folder / "trials.parquet", index=False)
    searches = {(run.plan.experiment, run.plan.dataset): _search(run, agenda) for run in agenda.searches}
    content = plan.to_json(params, searches)
    (folder / "plan.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _row(trial: Trial, store: TrialStore) -> dict[str, Any]:
    state = store.state(trial.key)
    row = {
        "key": trial.key,
        "setting": trial.setting,
        "name": trial.name,
        "dataset": trial.dataset,
        "method": trial.config.method,
        "seed": trial.config.seed,
        "evaluate_on": trial.config.evaluate_on,
        "protocol": canonical_json(to_dict(trial.config.recipe.protocol)),
        "data_digest": trial.spec["data_digest"],
        "code_digest": trial.spec["code_digest"],
        "config": canonical_json(trial.spec["config"]),
        "status": state if state == "failed" else "missing",
        "reason": store.failure(trial.key)["reason"] if state == "failed" else "",
    }
    return row | (_result(store.result(trial.key)) if state == "done" else _NOTHING)


_NOTHING: dict[str, Any] = {
    "epochs": 0,
    "seconds": float("nan"),
    **dict.fromkeys(("device", "commit", "python", "torch", "started", "finished"), ""),
    "dirty": False,
}


def _result(result: dict[str, Any]) -> dict[str, Any]:
    metrics, cost, environment = result["metrics"], result["cost"], result["environment"]
    return {
        "status": result["status"],
        **{name: float(value) for name, value in metrics.items()},
        "epochs": result["epochs"],
        "seconds": cost["seconds"],
        "device": cost["device"],
        **{name: environment[name] for name in ("commit", "dirty", "python", "torch")},
        "started": result["started"],
        "finished": result["finished"],
    }


def _search(run: SearchRun, agenda: Agenda) -> dict[str, Any]:
    """A search as plan.json tells it: every trial with its outcome, and the winner."""
    outcomes = agenda.outcomes(run)
    trials = [
        {
            "number": number,
            "params": dict(outcome.params),
            "value": outcome.value,
            "status": "missing" if outcome.value is None else "pruned" if outcome.pruned else "done",
            "key": run.trials[number].key,
        }
        for number, outcome in enumerate(outcomes)
    ]
    won = None if run.winner is None else {"number": run.winner, "params": run.params[run.winner]}
    return {"trials": trials, "winner": won, "winner_keys": [trial.key for trial in run.final]}
