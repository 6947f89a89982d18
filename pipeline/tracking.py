"""MLflow as a view of the trial store: one run per trial, found again by its key, nested under one run per sweep.

The store is the truth and the driver is the only writer. Whatever MLflow lacks, because it was down or its database was
deleted, the next sweep writes from the store; nothing that MLflow does or fails to do reaches a trial.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import provenance, view
from pipeline.background import Worker
from pipeline.store import TrialStore
from pipeline.strict import redact
from reid.config import flatten

if TYPE_CHECKING:
    from pipeline.plan import Trial

_MAX_PARAM, _MAX_TAG = 6000, 8000  # characters that MLflow takes; it would cut the rest off without a word
_MAX_LISTED = 200  # a page of runs is 0.3 s through a server

_SOURCE = {"mlflow.source.name": "python -m pipeline sweep", "mlflow.source.type": "JOB"}

_FLUSH_SECONDS = 2.0
_CONNECT_SECONDS = 30.0  # a new SQLite file takes about 7 s

# MLflow's own defaults keep trying for minutes, log every database migration and print an address per run.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def warn(message: str) -> None:
    """Print a warning where it does not mix with results."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def store_uri(uri: str | None, root: Path) -> str:
    """The tracking address with nothing left to the working directory; None means `mlflow.db` in `root`."""
    if uri is None:
        return f"sqlite:///{root.absolute() / 'mlflow.db'}"
    name = uri.removeprefix("sqlite:///")
    return uri if name == uri else f"sqlite:///{root.absolute() / name}"


def ui_command(uri: str | None, root: Path, *, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's pages on 127.0.0.1, and its whole environment.

    Args:
        uri: as `Tracker` takes it.
        root: as `Tracker` takes it.
        port: to listen on.

    Raises:
        ValueError: `uri` is a server already, so its pages are there.
    """
    if _is_server(store_uri(uri, root)):
        raise ValueError(f"tracking.uri is a server already; open {redact(store_uri(uri, root))}")
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": store_uri(uri, root),  # no option: its password would show among the processes
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for language models, at eight processes and 1.2 GB
    }
    return [*server, "--artifacts-destination", _artifacts(root)], os.environ | environment


class Tracker:
    """Tells MLflow what a sweep does; a listener of the executor that never raises, and never keeps it waiting long.

    The first failure is one warning and the end of tracking for this sweep. `experiment_id` is "" until MLflow answers.

    Args:
        uri: where MLflow keeps its runs; None for `mlflow.db` in `root`, with the artifacts in `mlartifacts` beside it.
        experiment: name of the MLflow experiment. One store per experiment: runs are found by the trial's key alone.
        root: folder that relative addresses start from.
        warn: is given the warning.
    """

    def __init__(self, uri: str | None, experiment: str, root: Path, *, warn: Callable[[str], None] = warn) -> None:
        self.experiment_id = ""
        self._uri, self._artifacts = store_uri(uri, root), _artifacts(root)
        self._experiment, self._warn = experiment, warn
        self._mirror: Mirror | None = None
        self._worker: Worker | None = None

    @contextmanager
    def sweep(self, name: str, store: TrialStore) -> Iterator[None]:
        """Mirror a store for as long as the block runs.

        Args:
            name: of the sweep; the same name goes on in the same parent run.
            store: where the trials are.
        """
        self._worker = Worker("mlflow", idle=self._flush, warn=self._give_up)
        # Waited for: what MLflow imports late must not meet what others import meanwhile.
        self._worker.put(lambda: self._connect(name, store))
        self._worker.settle(_CONNECT_SECONDS)
        status = "KILLED"
        try:
            yield
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._do(lambda mirror: mirror.end_sweep(status))
            self._worker.finish()

    def started(self, trial: "Trial") -> None:
        """A trial has been given to a worker."""
        self._do(lambda mirror: mirror.start(trial))

    def epoch(self, key: str, metrics: Mapping[str, float]) -> None:
        """A trial has finished an epoch; its metrics are read from the store."""
        self._do(lambda mirror: mirror.touch(key))

    def ended(self, key: str, verdict: str) -> None:
        """A trial has a terminal record in the store."""
        self._do(lambda mirror: mirror.end(key))

    def sync(self, trials: Iterable["Trial"]) -> None:
        """Write what MLflow lacks of the trials that have ended."""
        for trial in trials:
            self._do(functools.partial(Mirror.sync, trial=trial))

    def run_ids(self) -> dict[str, str]:
        """MLflow's run of each trial key, as far as it is known; complete once the sweep's block has ended."""
        return {key: run.run_id for key, run in dict(self._mirror.runs).items()} if self._mirror is not None else {}

    def _connect(self, name: str, store: TrialStore) -> None:
        mirror = Mirror(self._uri, self._experiment, self._artifacts, store)
        self.experiment_id = mirror.experiment_id
        mirror.start_sweep(name)
        self._mirror = mirror

    def _do(self, action: Callable[["Mirror"], None]) -> None:
        def job() -> None:
            assert self._mirror is not None  # connecting was the first job, and nothing follows a job that failed
            action(self._mirror)

        assert self._worker is not None, "a Tracker works inside its sweep()"
        self._worker.put(job)

    def _flush(self) -> None:
        if self._mirror is not None:
            self._mirror.flush()

    def _give_up(self, problem: str) -> None:
        reason = redact(" ".join(problem.split()))[:400]  # redacted first: a cut could hide where a password ends
        self._warn(
            f"MLflow at {redact(self._uri)} is left out for the rest of this sweep: {reason}. No result is lost: the "
            "trial store has them all, and the next sweep writes to MLflow what it lacks"
        )


@dataclass
class _Run:
    """A trial's run. `points` are the metrics and steps that MLflow has of it; None before they were asked for."""

    run_id: str
    status: str
    verdict: str
    metrics: tuple[str, ...] = ()
    points: set[tuple[str, int]] | None = None


class Mirror:
    """The runs of one MLflow experiment, made equal to the trials of a store. Raises what MLflow raises.

    A point is written when MLflow has none of its metric and step, so that writing again, after a kill at any moment or
    of an epoch that a resumed trial repeats, adds nothing twice.

    Args:
        uri: of MLflow's store, absolute.
        experiment: its name; made if new.
        artifacts: address for the artifacts of a new experiment; a server has its own.
        store: the trials.
    """

    def __init__(self, uri: str, experiment: str, artifacts: str, store: TrialStore) -> None:
        self._client, self._store = _client(uri), store
        found = self._client.get_experiment_by_name(experiment)
        location = None if _is_server(uri) else artifacts
        self.experiment_id = str(found.experiment_id if found else self._client.create_experiment(experiment, location))
        self.runs: dict[str, _Run] = {}
        self._sweeps: dict[str, str] = {}
        for run in self._listed():
            tags, run_id = run.data.tags, run.info.run_id
            if view.SWEEP in tags:
                self._sweeps[tags[view.SWEEP]] = run_id
            elif view.KEY in tags:
                known = _Run(run_id, run.info.status, tags[view.VERDICT], tuple(run.data.metrics))
                self.runs[tags[view.KEY]] = known
        self._sweep = ""
        self._touched: set[str] = set()
        self._flushed = time.monotonic()

    def start_sweep(self, name: str) -> None:
        """Go on in the parent run of this name, or make it; close what an earlier sweep left open."""
        self._close_open()
        tags = {view.SWEEP: name, **view.code_tags(provenance.environment())}
        self._sweep = self._begin(self._sweeps.get(name), name, tags)

    def start(self, trial: "Trial") -> None:
        """A trial trains from now on."""
        self._open(trial, time.time(), view.code_tags(provenance.environment()))

    def touch(self, key: str) -> None:
        """A trial has new epochs in the store."""
        self._touched.add(key)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the new epochs."""
        while self._touched:
            key = self._touched.pop()
            self._write_points(self.runs[key], view.epoch_points(self._store, key))
        self._flushed = time.monotonic()

    def end(self, key: str) -> None:
        """Write all that the store has of a trial and close its run; one without an end on record was interrupted."""
        run, ending = self.runs[key], view.ending(self._store, key)
        self._touched.discard(key)
        self._write_points(run, [*view.epoch_points(self._store, key), *ending.points])
        self._write_tags(run.run_id, {view.VERDICT: ending.verdict, **ending.tags})
        self._client.set_terminated(run.run_id, ending.status, round(ending.finished * 1000))
        run.verdict, run.status = ending.verdict, ending.status

    def sync(self, trial: "Trial") -> None:
        """Write a trial that has ended, unless its run says so already."""
        ending = view.ending(self._store, trial.key)
        run = self.runs.get(trial.key)
        told = run is not None and (run.verdict, run.status) == (ending.verdict, ending.status)
        if ending.verdict != view.INTERRUPTED and not told:
            self._open(trial, view.started(self._store, trial.key), {})
            self.end(trial.key)

    def end_sweep(self, status: str) -> None:
        """Close every run that is still open, the sweep's last; without a trial's end it is not `FINISHED`."""
        interrupted = self._close_open()
        self._client.set_terminated(self._sweep, "KILLED" if status == "FINISHED" and interrupted else status)

    def _listed(self) -> Iterator[Any]:
        """All runs of the experiment, latest first: of two with one key, as two writers make them, the older counts."""
        token = None
        while token != "":
            page = self._client.search_runs([self.experiment_id], max_results=_MAX_LISTED, page_token=token)
            yield from page
            token = page.token or ""

    def _close_open(self) -> bool:
        """End the open runs of this store's trials, while none trains; whether one of them had no end on record."""
        known = set(self._store.keys())
        opened = [key for key, run in self.runs.items() if run.status == "RUNNING" and key in known]
        for key in opened:
            self.end(key)
        return any(self.runs[key].verdict == view.INTERRUPTED for key in opened)

    def _open(self, trial: "Trial", started: float, tags: dict[str, str]) -> None:
        """Find or make a trial's run, with its tags, parameters and specification, and set it running."""
        run = self.runs.get(trial.key)
        tags = view.trial_tags(trial) | {"mlflow.parentRunId": self._sweep, view.VERDICT: view.RUNNING} | tags
        if run is not None and run.verdict == "failed":
            tags = {view.REASON: ""} | tags  # it may do better this time
        run_id = self._begin(run.run_id if run else None, trial.name, tags, started)
        if run is None:
            run = self.runs[trial.key] = _Run(run_id, "RUNNING", view.RUNNING, points=set())
        run.status, run.verdict = "RUNNING", view.RUNNING
        self._write_params(run_id, flatten(trial.spec["config"]))
        self._client.log_dict(run_id, trial.spec, "spec.json")

    def _begin(self, run_id: str | None, name: str, tags: dict[str, str], started: float | None = None) -> str:
        """Set a run running, or make it; its id."""
        tags = _SOURCE | tags
        if run_id is None:
            start = round((started or time.time()) * 1000)
            return str(self._client.create_run(self.experiment_id, start, tags, name).info.run_id)
        self._client.update_run(run_id, status="RUNNING", name=name)
        self._write_tags(run_id, tags)
        return run_id

    def _write_points(self, run: _Run, points: list[view.Point]) -> None:
        """Write the points that MLflow has none of; its client splits them into batches of a size that it takes."""
        from mlflow.entities import Metric

        if run.points is None:
            histories = (self._client.get_metric_history(run.run_id, name) for name in run.metrics)
            run.points = {(point.key, point.step) for history in histories for point in history}
        new = [point for point in sorted(set(points)) if (point.name, point.step) not in run.points]
        metrics = [Metric(point.name, point.value, round(point.time * 1000), point.step) for point in new]
        self._client.log_batch(run.run_id, metrics=metrics)
        run.points.update((point.name, point.step) for point in new)

    def _write_params(self, run_id: str, params: Iterable[tuple[str, Any]]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(name, _cut(str(value), _MAX_PARAM)) for name, value in params])

    def _write_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(name, _cut(value, _MAX_TAG)) for name, value in tags.items()])


def _client(uri: str) -> Any:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _artifacts(root: Path) -> str:
    return (root.absolute() / "mlartifacts").as_uri()


def _cut(text: str, length: int) -> str:
    """A text that MLflow takes; the run's spec.json has it whole."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
