"""Trials of two processes in a sweep: what one process finds; and what becomes of them when a process is killed."""

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from pipeline.planning.plan import Plan, Trial, make_trial
from pipeline.planning.shares import Machines, Share, Shares
from pipeline.planning.strict import ParamsError
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Resources
from pipeline.running.supervision import MARK, Interrupts
from pipeline.running.trial import Assignment, Terms, run
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from reid import methods
from reid.config import Optimiser, Recipe, Sampler, Schedule, TrialConfig
from tests.conftest import takes_minutes

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    backbone="resnet10_w16",
    weights=None,
    image_size=(64, 32),
    sampler=Sampler(identities=4, images=2),
    optimiser=Optimiser(name="sgd"),
    schedule=Schedule(epochs=2, peak_lr=1e-5),  # small steps magnify no rounding
)


def trial(seed: int = 0, *, recipe: Recipe = RECIPE, evaluate_on: Literal["val", "test"] = "test") -> Trial:
    model = methods.config("bdb")
    config = TrialConfig(method="bdb", model=model, recipe=recipe, seed=seed, evaluate_on=evaluate_on)
    return make_trial(config, "synthetic", {"test": "t", "val": "v"})


def sweep(
    trials: list[Trial],
    store: TrialStore,
    data: Path,
    *,
    trial_seconds: float | None = None,
    kind: type[Agenda] = Agenda,
) -> Agenda:
    from pipeline.running import execute

    agenda = kind(Plan(experiments=(), trials={item.key: item for item in trials}, searches=()), store)
    resources = Resources(
        terms=Terms(store=store, data=InPlace(data), state_epochs=1, trial_seconds=trial_seconds, silent_seconds=None),
        shares=Shares(Share(cpus=1, gpus=0.0, processes=2), {}),
        machines=Machines(execute.machines(), None),
        max_failures=1,
    )
    with Interrupts(exit_code=3) as interrupts:
        execute.execute(agenda, resources, [], interrupts)
    return agenda


def attempts(store: TrialStore, item: Trial) -> list[dict]:  # type: ignore[type-arg]
    path = store.folder(item.key) / "attempts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_two_processes_find_what_one_finds(ray_session: None, data: Path, tmp_path: Path) -> None:
    item = trial()
    alone, shared = (TrialStore(tmp_path / name) for name in ("alone", "shared"))
    alone.open(item)
    here = Assignment(
        key=item.key,
        store=alone,
        data=InPlace(data),
        share=Share(cpus=1, gpus=0.0, processes=1),
        state_epochs=1,
        trial_seconds=None,
        silent_seconds=None,
    )
    run(here, lambda metrics: None)
    agenda = sweep([item], shared, data)
    assert agenda.complete()
    assert not agenda.failed
    one, two = (store.result(item.key) for store in (alone, shared))
    assert two["metrics"] == pytest.approx(one["metrics"], abs=0.02)
    assert (two["cost"]["cpus"], two["cost"]["processes"]) == (2, 2)
    lines = [[line["loss"] for line in store.epochs(item.key)] for store in (alone, shared)]
    assert len(lines[1]) == 2
    assert lines[1] == pytest.approx(lines[0], rel=1e-3)
    assert [line["event"] for line in attempts(shared, item)] == ["started", "ended"]


@takes_minutes
def test_a_trial_whose_second_process_was_killed_goes_on_from_its_checkpoint(
    ray_session: None, data: Path, tmp_path: Path
) -> None:
    item = trial(recipe=replace(RECIPE, schedule=replace(RECIPE.schedule, epochs=20)))
    store = TrialStore(tmp_path / "trials")
    killed: list[int] = []

    def kill_the_second() -> None:
        deadline = time.monotonic() + 300
        while not killed and time.monotonic() < deadline:
            time.sleep(0.1)
            if (store.folder(item.key) / "state.safetensors").exists():
                first = attempts(store, item)[0]["pid"]
                killed.extend(pid for pid in train_workers() if pid != first)
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

    watcher = threading.Thread(target=kill_the_second)
    watcher.start()
    agenda = sweep([item], store, data)
    watcher.join()
    assert len(killed) == 1
    assert agenda.complete()
    assert not agenda.failed
    first, lost, second, ended = attempts(store, item)
    assert (first["from_epoch"], lost["outcome"], ended["outcome"]) == (0, "again", "done")
    assert lost["reason"].startswith("worker lost")
    assert second["from_epoch"] >= 1
    assert [line["epoch"] for line in store.epochs(item.key)] == list(range(1, 21))


@takes_minutes
def test_what_a_process_fails_of_is_recorded_with_its_cause(ray_session: None, data: Path, tmp_path: Path) -> None:
    diverges = trial(recipe=replace(RECIPE, schedule=Schedule(epochs=9, peak_lr=1e36)))
    late = trial(1, recipe=replace(RECIPE, schedule=replace(RECIPE.schedule, epochs=100_000)))
    store = TrialStore(tmp_path / "trials")
    sweep([diverges], store, data)
    assert store.failure(diverges.key)["reason"].startswith("diverged: the loss is")
    assert [line.get("outcome") for line in attempts(store, diverges)] == [None, "failed"]
    sweep([late], store, data, trial_seconds=8)
    assert store.failure(late.key)["reason"].startswith("timeout: an attempt may take")


class Pruning(Agenda):
    """Stops what would train for long."""

    def goes_on(self, key: str, epoch: int) -> bool:
        return epoch < 2 or self.declared[key].config.recipe.schedule.epochs < 3


@takes_minutes
def test_a_trial_that_is_stopped_early_gives_its_processes_back(ray_session: None, data: Path, tmp_path: Path) -> None:
    sampler, schedule = Sampler(identities=3, images=2), RECIPE.schedule
    recipe = replace(RECIPE, sampler=sampler, schedule=replace(schedule, epochs=100_000))
    stopped = trial(recipe=recipe, evaluate_on="val")
    whole = trial(1, recipe=replace(recipe, schedule=schedule), evaluate_on="val")
    store = TrialStore(tmp_path / "trials")
    assert sweep([stopped, whole], store, data, kind=Pruning).complete()
    assert [store.result(item.key)["status"] for item in (stopped, whole)] == ["pruned", "done"]
    deadline = time.monotonic() + 60
    while train_workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert train_workers() == []


def test_batches_that_cannot_be_shared_stop_the_sweep_before_it_starts(
    ray_session: None, data: Path, tmp_path: Path
) -> None:
    uneven = trial(recipe=replace(RECIPE, sampler=Sampler(identities=3, images=3)))
    with pytest.raises(ParamsError, match=r"a batch of 3 x 3 images .* cannot be shared equally by 2 processes"):
        sweep([uneven], TrialStore(tmp_path / "trials"), data)
    assert not any(tmp_path.iterdir())


def train_workers() -> list[int]:
    """The processes that Ray Train has started in this session."""
    mark, found = f"{MARK}={os.environ[MARK]}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes() and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found
