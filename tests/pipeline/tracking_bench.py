"""A store beside an MLflow database, what to put into the one and how to look at the other."""

import functools
import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.mlflow_view import addresses
from pipeline.mlflow_view.tracking import Mirror, Tracker
from pipeline.planning.keys import setting_key, trial_key, trial_spec
from pipeline.planning.params import Params, load
from pipeline.planning.plan import Trial
from pipeline.storage import provenance
from pipeline.storage.store import TrialStore
from reid import methods
from reid.config import TrialConfig

ROOT = Path(__file__).parent.parent.parent
START = 1_700_000_000.0
METRICS = {
    "mAP": 0.5,
    "mINP": 0.25,
    "Rank-1": 0.75,
    "Rank-5": 0.875,
    "Rank-10": 1.0,
    "num_valid": 8.0,
    "num_skipped": 1.0,
}


class Bench:
    """A root folder with a store and an MLflow database, and ways to look at them."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.warnings = root, TrialStore(root / "results" / "trials"), list[str]()
        self.uri = addresses.store_uri(None, root)

    def tracker(self, uri: str | None = None) -> Tracker:
        return Tracker(uri, "reid", self.root, warn=self.warnings.append)

    def mirror(self) -> Mirror:
        mirror = Mirror(self.uri, "reid", self.root, self.store)
        mirror.start_sweep("smoke")
        return mirror

    @property
    def client(self) -> Any:
        return MlflowClient(self.uri)

    def all_runs(self) -> list[Run]:
        return list(self.client.search_runs([self.client.get_experiment_by_name("reid").experiment_id]))

    def runs(self) -> dict[str, Run]:
        """The trials' runs by key; fails when two have the same key."""
        runs = [run for run in self.all_runs() if "trial.key" in run.data.tags]
        found = {run.data.tags["trial.key"]: run for run in runs}
        assert len(found) == len(runs), "a trial has two runs"
        return found

    def parent(self) -> Run:
        (parent,) = (run for run in self.all_runs() if "sweep.name" in run.data.tags)
        return parent

    def inputs(self, key: str) -> list[tuple[str, str, str, dict[str, Any]]]:
        """Name, digest, use and profile of the data sets of a trial's run."""
        run = self.client.get_run(self.runs()[key].info.run_id)  # a list of runs comes without them
        return sorted(
            (item.dataset.name, item.dataset.digest, item.tags[0].value, json.loads(item.dataset.profile))
            for item in run.inputs.dataset_inputs
        )

    def history(self, key: str, name: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(self.runs()[key].info.run_id, name)
        return [(point.step, point.value) for point in points]

    def params(self, uri: str | None = None) -> Params:
        """This repository's, for this root: written there as params.yaml as well."""
        text = (ROOT / "params.yaml").read_text()
        (self.root / "params.yaml").write_text(text.replace("uri: null", f"uri: {json.dumps(uri)}"))
        tracking = _params().tracking.model_copy(update={"uri": uri})
        return _params().model_copy(update={"tracking": tracking})

    def assert_complete(self) -> int:
        """MLflow has every point that the store has, once, at its time, and no other; how many there are."""
        client, runs = self.client, self.runs()
        assert set(runs) == set(self.store.keys())
        total = 0
        for key, run in runs.items():
            points = [point for name in run.data.metrics for point in client.get_metric_history(run.info.run_id, name)]
            found = sorted((point.key, point.step, point.value, point.timestamp) for point in points)
            assert found == sorted(self.stored(key))
            total += len(found)
        return total

    def stored(self, key: str) -> list[tuple[str, int, float, int]]:
        """All that the store has of a trial: metric, step, value and milliseconds since 1970."""
        points = {
            (name, int(epoch["epoch"])): (value, round(epoch["time"] * 1000))
            for epoch in self.store.epochs(key)
            for name, value in epoch.items()
            if name not in ("epoch", "time")
        }
        if self.store.state(key) == "done":
            record = self.store.result(key)
            final = {f"test/{name}": value for name, value in record["metrics"].items()}
            final["cost/seconds"] = record["cost"]["seconds"]
            finished = round((START + 60) * 1000)
            points |= {(name, record["epochs"]): (value, finished) for name, value in final.items()}
        return [(name, step, value, time) for (name, step), (value, time) in points.items()]

    def train(self, trial: Trial, epochs: range, *, later: float = 0.0) -> None:
        self.store.open(trial)
        for epoch in epochs:
            self.store.append_epoch(trial.key, line(epoch, later))

    def finish(self, trial: Trial, status: str = "done", epochs: int = 3) -> None:
        self.train(trial, range(1, epochs + 1))
        self.store.finish(trial.key, result(status, epochs))

    def fail(self, trial: Trial, reason: str = "diverged") -> None:
        self.train(trial, range(1, 3))
        self.store.fail(trial.key, reason)


@functools.cache
def _params() -> Params:
    return load(ROOT / "params.yaml")


def line(epoch: int, later: float = 0.0) -> dict[str, float]:
    values = {"loss": 1 / epoch, "loss/identity": 0.5 / epoch, "lr": 1e-3, "seconds": 2.0 + later}
    return {"epoch": float(epoch), "time": START + epoch + later, **values}


def result(status: str = "done", epochs: int = 3) -> dict[str, Any]:
    environment = provenance.environment() | {"commit": "c" * 40, "dirty": True, "host": "gpu-box"}
    return {
        "status": status,
        "metrics": METRICS,
        "epochs": epochs,
        "cost": {"seconds": 12.5, "device": "cpu", "cpus": 1, "gpus": 0.0},
        "environment": environment,
        "started": provenance.timestamp(START),
        "finished": provenance.timestamp(START + 60),
    }


def make_trial(seed: int = 0, data_digest: str = "d" * 64, **changes: Any) -> Trial:
    config = TrialConfig(
        method="baseline", model=methods.config("baseline"), recipe=methods.recipe("baseline"), seed=seed, **changes
    )
    spec = trial_spec(config, dataset="synthetic", data_digest=data_digest, code_digest="e" * 64)
    key = trial_key(spec)
    name = f"baseline-default-synthetic-s{seed}-{key[:8]}"
    return Trial(key=key, setting=setting_key(spec), name=name, dataset="synthetic", config=config, spec=spec)


def sweep(bench: Bench, trials: list[Trial], *, uri: str | None = None) -> Tracker:
    """A whole sweep, as the executor tells it."""
    tracker = bench.tracker(uri)
    with tracker.sweep("smoke", bench.store):
        for trial in trials:
            if bench.store.state(trial.key) != "done":
                tracker.started(trial)
                bench.finish(trial)
                tracker.epoch(trial.key, line(3))
                tracker.ended(trial.key, "done")
        tracker.sync(trials)
    assert not bench.warnings
    return tracker
