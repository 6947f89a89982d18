"""Ray runs the agenda: successes, failures with their reason, retries; all tests share one session."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pipeline.running.execute import Work

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


def resources(
    store: TrialStore,
    data: Path,
    *,
    trial_seconds: float | None = None,
    silent_seconds: float | None = None,
    max_failures: int = 0,
    concurrent: int | None = 2,
) -> Resources:
    """`concurrent`: trials at a time; None: of machines that may grow in number."""
    from pipeline.running import execute

    return Resources(
        terms=Terms(
            store=store, data=InPlace(data), state_epochs=1, trial_seconds=trial_seconds, silent_seconds=silent_seconds
        ),
        shares=Shares(SHARE, {"wide": WIDE}),
        machines=Machines(execute.machines(), concurrent, execute.machines if concurrent is None else None),
        max_failures=max_failures,
    )


def run(
    trials: list[Trial],
    store: TrialStore,
    data: Path,
    *,
    work: "Work | None" = None,
    max_failures: int = 0,
    trial_seconds: float | None = None,
    silent_seconds: float | None = None,
    concurrent: int = 2,
) -> tuple[Agenda, Notes]:
    from pipeline.running import execute

    agenda, notes = Agenda(planned(trials), store), Notes()
    limits = {"trial_seconds": trial_seconds, "silent_seconds": silent_seconds}
    share = resources(store, data, max_failures=max_failures, concurrent=concurrent, **limits)
    with Interrupts(exit_code=3) as interrupts:
        execute.execute(agenda, share, [notes], interrupts, work or execute.run)
    return agenda, notes


def test_trials_of_two_shares_share_the_machine(ray_session: None, data: Path, tmp_path: Path) -> None:
    """On two cores: one that takes both, and those that take one each; workers are used again by their own kind."""
    trials, store = [trial(seed) for seed in (0, 1, 2, 3, 4, 6)], TrialStore(tmp_path / "trials")
    agenda, _ = run(trials, store, data)
    assert agenda.complete()
    assert not agenda.failed
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


def test_trials_run_and_listeners_hear_of_it(ray_session: None, data: Path, tmp_path: Path) -> None:
    trials, store = [trial(seed) for seed in range(3)], TrialStore(tmp_path / "trials")
    agenda, notes = run(trials, store, data)
    assert agenda.complete()
    assert not agenda.failed
    for item in trials:
        heard = [what for what, key in notes.events if key == item.key]
        assert heard == ["started", "epoch 1", "epoch 2", "done"]
        result = store.result(item.key)
        assert result["epochs"] == 2
        assert 0 < result["metrics"]["mAP"] <= 1
        assert len(store.per_query(item.key)["average_precision"]) > 0  # type: ignore[index]
        assert not (store.folder(item.key) / "state.safetensors").exists()
        (attempt,) = store.attempts(item.key)
        assert (attempt["from_epoch"], attempt["outcome"]) == (0, "done")
    assert not (store.root / ".tune").exists()


def test_a_trial_that_raises_is_failed_with_its_reason_and_the_others_go_on(
    ray_session: None, data: Path, tmp_path: Path
) -> None:
    bad, good = trial(rh=1.0), trial()
    store = TrialStore(tmp_path / "trials")
    agenda, notes = run([bad, good], store, data)
    assert agenda.complete()
    assert agenda.failed == {bad.key}
    assert "covers all of" in store.failure(bad.key)["reason"]
    assert "drop.py" in store.failure(bad.key)["detail"]
    assert store.state(good.key) == "done"
    assert ("failed", bad.key) in notes.events


def test_divergence_is_not_tried_again(ray_session: None, data: Path, tmp_path: Path) -> None:
    wild = trial()
    recipe = replace(RECIPE, schedule=Schedule(epochs=2, peak_lr=1e36))
    wild = make_trial(replace(wild.config, recipe=recipe), "synthetic", DIGESTS)
    store = TrialStore(tmp_path / "trials")
    agenda, notes = run([wild], store, data, max_failures=2)
    assert agenda.failed == {wild.key}
    assert store.failure(wild.key)["reason"].startswith("diverged: the loss is nan in epoch 1")
    assert [what for what, _ in notes.events].count("started") == 1


def test_an_interrupted_trial_goes_on_from_its_state(ray_session: None, data: Path, tmp_path: Path) -> None:
    whole = TrialStore(tmp_path / "whole")
    item = trial()
    run([item], whole, data)
    store = TrialStore(tmp_path / "trials")
    store.open(item)
    _leave_a_state(item, store, data)
    agenda, notes = run([item], store, data, max_failures=1)
    assert agenda.complete()
    assert [what for what, _ in notes.events] == ["started", "epoch 2", "done"]
    assert store.result(item.key)["metrics"] == whole.result(item.key)["metrics"]


def test_a_network_is_scored_on_another_data_set_and_by_another_protocol(
    ray_session: None, data: Path, tmp_path: Path
) -> None:
    trained, store = trial(), TrialStore(tmp_path / "trials")
    across = scored(trained, trained.config.recipe.protocol, "market1501", DIGESTS)
    by_cosine = scored(trained, Protocol(distance="cosine"), "synthetic", DIGESTS)
    agenda, notes = run([across, by_cosine, trained], store, data)
    assert agenda.complete()
    assert not agenda.failed
    assert [what for what, key in notes.events if key == across.key] == ["started", "done"]
    own, there = store.result(trained.key)["metrics"], store.result(across.key)["metrics"]
    assert there == own  # the other data set is a copy of its own
    assert store.result(by_cosine.key)["metrics"]["mAP"] != own["mAP"]
    assert len(store.per_query(across.key)["global/average_precision"]) > 0  # type: ignore[index]
    assert store.result(across.key)["epochs"] == 0


def test_a_network_that_was_damaged_is_trained_again_before_it_is_scored(
    ray_session: None, data: Path, tmp_path: Path
) -> None:
    trained, store = trial(), TrialStore(tmp_path / "trials")
    across = scored(trained, trained.config.recipe.protocol, "market1501", DIGESTS)
    run([trained, across], store, data)
    before = store.result(across.key)["metrics"]
    weights = store.weights(trained.key)
    weights.write_bytes(weights.read_bytes()[:-9])
    (store.folder(across.key) / "DONE").unlink()
    agenda, _ = run([trained, across], store, data, max_failures=1)
    assert agenda.complete()
    assert [attempt["outcome"] for attempt in store.attempts(across.key)] == ["done", "again", "done"]
    assert "weights.safetensors is damaged" in store.attempts(across.key)[1]["reason"]
    assert [attempt["outcome"] for attempt in store.attempts(trained.key)] == ["done", "done"]
    assert store.folder(trained.key).joinpath("weights.damaged.safetensors").exists()
    assert store.result(across.key)["metrics"] == before


def test_a_used_worker_is_as_good_as_a_new_one(ray_session: None, data: Path, tmp_path: Path) -> None:
    config = TrialConfig(method="agw", model=methods.config("agw"), recipe=RECIPE, seed=3)
    pair = [trial(1), make_trial(config, "synthetic", DIGESTS)]
    used = TrialStore(tmp_path / "used")
    run(pair, used, data, concurrent=1)
    assert len({used.attempts(item.key)[0]["pid"] for item in pair}) == 1
    second, new = pair[1], TrialStore(tmp_path / "new")
    run([second], new, data)
    assert new.result(second.key)["metrics"] == used.result(second.key)["metrics"]
    losses = [[line["loss"] for line in store.epochs(second.key)] for store in (new, used)]
    assert losses[0] == losses[1]


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
