"""Ray Tune runs what the agenda asks for, in one session. It schedules and remembers nothing; nothing is restored."""

import dataclasses
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

# Read by Ray when it is imported: results are ours, workers keep the working directory, all sockets are on loopback
# unless `cluster` has said otherwise.
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
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "64")  # the desk says what there is room for; else one by one
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "1")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "60")

import ray
from ray import ActorID, PlacementGroupID, tune
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipeline.planning.shares import Share
from pipeline.running import cluster
from pipeline.running.agenda import Agenda
from pipeline.running.cluster import Node
from pipeline.running.desk import Desk, Listener, Resources
from pipeline.running.supervision import Cause, Interrupts, LostWorkersError, claim, mourned
from pipeline.running.trial import Assignment, failure, run
from pipeline.storage import scratch

_OF_WORKERS = ("RAY_CHDIR_TO_TRIAL_DIR", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")  # which a cluster's do not inherit
_OBJECT_STORE_BYTES = 100 * 2**20  # nothing large travels through Ray: images are memory-mapped, results are files
_DYING_SECONDS = 60.0

Work = Callable[[Assignment, Callable[[dict[str, float]], None]], None]


class HaltedError(Exception):
    """No further trial can start: a file cannot be written, or no machine is fit. Nothing that was recorded is lost."""


def execute(
    agenda: Agenda, resources: Resources, listeners: list[Listener], interrupts: Interrupts, work: Work = run
) -> None:
    """Run trials until the agenda is finished, or until it is told to stop.

    The caller judges by the agenda, never by how this returned.

    Args:
        agenda: says which trials run, and is told how they ended.
        resources: what they get, and how many run at a time.
        listeners: are told what happens.
        interrupts: say when to stop.
        work: what a worker does with an assignment.

    Raises:
        ParamsError: no machine has room for a trial; then none was started.
        HaltedError: the sweep came to an end for want of room on a disk, or of a machine; trials are unfinished.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is in the store, and told at the end
    desk = Desk(agenda, resources, listeners, interrupts)
    desk.check_room()
    store = resources.terms.store
    scratch.clear(store)  # what a killed sweep left
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(work), _request()),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                reuse_actors=True,  # by trials of the same share
                search_alg=_Queue(desk),
                scheduler=_Gate(desk),
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex[:8],
                **scratch.storage(store),
                verbose=0,
                callbacks=[_Ear(desk)],
                failure_config=tune.FailureConfig(max_failures=0),  # whether it is tried again is our decision
            ),
        )
        with interrupts.heeded(drain=agenda.close), suppress(_StoppedError):
            tuner.fit()
        desk.leave()
        deadline = time.monotonic() + _DYING_SECONDS
        while not interrupts.stopped and _give_back() and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        scratch.clear(store)
    if desk.problem:
        raise HaltedError(desk.problem)


@contextmanager
def session(address: str | None = None, *, cpus: int | None = None) -> Iterator[None]:
    """A Ray session for as long as the block runs; one that is already there is used and left.

    When the driver of a local one dies, a process of ours sees to its workers; that of a cluster is missed by the
    cluster itself, which ends its workers within a second.

    Args:
        address: of a cluster that `cluster.reach` has found; None: a session of this machine alone, on loopback.
        cpus: how many a local session may use; None: all.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with nullcontext() if address else mourned():
        if address:
            ray.init(address, runtime_env={"env_vars": {name: os.environ[name] for name in _OF_WORKERS}}, **quiet)
        else:
            store = _OBJECT_STORE_BYTES
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=store, **quiet)
        try:
            yield
        finally:
            ray.shutdown()


def machines() -> tuple[Node, ...]:
    """Those of the session that are alive."""
    alive = [one for one in ray.nodes() if one["Alive"]]
    return cluster.parse([(one["NodeID"], one["NodeManagerAddress"], one["Resources"]) for one in alive])


def _request() -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """What Ray sets aside for a trial in Tune's worker, on a machine that is none of the unfit ones.

    Where that worker only waits for other processes, it is next to nothing. Workers get this function by value, and so
    need not import this module.
    """

    def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        share = config["assignment"].share
        bundle = {"CPU": float(share.cpus)} | ({"GPU": share.gpus} if share.gpus else {})
        if share.processes > 1:
            bundle = {"memory": 1.0}  # a byte, because nothing at all is refused
        unfit = [{"ray.io/node-id": f"!in({','.join(config['shunned'])})"}] if config["shunned"] else None
        return tune.PlacementGroupFactory([bundle], bundle_label_selector=unfit)

    return request


def _trainable(work: Work) -> Callable[[dict[str, Any]], None]:
    """What Tune calls in a worker: one attempt at a trial of the store, told epoch by epoch."""

    def attempt(config: dict[str, Any]) -> None:
        assignment: Assignment = config["assignment"]
        try:
            if assignment.share.processes > 1:
                from pipeline.running import multiprocess  # slow to import, and needed for few trials

                multiprocess.run(assignment, tune.report)
                return
            claim(cpus=assignment.share.cpus, gpus=assignment.share.gpus)
            tune.report({"ready": True})
            work(assignment, lambda metrics: tune.report(dict(metrics)))
        except LostWorkersError:
            raise  # the desk finds out why
        except Exception as error:
            found = failure(error)
            tune.report({"failure": dataclasses.asdict(found), "machine": ray.get_runtime_context().get_node_id()})
            if found.cause in (Cause.MEMORY, Cause.UNFIT):
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
            return {"assignment": self.desk.assignment(trial), "shunned": sorted(self.desk.shunned)}
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
        key = _key(trial)
        if "epoch" not in result or self.desk.goes_on(key, int(result["epoch"])):
            return str(TrialScheduler.CONTINUE)
        self.desk.prune(key)
        return str(TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """As its parent does; what waits for a machine is taken back once nothing more is to start."""
        if self.desk.agenda.closed:
            for trial in [trial for trial in tune_controller.get_trials() if trial.status == "PENDING"]:
                tune_controller.stop_trial(trial)
            return None
        return super().choose_trial_to_run(tune_controller)


def _key(trial: Any) -> str:
    """Ours of one of Tune's."""
    return str(trial.config["assignment"].key)


class _StoppedError(BaseException):
    """Leaves Tune at once.

    While trials run it would wait for workers that may never answer; when they are over it would read its own notes of
    all, and fail over one that it had queued and never started.
    """


class _Ear(tune.Callback):  # type: ignore[misc]
    """Passes on what Tune says, and looks after the workers at every turn of its loop."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._left_behind_until = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        stopped = self.desk.interrupts.stopped
        if time.monotonic() < self._left_behind_until:
            _give_back()
        for trial in trials:
            if trial.status == "RUNNING" and (stopped or self.desk.overdue(_key(trial))):
                ray.kill(trial.temporary_state.ray_actor)
        if stopped:
            raise _StoppedError

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        if sys.exception() is None:  # else Tune ends over that
            raise _StoppedError

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.desk.has_worker(_key(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.desk.reported(_key(trial), result)
        if result.get("failure", {}).get("cause") == Cause.UNFIT:
            self._shun(result["machine"], trial.config["assignment"].share)

    def _shun(self, name: str, share: Share) -> None:
        """Send no further trial to an unfit machine, unless it is the only one."""
        fit = {one.id for one in machines() if one.holds(share)} - self.desk.shunned
        if fit - {name}:
            self.desk.shunned.add(name)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._over(trial)
        self.desk.completed(_key(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._over(trial)
        written = trial.error_file
        self.desk.broke(_key(trial), Path(written).read_text() if written and Path(written).exists() else "")

    def _over(self, trial: Any) -> None:
        """The processes of a trial take a moment to die."""
        if trial.config["assignment"].share.processes > 1:
            self._left_behind_until = time.monotonic() + _DYING_SECONDS


def _give_back() -> bool:
    """Give back what Ray Train had set aside for processes and holds beyond its own death; whether it holds any still.

    Ray does so when the actor that asked and the driver are dead, Ray Train's own cleaner where there is a dashboard.
    """
    holds, job = False, ray.get_runtime_context().get_job_id()
    for text in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(text)
        of_an_actor = not ActorID(
            group.creator_actor_id
        ).is_nil()  # Tune's own are not, and count as if theirs were dead
        ours = of_an_actor and group.creator_job_id.hex() == job and group.state != PlacementGroupTableData.REMOVED
        if ours and group.creator_actor_dead:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
        holds |= ours
    return holds
