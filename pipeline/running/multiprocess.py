"""One trial by several processes, each with a GPU or some threads: Ray Train starts them, `reid.distributed` trains.

The first of them keeps the record, as the only process of an ordinary trial does. Tune's own worker waits meanwhile and
takes nothing of a machine. Whether a failed attempt is followed by another is decided where it is for all trials, so
Ray Train never starts anything again itself.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import astuple
from queue import SimpleQueue
from typing import Any

# Read by Ray Train: on a cluster, machines may have to be started first; and an epoch waits until it is looked at.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1200")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from pipeline.running import trial
from pipeline.running.supervision import Cause, FailedError, Failure, LostWorkersError, claim
from pipeline.running.trial import Assignment
from pipeline.storage import scratch

_NEVER = {"max_failures": 0, "max_preemption_failures": 0, "controller_failure_limit": 0}


def run(assignment: Assignment, publish: Callable[[dict[str, Any]], None]) -> None:
    """Train and score a trial by as many processes as its share says, inside a worker of Tune.

    Args:
        assignment: the trial and the share of each process.
        publish: told of every epoch; it may raise to stop the trial, and with it all processes.

    Raises:
        FailedError: what the attempt failed of, where a process could say it.
        LostWorkersError: a process died without a word.
    """
    chief = ray.remote(num_cpus=0, max_concurrency=3)(_Chief).remote()
    try:
        found = chief.train.remote(assignment)
        while (metrics := ray.get(chief.hear.remote())) is not None:
            publish(metrics)
        failure: Failure | None = ray.get(found)
    except RayActorError as error:
        raise LostWorkersError(str(error)) from error
    finally:
        ray.kill(chief)  # and so whatever it has started
    if failure is not None:
        raise LostWorkersError(failure.detail) if failure.cause is Cause.LOST else FailedError(*astuple(failure))


class _Chief:
    """Waits for Ray Train in a process of its own, which can be killed at any time, unlike a thread of Tune's."""

    def __init__(self) -> None:
        self._told: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def tell(self, metrics: dict[str, Any]) -> None:
        """Take what the first process says."""
        self._told.put(metrics)

    def hear(self) -> dict[str, Any] | None:
        """Wait for what the first process says next; None at the end."""
        return self._told.get()

    def train(self, assignment: Assignment) -> Failure | None:
        """Make one attempt at a trial, and say what it has failed of."""
        try:
            _trainer(assignment, _Messenger(ray.get_runtime_context().current_actor)).fit()
        except TrainingFailedError as error:
            return _meaning(error)
        finally:
            self._told.put(None)
        return None


class _Messenger(UserCallback):  # type: ignore[misc]
    """Passes on what the first process reports."""

    def __init__(self, chief: Any) -> None:
        self._chief = chief

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        ray.get(self._chief.tell.remote(metrics[0]))


def _trainer(assignment: Assignment, messenger: _Messenger) -> TorchTrainer:
    share = assignment.share
    return TorchTrainer(
        _process,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend="nccl" if share.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=share.processes,
            use_gpu=bool(share.gpus),
            resources_per_worker={"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {}),
        ),
        run_config=RunConfig(
            name=f"{assignment.key}-{uuid.uuid4().hex[:8]}",
            **scratch.storage(assignment.store),
            callbacks=[messenger],
            failure_config=FailureConfig(**_NEVER),
        ),
    )


def _process(config: dict[str, Any]) -> None:
    """What each of the processes does."""
    assignment: Assignment = config["assignment"]
    claim(cpus=assignment.share.cpus, gpus=assignment.share.gpus)
    if assignment.share.gpus:
        import torch  # heavy, and there already in this process alone

        torch.cuda.set_device(get_device())  # a setting of the thread
    ray.train.report({"ready": True})
    first = ray.train.get_context().get_world_rank() == 0
    try:
        (trial.run if first else trial.train_along)(assignment, lambda metrics: ray.train.report(dict(metrics)))
    except Exception as error:
        raise FailedError(*astuple(trial.failure(error))) from error


def _meaning(error: TrainingFailedError) -> Failure:
    """What the processes' errors come to: that a process has lost another one tells least."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    for one in (getattr(failure, "_base_exc", failure) for failure in failures):  # as Ray Train wraps them
        if isinstance(one, FailedError) and one.failure.cause is not Cause.LOST:
            return one.failure
    return Failure(cause=Cause.LOST, reason="a process of the trial was lost", detail=str(error))
