"""A trial as MLflow shows it: tags, data sets, points and how it ended, read from the trial store. Needs no MLflow."""

import functools
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pipeline.planning.experiments import ARROW
from pipeline.planning.strict import redact
from pipeline.storage.store import TrialStore
from reid.data.dataset import ReidData

KEY, SETTING, VERDICT, REASON, SWEEP = "trial.key", "trial.setting", "trial.verdict", "trial.reason", "sweep.name"
MARK = "trial.mark"
RUNNING, INTERRUPTED = "running", "interrupted"

_STATUS = {"done": "FINISHED", "pruned": "KILLED", "failed": "FAILED", INTERRUPTED: "KILLED"}
_PLACE = {"epoch", "time"}  # of an epoch's line: where its points lie, not what they are
_SHARE = ("cpus", "gpus")
_GIVEN = (*_SHARE, "processes")  # of a result's cost: what the trial was given, not what it used
_MAX_DIGEST = 36  # characters that MLflow takes


class Subject(Protocol):
    """What a run shows: a trial that is declared, or one that only the store knows."""

    @property
    def key(self) -> str:
        """What its run is found by."""

    @property
    def name(self) -> str:
        """Of its run."""

    @property
    def spec(self) -> dict[str, Any]:
        """What it was opened with."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A trial of the store that perhaps nothing declares any more."""

    key: str
    name: str
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that a trial used. `digest`: the start of the one in its key; `used`: for what; `profile`: counts."""

    name: str
    digest: str
    used: str
    profile: dict[str, Any]


@dataclass(frozen=True, order=True)
class Point:
    """A value of a metric; equal to any other of the same metric and step. `time` in seconds since 1970."""

    step: int
    name: str
    value: float = field(compare=False)
    time: float = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial stands when nothing trains it: `done`, `pruned`, `failed` or `interrupted`; and all its points."""

    verdict: str
    finished: float
    tags: dict[str, str]
    points: list[Point]

    @property
    def status(self) -> str:
        """MLflow's word for it."""
        return _STATUS[self.verdict]

    @property
    def mark(self) -> str:
        """The same for a run that was closed with this: whether anything has been added since is seen without asking
        MLflow for its points.
        """
        points = [[point.step, point.name] for point in sorted(set(self.points))]
        return hashlib.sha256(json.dumps([self.verdict, sorted(self.tags.items()), points]).encode()).hexdigest()[:16]


def ending(store: TrialStore, key: str) -> Ending:
    """How a trial that no process is at has ended; one that the store has no end of was interrupted."""
    points = epoch_points(store, key)
    match store.state(key):
        case "done":
            result = store.result(key)
            finished, tags = _seconds(result["finished"]), _whereabouts(result) | _paid(result["cost"])
            points += _final_points(result, store.spec(key)["config"]["evaluate_on"])
            return Ending(verdict=result["status"], finished=finished, tags=tags, points=points)
        case "failed":
            failure = store.failure(key)
            tags = {REASON: redact(failure["reason"])}
            return Ending(verdict="failed", finished=_seconds(failure["when"]), tags=tags, points=points)
    return Ending(verdict=INTERRUPTED, finished=time.time(), tags={}, points=points)


def started(store: TrialStore, key: str) -> float:
    """When a trial that has ended began, in seconds since 1970, as far as the store tells."""
    if store.state(key) == "done":
        return _seconds(store.result(key)["started"])
    epochs = store.epochs(key)
    if epochs:
        return epochs[0]["time"]
    return _seconds(store.failure(key)["when"]) if store.state(key) == "failed" else time.time()


def epoch_points(store: TrialStore, key: str) -> list[Point]:
    """The points of all epochs in the store, at the times that they have there."""
    return [
        Point(step=int(line["epoch"]), name=name, value=value, time=line["time"])
        for line in store.epochs(key)
        for name, value in line.items()
        if name not in _PLACE
    ]


def plain_name(key: str, spec: Mapping[str, Any]) -> str:
    """The name of a run whose trial has no better one on record."""
    config = spec["config"]
    return f"{config['method']}-{_column(spec)}-s{config['seed']}-{key[:8]}"


def trial_tags(key: str, spec: Mapping[str, Any]) -> dict[str, str]:
    """What a run is found and filtered by."""
    from pipeline.planning.keys import setting_key  # imports torch, which MLflow's pages need not wait for

    config = spec["config"]
    return {
        KEY: key,
        SETTING: setting_key(dict(spec)),
        "method": config["method"],
        "dataset": _column(spec),
        "seed": str(config["seed"]),
        "evaluate_on": config["evaluate_on"],
        "protocol": json.dumps(config["recipe"]["protocol"]),
        "data.digest": spec["data_digest"],
        "code.digest": spec["code_digest"],
    }


def data_sets(spec: Mapping[str, Any], folder: Path) -> list[DataSet]:
    """The data set of a trial; the two of one that trains on the first and is scored on the second.

    Args:
        spec: of the trial.
        folder: that holds the prepared data sets, for the counts; what is not the trial's data any more has none.
    """
    scored, evaluate_on = _scored_on(spec), spec["config"]["evaluate_on"]
    if scored["dataset"] == spec["dataset"]:
        return [_data_set(spec, f"training, {evaluate_on}", folder)]
    return [_data_set(spec, "training", folder), _data_set(scored, evaluate_on, folder)]


def code_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """Commit and dirty flag of an `environment()`, and the commit once more where MLflow's pages look for it."""
    commit, dirty = environment["commit"], str(environment["dirty"]).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _whereabouts(result: Mapping[str, Any]) -> dict[str, str]:
    """Where a finished trial ran, by its record: perhaps another machine or commit than the driver's."""
    environment, device = result["environment"], result["cost"]["device"]
    versions = {name: environment[name] for name in ("host", "python", "torch")}
    return code_tags(environment) | versions | {"device": device}


def _paid(cost: Mapping[str, Any]) -> dict[str, str]:
    """What was kept from others while a trial ran; text, as MLflow's tags are."""
    hours = cost["seconds"] / 3600
    return {f"cost.{name[:-1]}_hours": f"{cost[name] * hours:.6f}" for name in _SHARE}


def _final_points(result: Mapping[str, Any], evaluate_on: str) -> list[Point]:
    """`test/mAP` and its like and the `cost/...` that was measured, at the last epoch."""
    cost = {name: value for name, value in result["cost"].items() if name not in _GIVEN}
    values = {f"{evaluate_on}/{name}": value for name, value in result["metrics"].items()}
    values |= {f"cost/{name}": value for name, value in cost.items() if isinstance(value, (int, float))}
    finished = _seconds(result["finished"])
    return [Point(result["epochs"], name, value, finished) for name, value in values.items()]


def _column(spec: Mapping[str, Any]) -> str:
    """The key of the column that a trial stands in: its data set, or both of a transfer."""
    return ARROW.join(dict.fromkeys((spec["dataset"], _scored_on(spec)["dataset"])))


def _scored_on(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """`dataset` and `data_digest` of what a trial is scored on; of most, what it is trained on."""
    scored: Mapping[str, Any] = spec.get("scored_on", spec)
    return scored


def _data_set(spec: Mapping[str, Any], used: str, folder: Path) -> DataSet:
    name, digest = spec["dataset"], spec["data_digest"]
    return DataSet(name=name, digest=digest[:_MAX_DIGEST], used=used, profile=_counts(folder / name, digest))


@functools.cache
def _counts(folder: Path, digest: str) -> dict[str, Any]:
    """Images, identities and cameras of each part; empty where the folder does not hold this data. Read only."""
    try:
        data = ReidData.load(folder)
    except (FileNotFoundError, ValueError):
        return {}
    if digest not in (data.digest_for("val"), data.digest_for("test")):
        return {}
    counts: dict[str, Any] = json.loads((folder / "info.json").read_text())["counts"]
    return {"num_rows": len(data.images)} | counts


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
