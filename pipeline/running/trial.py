"""The worker's side of a sweep: run one trial of the store and record what it found."""

import functools
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.planning import keys
from pipeline.planning.keys import config_from_spec, picture_from_spec
from pipeline.planning.shares import Share
from pipeline.running.supervision import Cause, FailedError, Failure, UnfitMachineError, Watch, alone_in, cause_of
from pipeline.running.usage import Usage
from pipeline.storage import provenance
from pipeline.storage.staging import DataSets
from pipeline.storage.store import TrialStore
from reid import checkpoint
from reid.checkpoint import DamagedError
from reid.data.dataset import ReidData
from reid.train import Resumption, TrialResult, metric_name, score, train
from reid.visualize.drawing import Strip, draw
from reid.visualize.images import png

_OF_EPOCHS: tuple[tuple[str, str, Callable[[list[float]], float]], ...] = (  # cost, column, of all epochs
    ("cpu_seconds", "cpu_seconds", math.fsum),
    ("epoch_seconds", "seconds", statistics.median),
    ("step_seconds", "step_seconds", statistics.median),
)

Publish = Callable[[dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for every trial of a sweep: where things lie, how often states are written, how long it may take.

    `trial_seconds` and `silent_seconds` limit an attempt and the time between two of its epochs; None: no limit.
    """

    store: TrialStore
    data: DataSets
    state_epochs: int
    trial_seconds: float | None
    silent_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Assignment(Terms):
    """Everything a worker needs to know: which trial, what share of the machine it has, and the sweep's terms.

    `keep_weights`: the network is wanted when it has been trained.
    """

    key: str
    share: Share
    keep_weights: bool = False


class DamagedNetworkError(Exception):
    """The network to score is not there, or not what was written; the trial that trains it has to run again."""


def run(assignment: Assignment, publish: Publish) -> None:
    """Train and score a trial, epoch by epoch into the store, and finish its record.

    Args:
        assignment: the trial and its share of the machine.
        publish: told of every epoch after it is in the store; may raise to stop the trial.

    Of anything it raises, `failure` says what it means.

    Raises:
        DamagedNetworkError: the trial scores the network of another one, and that is no good.
        UnfitMachineError: this machine lacks the code, the store or the data of the sweep.
    """
    provenance.environment()  # asked now: a commit made while this trains is not the code that trains
    store, started = assignment.store, time.time()
    store.refresh(assignment.key)
    _check_machine(store, assignment.key)
    folder = store.folder(assignment.key)
    limits = {"trial_seconds": assignment.trial_seconds, "silent_seconds": assignment.silent_seconds}
    usage = Usage(cpus=assignment.share.cpus, gpus=assignment.share.gpus)
    with alone_in(folder), Watch(folder, **limits) as watch:

        def alive(metrics: dict[str, float]) -> None:
            watch.alive()
            publish(metrics)

        spec = store.spec(assignment.key)
        if "pictures" in spec:
            _draw(store, assignment, started=started, usage=usage)
        else:
            result = (_score if "source" in spec else _train)(store, assignment, alive, usage)
            _finish(store, assignment, result, started=started, usage=usage)
        store.remove(store.state_file(assignment.key))


def train_along(assignment: Assignment, publish: Callable[[dict[str, float]], None]) -> None:
    """Train a trial as one of several processes, but not the first of them, which does what `run` says."""
    store = assignment.store
    store.refresh(assignment.key)
    _check_machine(store, assignment.key)
    spec = store.spec(assignment.key)
    train(
        config_from_spec(spec),
        _dataset(assignment.data.folder(spec["dataset"])),
        publish,
        device=_device(assignment),
    )


def _check_machine(store: TrialStore, key: str) -> None:
    """Refuse to write under a key what it does not stand for: a machine may join, or code change, after the start."""
    try:
        spec = store.spec(key)
    except LookupError as error:
        raise UnfitMachineError(f"{provenance.host()}: the trial store is not there: {error}") from error
    drawing = spec["pictures"]["code_digest"] if "pictures" in spec else None
    if keys.code_digest(spec["config"]["method"]) != spec["code_digest"] or drawing not in (
        None,
        keys.drawing_digest(),
    ):
        raise UnfitMachineError(
            f"{provenance.host()}: the code in {provenance.ROOT} is not the one that the sweep was started with; bring "
            f"it up to date there; where it was changed on purpose, start the sweep anew"
        )


def failure(error: Exception) -> Failure:
    """What an exception of `run` means for the trial."""
    if isinstance(error, FailedError):
        return error.failure
    cause = Cause.NETWORK_DAMAGED if isinstance(error, DamagedNetworkError) else cause_of(error)
    name = type(error).__name__ if cause is Cause.ERROR else str(cause)
    text = " ".join(str(error).split())
    return Failure(cause=cause, reason=f"{name}: {text}", detail="".join(traceback.format_exception(error)))


def _train(store: TrialStore, assignment: Assignment, publish: Publish, usage: Usage) -> TrialResult:
    spec, state = store.spec(assignment.key), store.state_file(assignment.key)
    store.fetch(state)

    def report(metrics: dict[str, float]) -> None:
        store.append_epoch(assignment.key, {**metrics, **usage.of_epoch(), "time": time.time()})
        publish(metrics)

    _begin(store, assignment.key, **_resumable(store, assignment.key, state))
    weights = store.weights(assignment.key) if assignment.keep_weights else None
    result = train(
        config_from_spec(spec),
        _dataset(assignment.data.folder(spec["dataset"])),
        report,
        device=_device(assignment),
        resumption=Resumption(state, every=assignment.state_epochs, saved=lambda: store.upload(state)),
        weights=weights,
    )
    if weights is not None:
        store.upload(weights)
    return result


def _score(store: TrialStore, assignment: Assignment, publish: Publish, usage: Usage) -> TrialResult:
    """Score the network of another trial; there are no epochs to publish."""
    spec = store.spec(assignment.key)
    data, weights = _dataset(assignment.data.folder(spec["scored_on"]["dataset"])), store.weights(spec["source"])
    store.fetch(weights)
    _begin(store, assignment.key, from_epoch=0)
    with _network(store, weights):
        return score(config_from_spec(spec), weights, data, device=_device(assignment))


def _draw(store: TrialStore, assignment: Assignment, *, started: float, usage: Usage) -> None:
    """Draw what the network of another trial does; the pictures are part of the record."""
    spec, began = store.spec(assignment.key), time.perf_counter()
    data = _dataset(assignment.data.folder(spec["scored_on"]["dataset"]))
    weights = store.weights(spec["source"]) if "source" in spec else None
    if weights is not None:
        store.fetch(weights)
    _begin(store, assignment.key, from_epoch=0)
    with _network(store, weights):
        strips = draw(
            config_from_spec(spec), data, picture_from_spec(spec), weights=weights, device=_device(assignment)
        )
    cost = _cost(time.perf_counter() - began, usage, ())
    content = record("done", {}, epochs=0, cost=cost, share=assignment.share, started=started)
    said, files = _packed(strips)
    store.finish(assignment.key, content | {"pictures": said}, files)


def _packed(strips: Sequence[Strip]) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.uint8]]]:
    """What a trial has drawn, for its record: what there is in words, and the PNG files as bytes, by name."""
    said, files = [], {}
    for place, strip in enumerate(strips):
        name = f"{place}.png"
        files[name] = np.frombuffer(png([tile.image for tile in strip.tiles]), np.uint8)
        said.append(
            {
                "file": name,
                "number": strip.number,
                "average_precision": strip.average_precision,
                "size": [strip.tiles[0].image.shape[1], strip.tiles[0].image.shape[0]],
                "tiles": [{"caption": tile.caption, "right": tile.right} for tile in strip.tiles],
            }
        )
    return said, files


@contextmanager
def _network(store: TrialStore, weights: Path | None) -> Iterator[None]:
    """While the network of another trial is used.

    Raises:
        DamagedNetworkError: it is no good; a damaged file is set aside.
    """
    try:
        yield
    except DamagedError as error:
        raise DamagedNetworkError(f"{error}; set aside as {store.set_aside(error.path).name}") from error
    except FileNotFoundError as error:
        raise DamagedNetworkError(f"{weights} is not there") from error


def _begin(store: TrialStore, key: str, **found: Any) -> None:
    store.attempt(key, {"event": "started", "host": provenance.host(), "pid": os.getpid(), **found})


def _resumable(store: TrialStore, key: str, state: Path) -> dict[str, Any]:
    """The epoch that an attempt goes on from. A damaged state, or one with epochs lost before it, is set aside."""
    if not state.exists():
        return {"from_epoch": 0}
    try:
        epoch = checkpoint.load(state)[1]["epoch"]
        if not set(range(1, epoch + 1)) <= {line["epoch"] for line in store.epochs(key)}:
            raise DamagedError(store.folder(key) / "metrics.jsonl", f"it lacks epochs before the {epoch + 1}th")
    except DamagedError as error:
        aside = store.set_aside(state)
        return {"from_epoch": 0, "note": f"from its beginning, for {error}. Its state is kept as {aside.name}"}
    return {"from_epoch": epoch}


def _device(assignment: Assignment) -> str:
    return "cuda" if assignment.share.gpus else "cpu"


@functools.lru_cache(maxsize=4)
def _dataset(folder: Path) -> ReidData:
    """A data set, opened once per worker: it is a memory map, shared by the workers of a machine."""
    try:
        return ReidData.load(folder)
    except FileNotFoundError as error:
        raise UnfitMachineError(f"{provenance.host()}: {error}") from error


def record(
    status: str, metrics: dict[str, float], *, epochs: int, cost: Mapping[str, float], share: Share, started: float
) -> dict[str, Any]:
    """A trial's `result.json`: what it found, what it cost and where it ran.

    Args:
        status: `done`, or `pruned` for a search trial that was stopped early.
        metrics: fractions and counts.
        epochs: that were trained.
        cost: what was measured of it, `seconds` of training and scoring among it.
        share: the part of the machine it had.
        started: when its last attempt began, seconds since 1970.
    """
    given = {"cpus": share.all_cpus, "gpus": share.all_gpus, "processes": share.processes}
    return {
        "status": status,
        "metrics": metrics,
        "epochs": epochs,
        "cost": {**cost, **given, "device": provenance.device(share.gpus)},
        "environment": provenance.environment(),
        "started": provenance.timestamp(started),
        "finished": provenance.timestamp(time.time()),
    }


def paid(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the epochs on record cost: the median `epoch_seconds`, scoring included, and `step_seconds`, and the
    `cpu_seconds` of all. Nothing is said of what no line has."""
    found: dict[str, float] = {}
    for name, column, summed in _OF_EPOCHS:
        if values := [line[column] for line in lines if column in line]:
            found[name] = summed(values)
    return found


def _cost(seconds: float, usage: Usage, lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a trial cost in all: the seconds given, what its epochs cost, and what this process took besides."""
    cost = {"seconds": seconds, **paid(lines), **usage.peaks()}
    return cost | {"cpu_seconds": cost.get("cpu_seconds", 0.0) + usage.cpu_seconds()}


def _finish(store: TrialStore, assignment: Assignment, result: TrialResult, *, started: float, usage: Usage) -> None:
    values = {
        metric_name(embedding, name): array
        for embedding, scores in result.retrieval.items()
        for name, array in scores.per_query().items()
    }
    cost = _cost(result.seconds, usage, store.epochs(assignment.key)) | result.network
    content = record("done", result.metrics, epochs=result.epochs, cost=cost, share=assignment.share, started=started)
    store.finish(assignment.key, content, values)
