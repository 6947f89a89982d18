"""Ray Tune runs what the agenda asks for, in one session. It schedules and remembers nothing; nothing is restored."""

import dataclasses
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Read by Ray when it is imported: results are ours, workers keep the working directory, all sockets are on loopback.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a resumed trial may end without another epoch
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # what Ctrl-C means is `Interrupts`' business
os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "5")  # a worker that hangs does not hear that it should end
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "1")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.agenda import Agenda
from pipeline.desk import Desk, Listener, Resources
from pipeline.supervision import Cause, Interrupts, claim, mourned
from pipeline.trial import Assignment, failure, run

_OBJECT_STORE_BYTES = 100 * 2**20  # nothing large travels through Ray: images are memory-mapped, results are files

Work = Callable[[Assignment, Callable[[dict[str, float]], None]], None]


class UnwritableError(Exception):
    """A file cannot be written, most likely because a disk is full. Nothing that was recorded is lost."""


def execute(
    agenda: Agenda, resources: Resources, listeners: list[Listener], interrupts: Interrupts, work: Work = run
) -> None:
    """Run trials until the agenda is finished, or until it is told to stop.

    The caller judges by the agenda, never by how this returned.

    Args:
        agenda: says which trials run, and is told how they ended.
        resources: what each of them gets.
        listeners: are told what happens.
        interrupts: say when to stop.
        work: what a worker does with an assignment.

    Raises:
        UnwritableError: the sweep came to an end for want of room on a disk; trials are unfinished.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is in the store, and told at the end
    desk = Desk(agenda, resources, listeners, interrupts)
    scratch = resources.store.root / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed sweep left
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(work), {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                max_concurrent_trials=resources.concurrent,
                reuse_actors=True,
                search_alg=_Queue(desk),
                scheduler=_Gate(desk),
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex[:8],
                storage_path=str(scratch),
                verbose=0,
                callbacks=[_Ear(desk)],
                failure_config=tune.FailureConfig(max_failures=0),  # whether it is tried again is our decision
            ),
        )
        with interrupts.heeded(drain=agenda.close), suppress(_StoppedError):
            tuner.fit()
        desk.leave()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if desk.problem:
        raise UnwritableError(desk.problem)


@contextmanager
def session(*, cpus: int | None = None) -> Iterator[None]:
    """A local Ray session on loopback, for as long as the block runs; one that is already there is used and left."""
    if ray.is_initialized():
        yield
        return
    with mourned():
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


def _trainable(work: Work) -> Callable[[dict[str, Any]], None]:
    """What Tune calls in a worker: one attempt at a trial of the store, told epoch by epoch."""

    def attempt(config: dict[str, Any]) -> None:
        assignment = Assignment(**config)
        claim(cpus=assignment.cpus, gpus=assignment.gpus)
        tune.report({"ready": True})
        try:
            work(assignment, lambda metrics: tune.report(dict(metrics)))
        except Exception as error:
            found = failure(error)
            tune.report({"failure": dataclasses.asdict(found)})
            if found.cause is Cause.MEMORY:
                raise  # which ends the process, and so gives back all that it holds

    return attempt


class _Queue(Searcher):  # type: ignore[misc]
    """Hands out the agenda's trials."""

    def __init__(self, desk: Desk) -> None:
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

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = trial.config["key"]
        if "epoch" not in result or self.desk.goes_on(key, int(result["epoch"])):
            return str(TrialScheduler.CONTINUE)
        self.desk.prune(key)
        return str(TrialScheduler.STOP)


class _StoppedError(BaseException):
    """Leaves Tune at once: it would wait for workers that may never answer."""


class _Ear(tune.Callback):  # type: ignore[misc]
    """Passes on what Tune says, and looks after the workers at every turn of its loop."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        stopped = self.desk.interrupts.stopped
        for trial in trials:
            if trial.status == "RUNNING" and (stopped or self.desk.overdue(trial.config["key"])):
                ray.kill(trial.temporary_state.ray_actor)
        if stopped:
            raise _StoppedError

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.desk.has_worker(trial.config["key"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.desk.reported(trial.config["key"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.desk.completed(trial.config["key"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        written = trial.error_file
        self.desk.broke(trial.config["key"], Path(written).read_text() if written and Path(written).exists() else "")
