"""Ray runs the agenda: successes, failures with their reason, retries; all tests share one session."""

import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.planning.experiments import Experiment, Row
from pipeline.planning.plan import Plan, PlannedRow, Trial, make_trial, scored
from pipeline.planning.shares import Machines, Share, Shares
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Resources
from pipeline.running.supervision import Interrupts
from pipeline.running.trial import Terms
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from reid import methods
from reid.config import Augment, Protocol, Recipe, Sampler, Schedule, TrialConfig

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    backbone="resnet10_w16",
    weights=None,
    image_size=(64, 32),
    sampler=Sampler(identities=4, images=2),
    augment=Augment(),
    schedule=Schedule(epochs=2),
)


SHARE, WIDE = Share(cpus=1, gpus=0.0, processes=1), Share(cpus=2, gpus=0.0, processes=1)
DIGESTS = {"test": "t", "val": "v"}


def trial(seed: int = 0, **model: object) -> Trial:
    config = TrialConfig(method="bdb", model=methods.config("bdb", **model), recipe=RECIPE, seed=seed)
    return make_trial(config, "synthetic", DIGESTS)


class Notes:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, trial: Trial) -> None:
        self.events.append(("started", trial.key))

    def epoch(self, key: str, metrics: dict[str, float]) -> None:
        self.events.append((f"epoch {metrics['epoch']:g}", key))

    def ended(self, key: str, verdict: str) -> None:
        self.events.append((verdict, key))


def planned(trials: list[Trial]) -> Plan:
    """Of odd seeds one table, `wide`; the others belong to none."""
    row = Row(label="wide", method="bdb")
    odd = tuple(item for item in trials if item.config.seed % 2)
    wide = Experiment(name="wide", title="wide", metrics=("mAP",), rows=(row,))
    rows = (PlannedRow(row=row, trials={"synthetic": odd}),) if odd else ()
    return Plan(experiments=((wide, rows),), trials={item.key: item for item in trials}, searches=())


def resources(store: TrialStore, data: Path, *, max_failures: int = 0, concurrent: int | None = 2) -> Resources:
    """`concurrent`: trials at a time; None: of machines that may grow in number."""
    from pipeline.running import execute

    return Resources(
        terms=Terms(store=store, data=InPlace(data), state_epochs=1, trial_seconds=None, silent_seconds=None),
        shares=Shares(SHARE, {"wide": WIDE}),
        machines=Machines(execute.machines(), concurrent, execute.machines if concurrent is None else None),
        max_failures=max_failures,
    )


def run(trials: list[Trial], store: TrialStore, data: Path, *, max_failures: int = 0) -> tuple[Agenda, Notes]:
    from pipeline.running import execute

    agenda, notes = Agenda(planned(trials), store), Notes()
    with Interrupts(exit_code=3) as interrupts:
        execute.execute(agenda, resources(store, data, max_failures=max_failures), [notes], interrupts)
    return agenda, notes


@dataclass(frozen=True)
class Swept:
    """A sweep that is over."""

    agenda: Agenda
    notes: Notes
    store: TrialStore

    def heard_of(self, key: str) -> list[str]:
        return [what for what, of in self.notes.events if of == key]


def good() -> list[Trial]:
    return [trial(seed) for seed in (2, 1, 4, 3, 6, 8)]


def bad() -> Trial:
    return trial(rh=1.0)


def wild() -> Trial:
    recipe = replace(RECIPE, schedule=Schedule(epochs=2, peak_lr=1e36))
    return make_trial(replace(trial().config, recipe=recipe), "synthetic", DIGESTS)


def unlike() -> Trial:
    """Of another method than the others, by all cores."""
    config = TrialConfig(method="agw", model=methods.config("agw"), recipe=RECIPE, seed=3)
    return make_trial(config, "synthetic", DIGESTS)


@pytest.fixture(scope="module")
def swept(ray_session: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """One that raises, one that was interrupted, trials that end well, one that diverges, and one unlike the others."""
    store = TrialStore(tmp_path_factory.mktemp("swept"))
    store.open(trial())
    _leave_a_state(trial(), store, data)
    return Swept(*run([bad(), trial(), *good(), wild(), unlike()], store, data, max_failures=2), store)


@pytest.fixture(scope="module")
def rescored(ray_session: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A network that is trained, and then scored in two other ways; and one unlike it."""
    store = TrialStore(tmp_path_factory.mktemp("rescored"))
    return Swept(*run([unlike(), across(), by_cosine(), trial()], store, data), store)


def test_trials_of_two_shares_share_the_machine(swept: Swept) -> None:
    """On two cores: one that takes both, and those that take one each; workers are used again by their own kind."""
    trials, store = good(), swept.store
    costs = [store.result(item.key)["cost"] for item in trials]
    assert [cost["cpus"] for cost in costs] == [1, 2, 1, 2, 1, 1]
    for item, cost in zip(trials, costs, strict=True):
        lines = store.epochs(item.key)
        assert 0 < cost["step_seconds"] < cost["epoch_seconds"] < cost["seconds"]
        assert cost["cpu_seconds"] > sum(line["cpu_seconds"] for line in lines) > 0
        assert 100 < cost["peak_memory_mb"] < 4000
    workers = {item.key: store.attempts(item.key)[-1]["pid"] for item in trials}
    narrow, wide = ({workers[item.key] for item in trials if item.config.seed % 2 == odd} for odd in (0, 1))
    assert not narrow & wide
    assert len(wide) == 1


def test_trials_run_and_listeners_hear_of_it(swept: Swept) -> None:
    store = swept.store
    for item in good():
        assert swept.heard_of(item.key) == ["started", "epoch 1", "epoch 2", "done"]
        result = store.result(item.key)
        assert result["epochs"] == 2
        assert 0 < result["metrics"]["mAP"] <= 1
        assert len(store.per_query(item.key)["average_precision"]) > 0  # type: ignore[index]
        assert not (store.folder(item.key) / "state.safetensors").exists()
        (attempt,) = store.attempts(item.key)
        assert (attempt["from_epoch"], attempt["outcome"]) == (0, "done")
    assert not (store.root / ".tune").exists()


def test_trials_that_fail_by_themselves_are_not_tried_again_and_the_others_go_on(swept: Swept) -> None:
    store, raised, diverged = swept.store, bad().key, wild().key
    assert swept.agenda.complete()
    assert swept.agenda.failed == {raised, diverged}
    assert "covers all of" in store.failure(raised)["reason"]
    assert "drop.py" in store.failure(raised)["detail"]
    assert store.failure(diverged)["reason"].startswith("diverged: the loss is nan in epoch 1")
    assert swept.heard_of(raised) == ["started", "failed"]
    assert swept.heard_of(diverged).count("started") == 1
    assert {store.state(item.key) for item in good()} == {"done"}


def test_an_interrupted_trial_goes_on_from_its_state(swept: Swept, rescored: Swept) -> None:
    key = trial().key
    assert swept.heard_of(key) == ["started", "epoch 2", "done"]
    assert swept.store.result(key)["metrics"] == rescored.store.result(key)["metrics"]


def across() -> Trial:
    return scored(trial(), trial().config.recipe.protocol, "market1501", DIGESTS)


def by_cosine() -> Trial:
    return scored(trial(), Protocol(distance="cosine"), "synthetic", DIGESTS)


def test_a_network_is_scored_on_another_data_set_and_by_another_protocol(rescored: Swept) -> None:
    store, there = rescored.store, across().key
    assert rescored.agenda.complete()
    assert not rescored.agenda.failed
    assert rescored.heard_of(there) == ["started", "done"]
    own = store.result(trial().key)["metrics"]
    assert store.result(there)["metrics"] == own  # the other data set is a copy of its own
    assert store.result(by_cosine().key)["metrics"]["mAP"] != own["mAP"]
    assert len(store.per_query(there)["global/average_precision"]) > 0  # type: ignore[index]
    assert store.result(there)["epochs"] == 0


def test_a_network_that_was_damaged_is_trained_again_before_it_is_scored(
    rescored: Swept, data: Path, tmp_path: Path
) -> None:
    trained, there = trial(), across()
    store = TrialStore(shutil.copytree(rescored.store.root, tmp_path / "trials"))
    before = store.result(there.key)["metrics"]
    weights = store.weights(trained.key)
    weights.write_bytes(weights.read_bytes()[:-9])
    (store.folder(there.key) / "DONE").unlink()
    agenda, _ = run([trained, there], store, data, max_failures=1)
    assert agenda.complete()
    assert [attempt["outcome"] for attempt in store.attempts(there.key)] == ["done", "again", "done"]
    assert "weights.safetensors is damaged" in store.attempts(there.key)[1]["reason"]
    assert [attempt["outcome"] for attempt in store.attempts(trained.key)] == ["done", "done"]
    assert store.folder(trained.key).joinpath("weights.damaged.safetensors").exists()
    assert store.result(there.key)["metrics"] == before


def test_a_used_worker_is_as_good_as_a_new_one(swept: Swept, rescored: Swept) -> None:
    key = unlike().key

    def workers(sweep: Swept) -> tuple[int, set[int]]:
        pids = {other: sweep.store.attempts(other)[-1]["pid"] for other in sweep.agenda.declared}
        return pids.pop(key), set(pids.values())

    (used, others), (new, strangers) = workers(swept), workers(rescored)
    assert used in others
    assert new not in strangers
    losses = [[line["loss"] for line in sweep.store.epochs(key)] for sweep in (swept, rescored)]
    assert losses[0] == losses[1]
    assert swept.store.result(key)["metrics"] == rescored.store.result(key)["metrics"]


@pytest.mark.parametrize("when", ["it waits", "it is handed out"])
def test_what_waits_for_a_machine_is_taken_back_when_nothing_more_is_to_start(
    ray_session: None, data: Path, tmp_path: Path, when: str
) -> None:
    """Without a limit Tune asks for one place more than there is: that is what a cluster sees that can grow."""
    from pipeline.running import execute

    trials, store = [trial(seed) for seed in range(5)], TrialStore(tmp_path / "trials")
    agenda = Agenda(Plan(experiments=(), trials={item.key: item for item in trials}, searches=()), store)

    class Closing(Notes):
        def started(self, trial: Trial) -> None:
            super().started(trial)
            self.look("it is handed out")

        def epoch(self, key: str, metrics: dict[str, float]) -> None:
            super().epoch(key, metrics)
            self.look("it waits")

        def look(self, now: str) -> None:
            if now == when and len([what for what, _ in self.events if what == "started"]) == 3:
                agenda.close()

    notes = Closing()
    with Interrupts(exit_code=3) as interrupts:
        execute.execute(agenda, resources(store, data, concurrent=None), [notes], interrupts)
    said = [what for what, _ in notes.events if not what.startswith("epoch")]
    done = 2 if when == "it waits" else said.count("done")  # others may wait, too
    assert sorted(said) == ["done"] * done + ["preempted"] * (3 - done) + ["started"] * 3
    assert len(agenda.unfinished()) == 5 - done
    assert not agenda.failed


def test_a_machine_whose_code_was_changed_stops_the_sweep_and_writes_nothing(
    ray_session: None, data: Path, tmp_path: Path
) -> None:
    """The only machine is not avoided; the trials stay to be run."""
    from pipeline.running import execute

    item, store = trial(), TrialStore(tmp_path / "trials")
    changed = replace(item, spec={**item.spec, "code_digest": "0" * 64})
    with pytest.raises(execute.HaltedError, match=r"^unfit machine: .*is not the one that the sweep was started with"):
        run([changed], store, data, max_failures=1)
    assert store.state(item.key) == "running"
    assert [attempt["outcome"] for attempt in store.attempts(item.key)] == ["again", "preempted"]


def _leave_a_state(item: Trial, store: TrialStore, data: Path) -> None:
    from pipeline.running.trial import Assignment, run

    class KilledError(Exception):
        pass

    def publish(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise KilledError

    share = Assignment(
        key=item.key,
        store=store,
        data=InPlace(data),
        share=SHARE,
        state_epochs=1,
        trial_seconds=None,
        silent_seconds=None,
    )
    with pytest.raises(KilledError):
        run(share, publish)


def test_every_process_of_a_session_is_known_by_its_mark(ray_session: None) -> None:
    mark = f"REID_SWEEP={os.environ['REID_SWEEP']}".encode()
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])

    def ours(pid: int) -> bool:
        return pid in parents and (parents[pid] == os.getpid() or ours(parents[pid]))

    known = [mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in filter(ours, parents)]
    assert known.count(True) > 5
    assert known.count(False) == 1  # the process that waits to kill the others
