"""What runs next depends on what is in the store alone: not on timing, order or kills."""

import functools
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.planning import experiments
from pipeline.planning.experiments import Experiment, Row
from pipeline.planning.params import load
from pipeline.planning.plan import Plan, Trial, expand
from pipeline.planning.searches import Pruning, Search, Space
from pipeline.running.agenda import Agenda
from pipeline.storage.store import TrialStore

ROOT = Path(__file__).parents[3]


class Endless:
    """Room for every trial."""

    def fits(self, trial: Trial) -> bool:
        return True

    def size(self, trial: Trial) -> tuple[float, ...]:
        return ()


def planned(*wanted: Experiment) -> Plan:
    """Over two seeds, 8 epochs each."""
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0, 1)})
    demo = params.profiles["demo"]
    short = demo.model_copy(update={"overrides": {**demo.overrides, "recipe.schedule.epochs": 8}})
    params = params.model_copy(update={"profiles": {**params.profiles, "demo": short}})
    return expand(params, wanted, {"synthetic": {"val": "v", "test": "t"}})


@functools.cache
def searching(kind: str) -> Plan:
    """One of the searches below."""
    search = Search(**SEARCHES[kind])
    rows = [
        Row(label=f"{place}", method="bdb", winner=place if place > 1 else True) for place in range(1, search.top + 1)
    ]
    return planned(Experiment(name="s", title="S", metrics=("mAP",), rows=tuple(rows), search=search))


@pytest.fixture(scope="module")
def plan() -> Plan:
    """BDB's Table 2 and the search of the block's height: 10 + 6 + 2 trials."""
    return planned(*experiments.load(("bdb_table2", "bdb_block_height")))


HALVING = Pruning(start=0.25, factor=2)
HEIGHTS = Space(low=0.1, high=0.9, step=0.1)
SEARCHES = {
    "tpe and halving": {"space": {"model.rh": HEIGHTS}, "trials": 7, "pruning": HALVING, "top": 3, "lag": 2},
    "median, conditions and a first point": {
        "space": {
            "model.drop_pool": Space(choices=("max", "avg")),
            "model.rh": Space(low=0.1, high=0.9, when={"model.drop_pool": "max"}),
        },
        "trials": 8,
        "pruning": Pruning(kind="median", startup_trials=2, warm_up=0.25),
        "first": {"model.drop_pool": "max", "model.rh": 0.3},
        "lag": 3,
    },
    "grid": {
        "space": {"model.rh": Space(choices=(0.2, 0.4)), "model.rw": Space(choices=(1.0, 0.5))},
        "sampler": "grid",
    },
    "hours": {"space": {"model.rh": HEIGHTS}, "gpu_hours": 0.012, "lag": 2, "sampler": "random"},
    "two objectives": {
        "space": {"model.rh": HEIGHTS, "model.rw": HEIGHTS},
        "trials": 7,
        "objective": ("mAP", "step_seconds"),
        "top": 2,
        "startup_trials": 3,
    },
}


@pytest.fixture(scope="module", params=SEARCHES)
def any_plan(request: pytest.FixtureRequest) -> Plan:
    """Searches of every kind."""
    return searching(request.param)


@pytest.fixture(scope="module")
def expected(any_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What comes of the plan when nothing disturbs it."""
    return results(play(any_plan, TrialStore(tmp_path_factory.mktemp("undisturbed")), seed=0))


def level(trial: Trial) -> float:
    """Of a trial, from what is tuned alone: keys change with every change of the code."""
    config = trial.config
    tuned = f"{config.method} {[getattr(config.model, name, None) for name in ('rh', 'rw', 'drop_pool')]}"
    return zlib.crc32(f"{tuned} {config.seed} {config.evaluate_on}".encode()) / 2**32


def value(trial: Trial, epoch: int) -> float:
    """A learning curve."""
    return round(level(trial) * epoch / trial.config.recipe.schedule.epochs, 6)


def seconds(trial: Trial) -> float:
    """Of an epoch: 1 to 2."""
    return 1 + level(trial) * 7919 % 1


class KilledError(Exception):
    """The driver was killed."""


def play(plan: Plan, store: TrialStore, seed: int, *, slots: int = 2, steps: int = 10_000) -> Agenda:
    """A driver with instant epochs, in an order drawn from `seed`; killed after `steps` epochs."""
    agenda, generator = Agenda(plan, store), np.random.default_rng(seed)
    running: dict[str, tuple[Trial, int]] = {}
    while not agenda.finished():
        while len(running) < slots and (trial := agenda.next(Endless())) is not None:
            store.open(trial)
            running[trial.key] = trial, 0
        assert running, "the agenda waits for trials that nobody runs"
        trial, epoch = running.pop(sorted(running)[generator.integers(len(running))])
        steps -= 1
        if steps < 0:
            raise KilledError
        epoch += 1
        store.append_epoch(trial.key, {"epoch": epoch, "val/mAP": value(trial, epoch), **clock(trial)})
        status = "done" if epoch == trial.config.recipe.schedule.epochs else "running"
        if not agenda.goes_on(trial.key, epoch):
            status = "pruned"
        if status == "running":
            running[trial.key] = trial, epoch
        else:
            store.finish(trial.key, result(trial, status, epoch))
            agenda.ended(trial.key)
    return agenda


def clock(trial: Trial) -> dict[str, float]:
    return {"seconds": 10 * seconds(trial), "step_seconds": seconds(trial)}


def result(trial: Trial, status: str, epoch: int) -> dict[str, Any]:
    cost = {"seconds": seconds(trial) * epoch, "gpus": 0, "cpus": 1}
    return {"status": status, "metrics": {"mAP": value(trial, epoch)}, "epochs": epoch, "cost": cost}


def finished(store: TrialStore) -> set[str]:
    return set(filter(lambda key: store.state(key) == "done", store.keys()))


def results(agenda: Agenda) -> dict[str, object]:
    return {key: agenda.store.result(key) for key in agenda.declared}


def test_everything_declared_is_run_once(plan: Plan, tmp_path: Path) -> None:
    agenda = play(plan, TrialStore(tmp_path), seed=0)
    assert agenda.complete()
    assert len(agenda.searches[0].trials) == 6
    assert len(agenda.declared) >= 16
    assert agenda.next(Endless()) is None


def test_pruning_happens_and_a_pruned_trial_never_wins(plan: Plan, tmp_path: Path) -> None:
    agenda = play(plan, TrialStore(tmp_path), seed=0)
    run = agenda.searches[0]
    outcomes = agenda.outcomes(run)
    assert any(outcome.pruned for outcome in outcomes)
    assert not outcomes[run.best[0]].pruned
    assert outcomes[run.best[0]].values == max(outcome.values for outcome in outcomes if not outcome.pruned)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), slots=st.integers(1, 4))
def test_the_order_of_events_changes_nothing(
    any_plan: Plan, expected: dict[str, object], tmp_path_factory: pytest.TempPathFactory, seed: int, slots: int
) -> None:
    other = results(play(any_plan, TrialStore(tmp_path_factory.mktemp("two")), seed=seed, slots=slots))
    assert other == expected


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_kills_change_nothing(
    any_plan: Plan,
    expected: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[int],
    seed: int,
) -> None:
    store = TrialStore(tmp_path_factory.mktemp("two"))
    for number, steps in enumerate(kills):
        done = finished(store)
        try:
            play(any_plan, store, seed=seed + number, steps=steps)
        except KilledError:
            assert done <= finished(store)
    assert results(play(any_plan, store, seed=seed)) == expected


def test_a_finished_store_leaves_nothing_to_do(plan: Plan, tmp_path: Path) -> None:
    play(plan, TrialStore(tmp_path), seed=0)
    again = Agenda(plan, TrialStore(tmp_path))
    assert again.finished()
    assert again.complete()
    assert again.unfinished() == []


def test_a_failure_counts_as_ended_now_and_is_tried_again_next_time(plan: Plan, tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    agenda = Agenda(plan, store)
    trial = agenda.next(Endless())
    assert trial is not None
    store.open(trial)
    store.fail(trial.key, reason="out of memory")
    agenda.ended(trial.key)
    assert agenda.failed == {trial.key}
    assert trial not in agenda.unfinished()
    again = Agenda(plan, store)
    assert trial.key in {waiting.key for waiting in again.queued()}


# --- searches --------------------------------------------------------------------------------------------------------


class WatchedStore(TrialStore):
    """Notes whose numbers are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read: set[str] = set()

    def result(self, key: str) -> dict[str, Any]:
        self.read.add(key)
        return super().result(key)

    def epochs(self, key: str) -> list[dict[str, float]]:
        self.read.add(key)
        return super().epochs(key)


def test_no_number_of_the_test_split_can_reach_a_sampler(any_plan: Plan, tmp_path: Path) -> None:
    """By construction: what a search asks for is scored on held-out identities, and nothing else is ever looked at."""
    store = WatchedStore(tmp_path)
    agenda = play(any_plan, store, seed=0)
    asked = {trial.key: trial for run in agenda.searches for trial in run.trials}
    assert store.read <= set(asked)
    assert {trial.config.evaluate_on for trial in asked.values()} == {"val"}
    assert {trial.spec["data_digest"] for trial in asked.values()} == {"v"}
    assert {trial.config.evaluate_on for key, trial in agenda.declared.items() if key not in asked} == {"test"}


def test_the_best_of_a_search_are_trained_over_the_seeds_once_it_is_over(tmp_path: Path) -> None:
    agenda = play(searching("tpe and halving"), TrialStore(tmp_path), seed=0)
    (run,) = agenda.searches
    outcomes = agenda.outcomes(run)
    done = sorted((one.values[0] for one in outcomes if one.finished), reverse=True)
    assert [outcomes[number].values[0] for number in run.best] == done[:3]
    for number, trials in zip(run.best, run.final, strict=True):
        assert [trial.config.seed for trial in trials] == [0, 1]
        assert {vars(trial.config.model)["rh"] for trial in trials} == {run.params[number]["model.rh"]}
        assert all(agenda.store.state(trial.key) == "done" for trial in trials)


def test_hours_end_a_search_at_the_trial_that_sees_them_used_up(tmp_path: Path) -> None:
    """Oracle: the costs of the trials that the last one, and one more, would see, added up here."""
    agenda = play(searching("hours"), TrialStore(tmp_path), seed=0)
    (run,) = agenda.searches
    hours = [agenda.store.result(trial.key)["cost"]["seconds"] / 3600 for trial in run.trials]
    assert 3 < len(run.trials) < run.most
    assert sum(hours[:-2]) < 0.012 <= sum(hours[:-1])
    assert agenda.to_come() == 0
    assert agenda.complete()


def test_a_search_in_which_everything_fails_ends(tmp_path: Path) -> None:
    agenda = Agenda(searching("tpe and halving"), TrialStore(tmp_path))
    (run,) = agenda.searches
    assert agenda.to_come() == 7 - 2  # two run side by side
    while (trial := agenda.next(Endless())) is not None:
        agenda.store.open(trial)
        agenda.store.fail(trial.key, reason="no such device")
        agenda.ended(trial.key)
    assert agenda.complete()
    assert len(run.trials) == 4 + 1  # as many as are drawn at random, and what ran beside the last of them
    assert (run.best, run.final) == ([], [])


def test_a_trial_that_went_on_past_its_end_counts_as_it_was_there(tmp_path: Path) -> None:
    """A driver that is killed at the epoch at which a trial falls behind stops it when it is back, epochs later."""
    plan = searching("tpe and halving")
    agenda = play(plan, TrialStore(tmp_path / "one"), seed=0)
    (run,) = agenda.searches
    late = TrialStore(tmp_path / "two")
    for trial in run.trials:
        late.open(trial)
        whole = agenda.store.result(trial.key)
        overrun = whole["status"] == "pruned"
        for epoch in range(1, whole["epochs"] + 2 * overrun + 1):
            late.append_epoch(trial.key, {"epoch": epoch, "val/mAP": value(trial, epoch), **clock(trial)})
        late.finish(trial.key, result(trial, whole["status"], whole["epochs"] + 2 * overrun))
    again = Agenda(plan, late)
    (other,) = again.searches
    assert any(outcome.pruned for outcome in agenda.outcomes(run))
    assert [one.curve for one in again.outcomes(other)] == [one.curve for one in agenda.outcomes(run)]
    assert [one.values for one in again.outcomes(other)] == [one.values for one in agenda.outcomes(run)]
    assert other.best == run.best


# --- order, second attempts, and the end of a sweep that is told to end -----------------------------------------------


def drain(agenda: Agenda) -> list[str]:
    """The keys in the order in which they start when nothing ends."""
    return [trial.key for trial in iter(lambda: agenda.next(Endless()), None)]


def of_length(trial: Trial, epochs: int, *, method: str = "bdb") -> Trial:
    recipe = replace(trial.config.recipe, schedule=replace(trial.config.recipe.schedule, epochs=epochs))
    key = f"{epochs:02d}{method[0].encode().hex()}{trial.key[4:]}"
    return replace(trial, key=key, config=replace(trial.config, recipe=recipe, method=method))


def test_the_longest_start_first_and_equals_in_the_order_of_the_plan(plan: Plan, tmp_path: Path) -> None:
    some = [of_length(trial, 8) for trial in list(plan.trials.values())[:3]]
    short, long = of_length(some[0], 2), of_length(some[0], 30)
    assert drain(Agenda(alone(short, *some, long), TrialStore(tmp_path))) == [
        trial.key for trial in (long, *some, short)
    ]


def test_what_takes_long_is_learned_from_the_store(plan: Plan, tmp_path: Path) -> None:
    first = next(iter(plan.trials.values()))
    quick, slow = (of_length(first, epochs, method=method) for epochs, method in ((30, "bdb"), (10, "han")))
    was_quick, was_slow = (of_length(first, 40, method=method) for method in ("bdb", "han"))
    everything, store = alone(quick, slow, was_quick, was_slow), TrialStore(tmp_path)
    for trial, seconds in ((was_quick, 1.0), (was_slow, 9.0)):
        store.open(trial)
        store.append_epoch(trial.key, {"epoch": 1, "seconds": seconds})
        store.finish(trial.key, {"status": "done", "metrics": {}})
    assert drain(Agenda(everything, store)) == [slow.key, quick.key]  # 90 s before 30 s
    assert drain(Agenda(alone(quick, slow), store)) == [quick.key, slow.key]  # by epochs, for want of anything better


def test_searches_come_first(plan: Plan, tmp_path: Path) -> None:
    agenda = Agenda(plan, TrialStore(tmp_path))
    assert agenda.next(Endless()) == agenda.searches[0].trials[0]


def test_a_trial_that_is_run_again_comes_next(plan: Plan, tmp_path: Path) -> None:
    agenda = Agenda(plan, TrialStore(tmp_path))
    first, second = agenda.next(Endless()), agenda.next(Endless())
    assert first is not None
    assert second is not None
    agenda.again(second.key)
    assert agenda.running == {first.key}
    assert agenda.next(Endless()) == second


def test_a_closed_agenda_starts_nothing_and_is_finished_when_nothing_runs(plan: Plan, tmp_path: Path) -> None:
    agenda = Agenda(plan, TrialStore(tmp_path))
    trial = agenda.next(Endless())
    assert trial is not None
    agenda.close()
    assert agenda.next(Endless()) is None
    assert not agenda.finished()
    agenda.again(trial.key)
    assert agenda.next(Endless()) is None
    assert agenda.finished()
    assert not agenda.complete()
    assert trial in agenda.unfinished()


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
    assert agenda.next(Endless()) == trained
    assert agenda.keeps_weights(trained.key)
    assert agenda.next(Endless()) is None
    assert not agenda.finished()
    end(agenda, trained, weights=True)
    assert agenda.next(Endless()) == scored
    assert not agenda.keeps_weights(scored.key)
    end(agenda, scored)
    assert agenda.complete()
    assert Agenda(alone(trained, scored), TrialStore(tmp_path)).finished()


def test_a_network_that_was_not_kept_is_trained_again_once_it_is_asked_for(
    rescored: tuple[Trial, Trial], tmp_path: Path
) -> None:
    trained, scored = rescored
    first = Agenda(alone(trained), TrialStore(tmp_path))
    assert first.next(Endless()) == trained
    assert not first.keeps_weights(trained.key)
    end(first, trained)
    again = Agenda(alone(trained, scored), TrialStore(tmp_path))
    assert again.unfinished() == [trained, scored]
    assert again.next(Endless()) == trained
    again.store.weights(trained.key).write_bytes(b"trained")
    again.ended(trained.key)
    assert again.next(Endless()) == scored
    end(again, scored)
    assert again.complete()
    again.store.weights(trained.key).unlink()  # nothing asks for them any more
    assert Agenda(alone(trained, scored), TrialStore(tmp_path)).finished()


def test_damaged_weights_are_trained_again_before_they_are_scored_again(
    rescored: tuple[Trial, Trial], tmp_path: Path
) -> None:
    trained, scored = rescored
    agenda = Agenda(alone(trained, scored), TrialStore(tmp_path))
    assert agenda.next(Endless()) == trained
    end(agenda, trained, weights=True)
    assert agenda.next(Endless()) == scored
    agenda.again(scored.key)  # for another reason: the weights are still there
    assert agenda.next(Endless()) == scored
    agenda.store.weights(trained.key).unlink()
    agenda.again(scored.key)
    assert agenda.keeps_weights(trained.key)
    assert agenda.next(Endless()) == trained
    assert agenda.next(Endless()) is None
    agenda.store.weights(trained.key).write_bytes(b"trained")
    agenda.ended(trained.key)
    assert agenda.next(Endless()) == scored
    end(agenda, scored)
    assert agenda.complete()


def test_a_scoring_fails_with_what_it_scores(rescored: tuple[Trial, Trial], tmp_path: Path) -> None:
    trained, scored = rescored
    agenda = Agenda(alone(trained, scored), TrialStore(tmp_path))
    assert agenda.next(Endless()) == trained
    agenda.store.open(trained)
    agenda.store.fail(trained.key, reason="diverged")
    agenda.ended(trained.key)
    assert agenda.failed == {trained.key, scored.key}
    assert agenda.store.failure(scored.key)["reason"] == f"{trained.name}, whose network it scores, failed"
    assert agenda.finished()
    assert agenda.complete()
