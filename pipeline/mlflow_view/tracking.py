"""MLflow as a view of the trial store: one run per trial, found again by its key, nested under one run per sweep.

The store is the truth, and one process at a time writes from it: a sweep, or `reconcile`. What MLflow lacks, as it was
down or its database was lost, either writes from the store; nothing that MLflow does or fails to do reaches a trial.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from pipeline.mlflow_view import addresses, view
from pipeline.mlflow_view.background import Worker
from pipeline.planning.strict import redact
from pipeline.storage import provenance
from pipeline.storage.store import TrialStore
from reid.config import flatten

_MAX_PARAM, _MAX_TAG = 6000, 8000  # characters that MLflow takes; it would cut the rest off without a word
_MAX_LISTED = 200  # a page of runs is 0.3 s through a server

_SOURCE = {"mlflow.source.name": "python -m pipeline sweep", "mlflow.source.type": "JOB"}

BUSY = "another process writes this trial store to MLflow"

_FLUSH_SECONDS = 2.0
_CONNECT_SECONDS = 30.0  # a new SQLite file takes about 7 s
_AGAIN_SECONDS = 60.0  # between attempts to reach an MLflow that failed
_OTHER_SECONDS = 50.0  # that another writer is waited for; a job of the worker may take 60

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


def reason(problem: object) -> str:
    """What went wrong in one line of bearable length, without passwords."""
    return redact(" ".join(str(problem).split()))[:400]  # redacted first: a cut could hide where a password ends


def writing(store: TrialStore) -> filelock.FileLock:
    """The lock of whoever writes this store to MLflow: two at once would each make a run of the same trial."""
    store.root.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(store.root / "mlflow.lock", thread_local=False)


class Tracker:
    """Tells MLflow what a sweep does; a listener of the executor that never raises, and never keeps it waiting long.

    There is one warning, of the first failure. From then on MLflow is tried again every minute, and told what it has
    missed. `experiment_id` is "" until MLflow answers.

    Args:
        uri: where MLflow keeps its runs; None for `mlflow.db` in `root`, with the artifacts in `mlartifacts` beside it.
        experiment: name of the MLflow experiment. One store per experiment: runs are found by the trial's key alone.
        root: folder that relative addresses start from.
        warn: is given the warning.
    """

    def __init__(self, uri: str | None, experiment: str, root: Path, *, warn: Callable[[str], None] = warn) -> None:
        self.experiment_id = ""
        self._uri, self._root = addresses.store_uri(uri, root), root
        self._experiment, self._warn = experiment, warn
        self._seen: dict[str, view.Subject] = {}
        self._warned = False
        self._again: float | None = None  # when to try once more, where MLflow has failed
        self._mirror: Mirror | None = None
        self._worker: Worker | None = None

    @contextmanager
    def sweep(self, name: str, store: TrialStore) -> Iterator[None]:
        """Mirror a store for as long as the block runs.

        Args:
            name: of the sweep; the same name goes on in the same parent run.
            store: where the trials are.
        """
        self._name, self._store, self._lock = name, store, writing(store)
        worker = self._begin()
        worker.settle(_CONNECT_SECONDS)  # what MLflow imports late must not meet what others import meanwhile
        status = "KILLED"
        try:
            yield
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._do(lambda mirror: mirror.end_sweep(status))
            assert self._worker is not None
            self._worker.finish()
            self._lock.release(force=True)

    def started(self, trial: view.Subject) -> None:
        """A trial has been given to a worker."""
        self._seen[trial.key] = trial
        self._do(lambda mirror: mirror.start(trial))

    def epoch(self, key: str, metrics: Mapping[str, float]) -> None:
        """A trial has finished an epoch; its metrics are read from the store."""
        self._do(lambda mirror: mirror.touch(key))

    def ended(self, key: str, verdict: str) -> None:
        """A trial has a terminal record in the store."""
        self._do(lambda mirror: mirror.end(key))

    def sync(self, trials: Iterable[view.Subject]) -> None:
        """Write what MLflow lacks of trials that nothing trains."""
        if self._again is not None:
            self._again = 0.0  # the last chance of this sweep
        for trial in trials:
            self._do(functools.partial(Mirror.sync, trial=trial))

    def run_ids(self) -> dict[str, str]:
        """MLflow's run of each trial key, as far as it is known; complete once the sweep's block has ended."""
        return {key: run.run_id for key, run in dict(self._mirror.runs).items()} if self._mirror is not None else {}

    def _begin(self) -> Worker:
        """Start on what MLflow lacks, on a thread of its own."""
        self._worker = Worker("mlflow", idle=self._flush, warn=self._give_up)
        self._worker.put(self._connect)
        return self._worker

    def _connect(self) -> None:
        try:
            self._lock.acquire(timeout=_OTHER_SECONDS)
        except filelock.Timeout:
            raise TimeoutError(BUSY) from None
        mirror = Mirror(self._uri, self._experiment, self._root, self._store)
        self.experiment_id = mirror.experiment_id
        mirror.start_sweep(self._name)
        for trial in list(self._seen.values()):
            mirror.catch_up(trial)
        self._mirror = mirror

    def _do(self, action: Callable[["Mirror"], object]) -> None:
        def job() -> None:
            assert self._mirror is not None  # connecting was the first job, and nothing follows a job that failed
            action(self._mirror)

        if self._again is not None and time.monotonic() > self._again:
            self._again = None
            self._begin()
        assert self._worker is not None, "a Tracker works inside its sweep()"
        self._worker.put(job)

    def _flush(self) -> None:
        if self._mirror is not None:
            self._mirror.flush()

    def _give_up(self, problem: str) -> None:
        self._lock.release(force=True)
        self._again = time.monotonic() + _AGAIN_SECONDS
        if not self._warned:
            self._warn(
                f"MLflow at {redact(self._uri)} is left out: {reason(problem)}. No result is lost: the trial store has "
                "them all. It is tried again every minute; what it lacks in the end: python -m pipeline reconcile"
            )
        self._warned = True


@dataclass
class _Run:
    """A trial's run. `points` are the metrics and steps that MLflow has of it; None before they were asked for."""

    run_id: str
    name: str
    status: str
    mark: str = ""
    metrics: tuple[str, ...] = ()
    points: set[tuple[str, int]] | None = None


class Mirror:
    """The runs of one MLflow experiment, made equal to the trials of a store. Raises what MLflow raises.

    A point is written when MLflow has none of its metric and step, so that writing again, after a kill at any moment or
    of an epoch that a resumed trial repeats, adds nothing twice.

    Args:
        uri: of MLflow's store, absolute.
        experiment: its name; made if new.
        root: the checkout: its `data` is where data sets are counted, and its `mlartifacts` takes the artifacts of a
            new experiment where no server does.
        store: the trials. Whoever uses a Mirror holds the lock that `writing` gives.
    """

    def __init__(self, uri: str, experiment: str, root: Path, store: TrialStore) -> None:
        self._client, self._store, self._data = client(uri), store, root / "data"
        found = self._client.get_experiment_by_name(experiment)
        location = None if addresses.is_server(uri) else addresses.artifacts(root)
        self.experiment_id = str(found.experiment_id if found else self._client.create_experiment(experiment, location))
        self.num_points = 0  # of metrics, that were written
        self.runs: dict[str, _Run] = {}
        self._twins: list[tuple[str, str]] = []
        self._sweeps: dict[str, str] = {}
        self._open_sweeps: list[str] = []
        for run in self._listed():
            self._know(run)
        self._sweep, self._interrupted = "", False
        self._touched: set[str] = set()
        self._flushed = time.monotonic()

    def start_sweep(self, name: str) -> None:
        """Go on in the parent run of this name, or make it; close what an earlier sweep left open."""
        self.tidy()
        self._close_open()
        self._interrupted = False
        tags = {view.SWEEP: name, **view.code_tags(provenance.environment())}
        self._sweep = self._begin(self._sweeps.get(name), name, tags)

    def adopt(self, name: str) -> None:
        """Have new runs nested under the last parent run of this name; without one they stand alone."""
        self._sweep = self._sweeps.get(name, "")

    def start(self, trial: view.Subject) -> None:
        """A trial trains from now on."""
        self._open(trial, time.time(), self._parent() | view.code_tags(provenance.environment()))

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
        self._write_points(run, ending.points)
        self._write_tags(run.run_id, {view.VERDICT: ending.verdict, view.MARK: ending.mark, **ending.tags})
        self._client.set_terminated(run.run_id, ending.status, round(ending.finished * 1000))
        run.mark, run.status = ending.mark, ending.status
        self._interrupted |= ending.verdict == view.INTERRUPTED

    def sync(self, trial: view.Subject) -> bool:
        """Write a trial that nothing trains, unless its run has all of it already; whether there was anything to do."""
        if self._store.state(trial.key) == "absent":
            return False
        ending, run = view.ending(self._store, trial.key), self.runs.get(trial.key)
        if run is not None and (run.mark, run.status) == (ending.mark, ending.status):
            return False
        self._open(trial, view.started(self._store, trial.key), {} if run else self._parent())
        self.end(trial.key)
        return True

    def catch_up(self, trial: view.Subject) -> None:
        """Write a trial of this sweep that MLflow was not there for, whether it has ended meanwhile or not."""
        if self._store.state(trial.key) == "running":
            self.start(trial)
            self.touch(trial.key)
        else:
            self.sync(trial)

    def end_sweep(self, status: str) -> None:
        """Close every run that is still open, the sweep's last; without a trial's end it is not `FINISHED`."""
        self._close_open()
        self._client.set_terminated(self._sweep, "KILLED" if status == "FINISHED" and self._interrupted else status)

    def tidy(self) -> int:
        """End the parent runs of sweeps that died, and delete all runs of a trial of the store but one; how many."""
        for run_id in self._open_sweeps:
            self._client.set_terminated(run_id, "KILLED")
        known = set(self._store.keys())
        twins = [run_id for key, run_id in self._twins if key in known]
        for run_id in twins:
            self._client.delete_run(run_id)
        return len(twins) + len(self._open_sweeps)

    def _listed(self) -> Iterator[Any]:
        """All runs of the experiment, latest first: of two with one key, as two writers make them, the older counts."""
        token = None
        while token != "":
            page = self._client.search_runs([self.experiment_id], max_results=_MAX_LISTED, page_token=token)
            yield from page
            token = page.token or ""

    def _know(self, run: Any) -> None:
        tags, run_id, status = run.data.tags, run.info.run_id, run.info.status
        if view.SWEEP in tags:
            self._sweeps[tags[view.SWEEP]] = run_id
            self._open_sweeps += [run_id] if status == "RUNNING" else []
        elif view.KEY in tags:
            key, mark = tags[view.KEY], tags.get(view.MARK, "")
            self._twins += [(key, self.runs[key].run_id)] if key in self.runs else []
            self.runs[key] = _Run(run_id, run.info.run_name, status, mark, tuple(run.data.metrics))

    def _close_open(self) -> None:
        """End the open runs of this store's trials, while none trains."""
        known = set(self._store.keys())
        for key in [key for key, run in self.runs.items() if run.status == "RUNNING" and key in known]:
            self.end(key)

    def _parent(self) -> dict[str, str]:
        return {"mlflow.parentRunId": self._sweep} if self._sweep else {}

    def _open(self, trial: view.Subject, started: float, tags: dict[str, str]) -> None:
        """Find or make a trial's run, with its tags, parameters, data and specification, and set it running."""
        run = self.runs.get(trial.key)
        tags = view.trial_tags(trial.key, trial.spec) | {view.VERDICT: view.RUNNING} | tags
        if run is not None:
            tags = {view.REASON: ""} | tags  # it may do better this time
        run_id = self._begin(run.run_id if run else None, trial.name, tags, started)
        if run is None:
            run = self.runs[trial.key] = _Run(run_id, trial.name, "RUNNING", points=set())
        run.status = "RUNNING"
        self._write_params(run_id, flatten(trial.spec["config"]))
        self._write_inputs(run_id, trial.spec)
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
        self.num_points += len(new)
        run.points.update((point.name, point.step) for point in new)

    def _write_params(self, run_id: str, params: Iterable[tuple[str, Any]]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(name, _cut(str(value), _MAX_PARAM)) for name, value in params])

    def _write_inputs(self, run_id: str, spec: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=item.name,
                    digest=item.digest,
                    source_type="local",
                    source=json.dumps({"uri": f"data/{item.name}"}),
                    profile=json.dumps(item.profile),
                ),
                [InputTag("mlflow.data.context", item.used)],
            )
            for item in view.data_sets(spec, self._data)
        ]
        self._client.log_inputs(run_id, inputs)

    def _write_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(name, _cut(value, _MAX_TAG)) for name, value in tags.items()])


def client(uri: str) -> Any:
    """MLflow's client, with defaults that do not wait for minutes."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _cut(text: str, length: int) -> str:
    """A text that MLflow takes; the run's spec.json has it whole."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
