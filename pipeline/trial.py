"""The worker's side of a sweep: run one trial of the store and record what it found."""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline import provenance
from pipeline.keys import config_from_spec
from pipeline.store import TrialStore
from reid.data.dataset import ReidData
from reid.train import DivergedError, TrialResult, metric_name, score, train

_STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Everything a worker needs to know: which trial, where things lie and what share of the machine it has.

    `keep_weights`: another trial will score the network.
    """

    key: str
    store: Path
    data: Path
    cpus: int
    gpus: float
    state_epochs: int
    keep_weights: bool = False


def run(assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> None:
    """Train and score a trial, epoch by epoch into the store, and finish its record.

    Args:
        assignment: the trial and its share of the machine.
        publish: told of every epoch after it is in the store; may raise to stop the trial.

    A diverged trial is recorded as failed: another attempt would diverge again. Any other exception is the caller's,
    who may try the trial once more.
    """
    provenance.environment()  # asked now: a commit made while this trains is not the code that trains
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(assignment.cpus)
    torch.set_num_threads(assignment.cpus)
    store = TrialStore(assignment.store)
    started = time.time()
    try:
        work = _score if "source" in store.spec(assignment.key) else _train
        result = work(store, assignment, publish)
    except DivergedError as error:
        store.fail(assignment.key, reason="diverged", detail=str(error))
        return
    _finish(store, assignment, result, started)
    (store.folder(assignment.key) / _STATE).unlink(missing_ok=True)


def _train(store: TrialStore, assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> TrialResult:
    spec = store.spec(assignment.key)

    def report(metrics: dict[str, float]) -> None:
        store.append_epoch(assignment.key, {**metrics, "time": time.time()})
        publish(metrics)

    return train(
        config_from_spec(spec),
        _dataset(assignment.data / spec["dataset"]),
        report,
        device=_device(assignment),
        state=store.folder(assignment.key) / _STATE,
        state_epochs=assignment.state_epochs,
        weights=store.weights(assignment.key) if assignment.keep_weights else None,
    )


def _score(store: TrialStore, assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> TrialResult:
    """Score the network of another trial; there are no epochs to publish."""
    spec = store.spec(assignment.key)
    data = _dataset(assignment.data / spec["scored_on"]["dataset"])
    return score(config_from_spec(spec), store.weights(spec["source"]), data, device=_device(assignment))


def _device(assignment: Assignment) -> str:
    return "cuda" if assignment.gpus else "cpu"


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path) -> ReidData:
    """A data set, opened once per worker: it is a memory map, shared by the workers of a machine."""
    return ReidData.load(folder)


def record(
    status: str, metrics: dict[str, float], *, epochs: int, seconds: float, share: Assignment, started: float
) -> dict[str, Any]:
    """A trial's `result.json`: what it found, what it cost and where it ran.

    Args:
        status: `done`, or `pruned` for a search trial that was stopped early.
        metrics: fractions and counts.
        epochs: that were trained.
        seconds: of training and scoring.
        share: the part of the machine it had.
        started: when its last attempt began, seconds since 1970.
    """
    cost = {"seconds": seconds, "device": provenance.device(share.gpus), "cpus": share.cpus, "gpus": share.gpus}
    return {
        "status": status,
        "metrics": metrics,
        "epochs": epochs,
        "cost": cost,
        "environment": provenance.environment(),
        "started": provenance.timestamp(started),
        "finished": provenance.timestamp(time.time()),
    }


def _finish(store: TrialStore, assignment: Assignment, result: TrialResult, started: float) -> None:
    values = {
        metric_name(embedding, name): getattr(scores, name)
        for embedding, scores in result.retrieval.items()
        for name in ("average_precision", "first_match_rank")
    }
    content = record(
        "done",
        result.metrics,
        epochs=result.epochs,
        seconds=result.seconds,
        share=assignment,
        started=started,
    )
    store.finish(assignment.key, content, values)
