"""One trial by several processes, each with a GPU or some threads: Ray Train starts them, `reid.distributed` trains.

The first of them keeps the record, as the only process of an ordinary trial does. Tune's own worker waits meanwhile and
takes nothing of a machine. Whether a failed attempt is followed by another is decided where it is for all trials, so
Ray Train never starts anything again itself.
"""

import dataclasses
import uuid
from typing import Any, NoReturn

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback

from pipeline import scratch, trial
from pipeline.supervision import Cause, FailedError, LostWorkersError, claim
from pipeline.trial import Assignment

_NEVER = {"max_failures": 0, "max_preemption_failures": 0, "controller_failure_limit": 0}


def run(assignment: Assignment) -> None:
    """Train and score a trial by as many processes as its share says, inside a worker of Tune.

    Tune hears of its epochs from them, by way of Ray Train.

    Args:
        assignment: the trial and the share of each process.

    Raises:
        FailedError: what the attempt failed of, where a process could say it.
        LostWorkersError: a process died without a word.
    """
    share = assignment.share
    trainer = TorchTrainer(
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
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(**_NEVER),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        _explain(error)


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
        raise FailedError(*dataclasses.astuple(trial.failure(error))) from error


def _explain(error: TrainingFailedError) -> NoReturn:
    """Raise what the processes' errors come to: that a process has lost another one tells least."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    for one in (getattr(failure, "_base_exc", failure) for failure in failures):  # as Ray Train wraps them
        if isinstance(one, FailedError) and one.failure.cause is not Cause.LOST:
            raise one from error
    raise LostWorkersError(str(error)) from error
