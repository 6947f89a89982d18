"""Addresses of MLflow's pages (3.17), as text: nothing is asked, and MLflow is not imported."""

import json
from collections.abc import Sequence
from urllib.parse import quote

# Without it a browser that opens MLflow for the first time is shown its pages for language models.
_PAGES = "workflowType=machine_learning"


def home_url(ui: str) -> str:
    """The page that lists the experiments.

    Args:
        ui: address of the server, as `http://127.0.0.1:5000`.
    """
    return f"{ui.rstrip('/')}/#/experiments?{_PAGES}"


def run_url(ui: str, experiment_id: str, run_id: str) -> str:
    """The page of one run.

    Args:
        ui: address of the server, as `http://127.0.0.1:5000`.
        experiment_id: MLflow's id of the experiment that holds the run.
        run_id: MLflow's id of the run.
    """
    experiment, run = quote(experiment_id, safe=""), quote(run_id, safe="")
    return f"{ui.rstrip('/')}/#/experiments/{experiment}/runs/{run}?{_PAGES}"


def runs_url(ui: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that compares runs side by side; of a single run, its own page.

    Args:
        ui: address of the server, as `http://127.0.0.1:5000`.
        experiment_id: MLflow's id of the experiment that holds the runs.
        run_ids: MLflow's ids of the runs, at least one.

    Raises:
        ValueError: there is no run to show.
    """
    if not run_ids:
        raise ValueError("no run is given, so there is no page to link to")
    if len(run_ids) == 1:
        return run_url(ui, experiment_id, run_ids[0])
    runs, experiments = _list(run_ids), _list([experiment_id])
    return f"{ui.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}&{_PAGES}"


def _list(names: Sequence[str]) -> str:
    """A JSON list as the value of a parameter, with its brackets and quotes percent-encoded."""
    return quote(json.dumps(list(names), separators=(",", ":")), safe=",")
