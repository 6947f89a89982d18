"""What runs next depends on what is in the store alone: not on timing, order or kills."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import experiments
from pipeline.agenda import Agenda
from pipeline.experiments import Experiment, Row
from pipeline.params import load
from pipeline.plan import Plan, Trial, expand
from pipeline.store import TrialStore

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def plan() -> Plan:
    """BDB's Table 2 and the block-height search over two seeds: 10 + 6 + 2 trials, 8 epochs each."""
    params = load(ROOT / "params.yaml").model_copy(
        update={"seeds": (0, 1), "experiments": ("bdb_table2", "bdb_block_height")}
    )
    demo = params.profiles["demo"]
    short = demo.model_copy(update={"overrides": {**demo.overrides, "recipe.schedule.epochs": 8}})
    params = params.model_copy(update={"profiles": {**params.profiles, "demo": short}})
    return expand(params, experiments.load(params.experiments), {"synthetic": {"val": "v", "test": "t"}})


def value(trial: Trial, epoch: int) -> float:
    """A learning curve of a trial that depends on what is tuned alone: keys change with every change of the code."""
    config = trial.config
    tuned = f"{config.method} {getattr(config.model, 'rh', None)} {config.seed} {config.evaluate_on}"
    level = zlib.crc32(tuned.encode()) / 2**32
    return round(level * epoch / trial.config.recipe.schedule.epochs, 6)


class KilledError(Exception):
    """The driver was killed."""


def play(plan: Plan, store: TrialStore, seed: int, *, slots: int = 2, steps: int = 10_000) -> Agenda:
    """A driver with instant epochs, in an order drawn from `seed`; killed after `steps` epochs."""
    agenda, generator = Agenda(plan, store), np.random.default_rng(seed)
    running: dict[str, tuple[Trial, int]] = {}
    while not agenda.finished():
        while len(running) < slots and (trial := agenda.next()) is not None:
            store.open(trial)
            running[trial.key] = trial, 0
        assert running, "the agenda waits for trials that nobody runs"
        trial, epoch = running.pop(sorted(running)[generator.integers(len(running))])
        steps -= 1
        if steps < 0:
            raise KilledError
        epoch += 1
        store.append_epoch(trial.key, {"epoch": epoch, "val/mAP": value(trial, epoch)})
        status = "done" if epoch == trial.config.recipe.schedule.epochs else "running"
        if not agenda.goes_on(trial.key, epoch):
            status = "pruned"
        if status == "running":
            running[trial.key] = trial, epoch
        else:
            store.finish(trial.key, {"status": status, "metrics": {"mAP": value(trial, epoch)}})
            agenda.ended(trial.key)
    return agenda


def finished(store: TrialStore) -> set[str]:
    return set(filter(lambda key: store.state(key) == "done", store.keys()))


def results(agenda: Agenda) -> dict[str, object]:
    return {key: agenda.store.result(key) for key in agenda.declared}


def test_everything_declared_is_run_once(plan: Plan, tmp_path: Path) -> None:
    agenda = play(plan, TrialStore(tmp_path), seed=0)
    assert agenda.complete()
    assert len(agenda.searches[0].trials) == 6
    assert len(agenda.declared) >= 16
    assert agenda.next() is None


def test_pruning_happens_and_a_pruned_trial_never_wins(plan: Plan, tmp_path: Path) -> None:
    agenda = play(plan, TrialStore(tmp_path), seed=0)
    run = agenda.searches[0]
    outcomes = agenda.outcomes(run)
    assert any(outcome.pruned for outcome in outcomes)
    assert run.winner is not None
    assert not outcomes[run.winner].pruned


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), slots=st.integers(1, 4))
def test_the_order_of_events_changes_nothing(
    plan: Plan, tmp_path_factory: pytest.TempPathFactory, seed: int, slots: int
) -> None:
    expected = results(play(plan, TrialStore(tmp_path_factory.mktemp("one")), seed=0))
    other = results(play(plan, TrialStore(tmp_path_factory.mktemp("two")), seed=seed, slots=slots))
    assert other == expected


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_kills_change_nothing(
    plan: Plan, tmp_path_factory: pytest.TempPathFactory, kills: list[int], seed: int
) -> None:
    expected = results(play(plan, TrialStore(tmp_path_factory.mktemp("one")), seed=0))
    store = TrialStore(tmp_path_factory.mktemp("two"))
    for number, steps in enumerate(kills):
        done = finished(store)
        try:
            play(plan, store, seed=seed + number, steps=steps)
        except KilledError:
            assert done <= finished(store)
    assert results(play(plan, store, seed=seed)) == expected


def test_a_finished_store_leaves_nothing_to_do(plan: Plan, tmp_path: Path) -> None:
    play(plan, TrialStore(tmp_path), seed=0)
    again = Agenda(plan, TrialStore(tmp_path))
    assert again.finished()
    assert again.complete()
    assert again.unfinished() == []


def test_a_failure_counts_as_ended_now_and_is_tried_again_next_time(plan: Plan, tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    agenda = Agenda(plan, store)
    trial = agenda.next()
    assert trial is not None
    store.open(trial)
    store.fail(trial.key, reason="out of memory")
    agenda.ended(trial.key)
    assert agenda.failed == {trial.key}
    assert trial not in agenda.unfinished()
    again = Agenda(plan, store)
    assert trial.key in {waiting.key for waiting in again.queued()}


# --- scoring what another trial has trained --------------------------------------------------------------------------


@pytest.fixture
def rescored() -> tuple[Trial, Trial]:
    """A trial, and another scoring of its network."""
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0,)})
    row = Row(label="re-ranked", method="bdb", overrides={"recipe.protocol.rerank": True})
    again = Experiment(name="again", title="Again", metrics=("mAP",), rows=(row,))
    found = expand(params, [again], {"synthetic": {"val": "v", "test": "t"}})
    trained, scored = found.trials.values()
    return trained, scored


def alone(*trials: Trial) -> Plan:
    return Plan(experiments=(), trials={trial.key: trial for trial in trials}, searches=())


def end(agenda: Agenda, trial: Trial, *, weights: bool = False) -> None:
    agenda.store.open(trial)
    if weights:
        agenda.store.weights(trial.key).write_bytes(b"trained")
    agenda.store.finish(trial.key, {"status": "done", "metrics": {}})
    agenda.ended(trial.key)


def test_a_scoring_starts_when_its_network_is_trained(rescored: tuple[Trial, Trial], tmp_path: Path) -> None:
    trained, scored = rescored
    agenda = Agenda(alone(scored), TrialStore(tmp_path))  # what it is built on need not be in the plan
    assert set(agenda.declared) == {trained.key, scored.key}
    assert agenda.next() == trained
    assert agenda.keeps_weights(trained.key)
    assert agenda.next() is None
    assert not agenda.finished()
    end(agenda, trained, weights=True)
    assert agenda.next() == scored
    assert not agenda.keeps_weights(scored.key)
    end(agenda, scored)
    assert agenda.complete()
    assert Agenda(alone(trained, scored), TrialStore(tmp_path)).finished()


def test_a_network_that_was_not_kept_is_trained_again_once_it_is_asked_for(
    rescored: tuple[Trial, Trial], tmp_path: Path
) -> None:
    trained, scored = rescored
    first = Agenda(alone(trained), TrialStore(tmp_path))
    assert first.next() == trained
    assert not first.keeps_weights(trained.key)
    end(first, trained)
    again = Agenda(alone(trained, scored), TrialStore(tmp_path))
    assert again.unfinished() == [trained, scored]
    assert again.next() == trained
    again.store.weights(trained.key).write_bytes(b"trained")
    again.ended(trained.key)
    assert again.next() == scored
    end(again, scored)
    assert again.complete()
    again.store.weights(trained.key).unlink()  # nothing asks for them any more
    assert Agenda(alone(trained, scored), TrialStore(tmp_path)).finished()


def test_a_scoring_fails_with_what_it_scores(rescored: tuple[Trial, Trial], tmp_path: Path) -> None:
    trained, scored = rescored
    agenda = Agenda(alone(trained, scored), TrialStore(tmp_path))
    assert agenda.next() == trained
    agenda.store.open(trained)
    agenda.store.fail(trained.key, reason="diverged")
    agenda.ended(trained.key)
    assert agenda.failed == {trained.key, scored.key}
    assert agenda.store.failure(scored.key)["reason"] == f"{trained.name}, whose network it scores, failed"
    assert agenda.finished()
    assert agenda.complete()
