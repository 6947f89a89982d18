"""A trial as MLflow shows it: its tags, its points and how it ended, read from the trial store. Needs no MLflow."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.store import TrialStore
from pipeline.strict import redact

if TYPE_CHECKING:
    from pipeline.plan import Trial

KEY, SETTING, VERDICT, REASON, SWEEP = "trial.key", "trial.setting", "trial.verdict", "trial.reason", "sweep.name"
RUNNING, INTERRUPTED = "running", "interrupted"

_STATUS = {"done": "FINISHED", "pruned": "KILLED", "failed": "FAILED", INTERRUPTED: "KILLED"}
_PLACE = {"epoch", "time"}  # of an epoch's line: where its points lie, not what they are


@dataclass(frozen=True, order=True)
class Point:
    """A value of a metric; equal to any other of the same metric and step. `time` in seconds since 1970."""

    step: int
    name: str
    value: float = field(compare=False)
    time: float = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial stands when nothing trains it: `done`, `pruned`, `failed` or `interrupted`, and what that adds."""

    verdict: str
    finished: float
    tags: dict[str, str]
    points: list[Point]

    @property
    def status(self) -> str:
        """MLflow's word for it."""
        return _STATUS[self.verdict]


def ending(store: TrialStore, key: str) -> Ending:
    """How a trial that no process is at has ended; one that the store has no end of was interrupted."""
    match store.state(key):
        case "done":
            result = store.result(key)
            finished, tags = _seconds(result["finished"]), _whereabouts(result)
            points = _final_points(result, store.spec(key)["config"]["evaluate_on"])
            return Ending(verdict=result["status"], finished=finished, tags=tags, points=points)
        case "failed":
            failure = store.failure(key)
            tags = {REASON: redact(failure["reason"])}
            return Ending(verdict="failed", finished=_seconds(failure["when"]), tags=tags, points=[])
    return Ending(verdict=INTERRUPTED, finished=time.time(), tags={}, points=[])


def started(store: TrialStore, key: str) -> float:
    """When a trial that has ended began, in seconds since 1970, as far as the store tells."""
    if store.state(key) == "done":
        return _seconds(store.result(key)["started"])
    epochs = store.epochs(key)
    return epochs[0]["time"] if epochs else _seconds(store.failure(key)["when"])


def epoch_points(store: TrialStore, key: str) -> list[Point]:
    """The points of all epochs in the store, at the times that they have there."""
    return [
        Point(step=int(line["epoch"]), name=name, value=value, time=line["time"])
        for line in store.epochs(key)
        for name, value in line.items()
        if name not in _PLACE
    ]


def trial_tags(trial: "Trial") -> dict[str, str]:
    """What a run is found and filtered by."""
    return {
        KEY: trial.key,
        SETTING: trial.setting,
        "method": trial.config.method,
        "dataset": trial.dataset,
        "seed": str(trial.config.seed),
        "evaluate_on": trial.config.evaluate_on,
        "protocol": json.dumps(trial.spec["config"]["recipe"]["protocol"]),
        "data.digest": trial.spec["data_digest"],
        "code.digest": trial.spec["code_digest"],
    }


def code_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """Commit and dirty flag of an `environment()`, and the commit once more where MLflow's pages look for it."""
    commit, dirty = environment["commit"], str(environment["dirty"]).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _whereabouts(result: Mapping[str, Any]) -> dict[str, str]:
    """Where a finished trial ran, by its record: perhaps another machine or commit than the driver's."""
    environment, device = result["environment"], result["cost"]["device"]
    versions = {name: environment[name] for name in ("host", "python", "torch")}
    return code_tags(environment) | versions | {"device": device}


def _final_points(result: Mapping[str, Any], evaluate_on: str) -> list[Point]:
    """`test/mAP` and its like, at the last epoch."""
    values = {f"{evaluate_on}/{name}": value for name, value in result["metrics"].items()}
    values["cost/seconds"] = result["cost"]["seconds"]
    finished = _seconds(result["finished"])
    return [Point(result["epochs"], name, value, finished) for name, value in values.items()]


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
