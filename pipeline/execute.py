"""Ray Tune runs what the agenda asks for, in one session. It schedules and remembers nothing; nothing is restored."""

import dataclasses
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

# Read by Ray when it is imported: results are ours, workers keep the working directory, all sockets are on loopback.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a resumed trial may end without another epoch
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "1")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.agenda import Agenda
from pipeline.plan import Trial
from pipeline.store import TrialStore
from pipeline.trial import Assignment, record, run

_OBJECT_STORE_BYTES = 100 * 2**20  # nothing large travels through Ray: images are memory-mapped, results are files


class Listener(Protocol):
    """Is told what happens, on the driver."""

    def started(self, trial: Trial) -> None:
        """A trial has been given to a worker."""

    def epoch(self, key: str, metrics: dict[str, float]) -> None:
        """A trial has finished an epoch."""

    def ended(self, key: str, verdict: str) -> None:
        """A trial has a terminal record: `done`, `pruned` or `failed`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """A trial's share of a machine, how often it is tried again, and where things lie."""

    store: Path
    data: Path
    cpus: int
    gpus: float
    state_epochs: int
    retries: int
    concurrent: int

    def assignment(self, key: str, *, keep_weights: bool = False) -> Assignment:
        """What a worker is told."""
        return Assignment(
            key=key,
            store=self.store,
            data=self.data,
            cpus=self.cpus,
            gpus=self.gpus,
            state_epochs=self.state_epochs,
            keep_weights=keep_weights,
        )


def execute(agenda: Agenda, resources: Resources, listeners: list[Listener]) -> None:
    """Run trials until the agenda is finished, or until Ctrl-C, after which Tune returns as if all were well.

    The caller judges by the agenda, never by how this returned.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is in the store, and told at the end
    desk = _Desk(agenda, resources, listeners)
    scratch = resources.store.parent / "tune" / uuid.uuid4().hex[:8]
    try:
        tuner = tune.Tuner(
            tune.with_resources(_work, {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                max_concurrent_trials=resources.concurrent,
                reuse_actors=True,
                search_alg=_Queue(desk),
                scheduler=_Gate(desk),
            ),
            run_config=tune.RunConfig(
                name="attempt",
                storage_path=str(scratch),
                verbose=0,
                callbacks=[_Ear(desk)],
                failure_config=tune.FailureConfig(max_failures=resources.retries),
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if not any(scratch.parent.iterdir()):
            scratch.parent.rmdir()


@contextmanager
def session(*, cpus: int | None = None) -> Iterator[None]:
    """A local Ray session on loopback, for as long as the block runs; one that is already there is used and left."""
    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        ray.shutdown()


def slots(*, cpus: int, gpus: float) -> int:
    """How many trials with this share fit on the session's machines at once; 0 when not even one does."""
    have = ray.cluster_resources()
    by_cpu = int(have["CPU"] // cpus)
    return min(by_cpu, int(have["GPU"] // gpus) if "GPU" in have else 0) if gpus else by_cpu


def _work(config: dict[str, Any]) -> None:
    """The trainable: one trial of the store, told to Tune epoch by epoch."""
    run(Assignment(**config), lambda metrics: tune.report(dict(metrics)))


class _Desk:
    """What searcher, scheduler and callback share: which Tune trial is which of ours."""

    def __init__(self, agenda: Agenda, resources: Resources, listeners: list[Listener]) -> None:
        self.agenda, self.resources, self.listeners = agenda, resources, listeners

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Desk":
        return self  # Tune copies searchers and schedulers; there is one desk

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # Tune writes itself down for a restore that never happens; the desk stays out of it

    def start(self) -> Trial | None:
        trial = self.agenda.next()
        if trial is not None:
            self.agenda.store.open(trial)
            for listener in self.listeners:
                listener.started(trial)
        return trial

    def epoch(self, key: str, metrics: dict[str, float]) -> None:
        for listener in self.listeners:
            listener.epoch(key, metrics)

    def prune(self, key: str) -> None:
        """Record a search trial that was stopped early, with what it had reached."""
        epochs = self.agenda.store.epochs(key)
        content = record(
            "pruned",
            {name.removeprefix("val/"): value for name, value in epochs[-1].items() if name.startswith("val/")},
            epochs=len(epochs),
            seconds=sum(line["seconds"] for line in epochs),
            share=self.resources.assignment(key),
            started=epochs[0]["time"] - epochs[0]["seconds"],
        )
        self.agenda.store.finish(key, content)

    def end(self, key: str) -> None:
        """A Tune trial is over; after Ctrl-C that does not mean that ours is."""
        store: TrialStore = self.agenda.store
        state = store.state(key)
        if state in ("done", "failed"):
            self.agenda.ended(key)
            verdict = store.result(key)["status"] if state == "done" else "failed"
            for listener in self.listeners:
                listener.ended(key, verdict)


class _Queue(Searcher):  # type: ignore[misc]
    """Hands out the agenda's trials."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__(metric="epoch", mode="max")
        self.desk = desk

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        trial = self.desk.start()
        if trial is not None:
            keep = self.desk.agenda.keeps_weights(trial.key)
            return dataclasses.asdict(self.desk.resources.assignment(trial.key, keep_weights=keep))
        return str(Searcher.FINISHED) if self.desk.agenda.finished() else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the store says how a trial ended."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: no attempt is restored."""


class _Gate(FIFOScheduler):  # type: ignore[misc]
    """Lets every trial train to its end but the search trials that the agenda stops."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = trial.config["key"]
        if "epoch" not in result or self.desk.agenda.goes_on(key, int(result["epoch"])):
            return str(TrialScheduler.CONTINUE)
        self.desk.prune(key)
        return str(TrialScheduler.STOP)


class _Ear(tune.Callback):  # type: ignore[misc]
    """Passes on what Tune says."""

    def __init__(self, desk: _Desk) -> None:
        self.desk = desk

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "epoch" in result:
            self.desk.epoch(trial.config["key"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.desk.end(trial.config["key"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        key, written = trial.config["key"], trial.error_file
        detail = Path(written).read_text() if written and Path(written).exists() else ""
        lines = [line for line in detail.splitlines() if line.strip()]
        self.desk.agenda.store.fail(key, reason=lines[-1] if lines else "the worker died", detail=detail)
        self.desk.end(key)
