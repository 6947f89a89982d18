"""A search is a function of what earlier trials found: repeatable, distinct points, honest stopping."""

import importlib.util
import itertools
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.search import (
    Outcome,
    gpu_hours,
    most,
    pareto_front,
    points,
    propose,
    ranking,
    stopped_at,
    wants_more,
)
from pipeline.planning.searches import SECONDS, Pruning, Search, Space, Value

HEIGHT = Search(
    space={"model.rh": Space(low=0.1, high=0.6, step=0.1)},
    trials=6,
    lag=2,
    startup_trials=2,
    pruning=Pruning(start=0.5, factor=2),
)


def outcome(height: float, value: float | None, *, pruned: bool = False, epochs: int = 4) -> Outcome:
    curve = {epoch: (value or 0.0) * epoch / epochs for epoch in range(1, epochs + 1)}
    values = () if value is None else (value,)
    return Outcome(params={"model.rh": height}, values=values, curve=curve, pruned=pruned, hours=0.5)


def run(search: Search, score: dict[float, float]) -> list[float]:
    """The whole search with instant trials: the points it asks for, in order."""
    outcomes: list[Outcome] = []
    for number in range(most(search)):
        seen = outcomes[: max(0, number - search.lag + 1)]
        params = propose(search, number, seen=seen, taken=[item.params for item in outcomes])
        outcomes.append(outcome(params["model.rh"], score[params["model.rh"]]))
    return [item.params["model.rh"] for item in outcomes]


SCORE = {0.1: 0.4, 0.2: 0.5, 0.3: 0.7, 0.4: 0.6, 0.5: 0.3, 0.6: 0.2}


def test_the_same_outcomes_ask_for_the_same_points() -> None:
    assert run(HEIGHT, SCORE) == run(HEIGHT, SCORE)


def test_no_point_is_asked_for_twice_while_there_are_new_ones() -> None:
    assert sorted(run(HEIGHT, SCORE)) == sorted(SCORE)  # and without rounding errors: 0.3, as a row says it


def test_a_trial_sees_nothing_later_than_its_lag() -> None:
    first, second = (propose(HEIGHT, number, seen=[], taken=[]) for number in (0, 1))
    assert first != second or propose(HEIGHT, 1, seen=[], taken=[first]) != first


def test_tpe_prefers_the_neighbourhood_of_what_was_good() -> None:
    wide = Search(space={"model.rh": Space(low=0.0, high=1.0)}, trials=40, startup_trials=5)
    seen = [outcome(index / 20, 1 - abs(index / 20 - 0.8)) for index in range(20)]
    points = [propose(wide, number, seen=seen, taken=[])["model.rh"] for number in range(20, 30)]
    assert sum(0.6 < point <= 1.0 for point in points) >= 7


def bowl(point: Mapping[str, Value]) -> float:
    """Best at a height of 0.7 and a width of 0.2."""
    return 1 - (float(point["model.rh"]) - 0.7) ** 2 - (float(point["model.rw"]) - 0.2) ** 2  # type: ignore[arg-type]


def test_cmaes_closes_in_on_an_optimum_and_repeats_exactly_from_the_outcomes_alone() -> None:
    space = {"model.rh": Space(low=0.0, high=1.0), "model.rw": Space(low=0.0, high=1.0)}
    search = Search(space=space, trials=60, startup_trials=4, sampler="cmaes", lag=2)
    outcomes: list[Outcome] = []
    for number in range(60):
        seen, taken = outcomes[: max(0, number - 1)], [item.params for item in outcomes]
        params = propose(search, number, seen=seen, taken=taken)
        assert params == propose(search, number, seen=seen, taken=taken)
        outcomes.append(Outcome(params=params, values=() if number == 9 else (bowl(params),), curve={}))
    found = [bowl(item.params) for item in outcomes]
    assert statistics.fmean(found[-15:]) > statistics.fmean(found[:15]) + 0.1
    assert len({tuple(item.params.values()) for item in outcomes}) == 60


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.rh": Space(low=0.0, high=1.0)}, "the sampler cmaes needs two settings or more"),
        (
            {"model.rh": Space(low=0.0, high=1.0), "model.drop_op": Space(choices=("dropout", "dropblock"))},
            "the sampler cmaes takes numbers without conditions alone, not model.drop_op",
        ),
    ],
)
def test_cmaes_refuses_what_it_cannot_search(space: dict[str, Space], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Search(space=space, trials=9, sampler="cmaes")


def losses(outcomes: list[Outcome]) -> dict[int, tuple[float, ...]]:
    """More of the first objective is better, less of the others."""
    return {
        number: (-item.values[0], *item.values[1:])
        for number, item in enumerate(outcomes)
        if item.values and not item.pruned
    }


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=6), st.data())
def test_the_best_is_the_best_finished_trial(values: list[float | None], data: st.DataObject) -> None:
    pruned = [data.draw(st.booleans()) for _ in values]
    outcomes = [outcome(n / 10, value, pruned=cut) for n, (value, cut) in enumerate(zip(values, pruned, strict=True))]
    found = ranking(HEIGHT, outcomes)
    eligible = [n for n, (value, cut) in enumerate(zip(values, pruned, strict=True)) if value is not None and not cut]
    assert found == sorted(eligible, key=lambda n: (-values[n], n))  # type: ignore[operator]


def test_a_point_is_ranked_once() -> None:
    outcomes = [outcome(0.1, 0.5), outcome(0.3, 0.6), outcome(0.1, 0.55), outcome(0.2, 0.4)]
    assert ranking(HEIGHT, outcomes) == [1, 2, 3]


# --- several objectives ----------------------------------------------------------------------------------------------

BOTH = Search(space={"model.rh": Space(low=0.0, high=1.0)}, trials=20, objective=("mAP", SECONDS))


def measured(values: list[tuple[float, float]]) -> list[Outcome]:
    return [Outcome({"model.rh": n / 100}, pair, {}) for n, pair in enumerate(values)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_the_front_is_what_nothing_beats(values: list[tuple[int, int]]) -> None:
    """Oracle: Optuna's own front of a study with these values."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    for pair in values:
        study.add_trial(optuna.trial.create_trial(values=list(pair)))
    assert pareto_front(losses(measured(values))) == sorted(trial.number for trial in study.best_trials)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_winner_has_the_best_metric_and_the_next_are_the_rest_of_the_front(values: list[tuple[int, int]]) -> None:
    outcomes = measured(values)
    found = ranking(BOTH, outcomes)
    assert sorted(found) == list(range(len(values)))
    best = max(value for value, _ in values)
    quickest = min(time for value, time in values if value == best)
    assert outcomes[found[0]].values == (best, quickest)
    front = pareto_front(losses(outcomes))
    assert sorted(found[: len(front)]) == front
    assert [outcomes[n].values[0] for n in found[: len(front)]] == sorted((values[n][0] for n in front), reverse=True)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_a_sampler_with_two_objectives_spreads_between_them(sampler: str) -> None:
    """More is better to the right and dearer there: every point is a compromise, and none is asked for twice."""
    search = BOTH.model_copy(update={"sampler": sampler, "startup_trials": 6})
    outcomes: list[Outcome] = []
    for number in range(8):
        params = propose(search, number, seen=outcomes, taken=[item.params for item in outcomes])
        height = float(params["model.rh"])  # type: ignore[arg-type]
        outcomes.append(Outcome(params, (height, 1 + height), {}))
    assert len(ranking(search, outcomes)) == 8
    assert propose(search, 8, seen=outcomes, taken=[]) == propose(search, 8, seen=outcomes, taken=[])


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_a_search_ends_with_its_points() -> None:
    assert most(HEIGHT.model_copy(update={"trials": 100})) == 6
    assert most(HEIGHT.model_copy(update={"trials": 4})) == 4
    free = Search(space={"model.rh": Space(low=0.0, high=1.0), "recipe.x": Space(choices=(1, 2))}, trials=100)
    assert most(free) == 100
    whole = Search(space={"recipe.x": Space(low=1, high=3), "recipe.y": Space(choices=("a", "b"))}, gpu_hours=1.0)
    assert most(whole) == 6
    assert most(free.model_copy(update={"trials": None, "gpu_hours": 1.0})) == 10_000


def test_hours_end_a_search_when_the_trials_that_it_sees_have_used_them() -> None:
    search = HEIGHT.model_copy(update={"gpu_hours": 2.0})
    assert wants_more(search, [outcome(0.1, 0.5)] * 3)
    assert not wants_more(search, [outcome(0.1, 0.5)] * 4)
    assert wants_more(HEIGHT, [outcome(0.1, 0.5)] * 4)
    assert not wants_more(search, [outcome(0.1, 0.5), *[outcome(0.1, None)] * 3])  # a failure counts as the mean
    assert wants_more(search, [outcome(0.1, 0.5, pruned=True), *[outcome(0.1, None)] * 2])


def test_a_search_in_which_everything_fails_ends() -> None:
    assert wants_more(HEIGHT, [])
    assert wants_more(HEIGHT, [outcome(0.1, None)])
    assert not wants_more(HEIGHT, [outcome(0.1, None)] * HEIGHT.startup_trials)
    assert wants_more(HEIGHT, [outcome(0.1, 0.5, pruned=True), outcome(0.1, None)])


def test_hours_are_those_of_the_share_of_a_machine() -> None:
    assert gpu_hours(seconds=7200, gpus=0.25, cpus=4) == 0.5
    assert gpu_hours(seconds=1800, gpus=0, cpus=2) == 1.0


# --- stopping early --------------------------------------------------------------------------------------------------


def test_the_last_at_a_rung_is_stopped_and_the_best_goes_on() -> None:
    seen = [outcome(0.1, 0.6), outcome(0.2, 0.7)]
    assert stopped_at(HEIGHT, {1: 0.0, 2: 0.05}, epochs=4, seen=seen) == 2
    assert stopped_at(HEIGHT, {1: 0.3, 2: 0.6}, epochs=4, seen=seen) is None


def test_a_trial_that_went_on_past_its_end_still_fell_behind_where_it_did() -> None:
    seen = [outcome(0.1, 0.6), outcome(0.2, 0.7)]
    assert stopped_at(HEIGHT, {1: 0.0, 2: 0.05, 3: 0.9, 4: 0.9}, epochs=4, seen=seen) == 2


def test_nothing_is_stopped_between_rungs_at_its_end_or_without_pruning() -> None:
    seen = [outcome(0.1, 0.6), outcome(0.2, 0.7)]
    assert stopped_at(HEIGHT, {1: 0.0}, epochs=4, seen=seen) is None
    assert stopped_at(HEIGHT, {1: 0.0, 2: 0.0}, epochs=2, seen=seen) == 1  # the rung is 1 there
    assert stopped_at(HEIGHT, {1: 0.9, 2: 0.0}, epochs=2, seen=seen) is None
    free = HEIGHT.model_copy(update={"pruning": None})
    assert stopped_at(free, {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}, epochs=4, seen=seen) is None


CURVES = st.lists(st.integers(0, 9), min_size=8, max_size=8)
RULES = [
    (Pruning(start=0.25, factor=2), optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)),
    (Pruning(start=0.1, factor=3), optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)),
    (
        Pruning(kind="median", startup_trials=2, warm_up=0.4),
        optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3),
    ),
    (
        Pruning(kind="median", startup_trials=1, warm_up=0.0),
        optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
    ),
]


@pytest.mark.parametrize(("rule", "pruner"), RULES, ids=["halving", "thirds", "median", "median from the start"])
@settings(max_examples=60, deadline=None)
@given(curves=st.lists(CURVES, max_size=6), own=CURVES)
def test_stopping_is_optuna_s(
    rule: Pruning, pruner: optuna.pruners.BasePruner, curves: list[list[int]], own: list[int]
) -> None:
    """Oracle: Optuna's pruners, told of the trials one by one as they would run; eight epochs each."""
    search = HEIGHT.model_copy(update={"pruning": rule})
    study = optuna.create_study(direction="maximize", pruner=pruner)
    seen: list[Outcome] = []
    for curve in [*curves, own]:
        trial, shown = study.ask(), dict[int, float]()
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
            shown[epoch] = float(value)
            behind = trial.should_prune() and epoch < 8
            assert stopped_at(search, shown, epochs=8, seen=seen) == (epoch if behind else None)
            if behind:
                break
        study.tell(trial, None if behind else curve[-1], state=optuna.trial.TrialState.PRUNED if behind else None)
        seen.append(Outcome({}, (shown[max(shown)],), shown, pruned=behind))


# --- what is asked for -----------------------------------------------------------------------------------------------

CONDITIONAL = {
    "model.rule": Space(choices=("max", "top", "none")),
    "model.alpha": Space(low=0.1, high=0.9, step=0.2, when={"model.rule": "max"}),
    "model.share": Space(low=1, high=3, when={"model.rule": ("max", "top")}),
    "model.deep": Space(choices=(1, 2), when={"model.share": (2, 3), "model.rule": "top"}),
}


def sound(point: dict[str, object]) -> bool:
    """Oracle: which settings a point of the conditional space has."""
    rule, share = point["model.rule"], point.get("model.share")
    wanted = {"model.rule": True, "model.alpha": rule == "max", "model.share": rule != "none"}
    wanted["model.deep"] = rule == "top" and share in (2, 3)
    return {path for path, there in wanted.items() if there} == set(point)


def test_all_points_of_a_conditional_space() -> None:
    found = list(points(CONDITIONAL))
    assert all(map(sound, found))
    assert len(found) == 5 * 3 + (1 + 2 + 2) + 1
    assert all(found.count(point) == 1 for point in found)
    assert {point["model.alpha"] for point in found if "model.alpha" in point} == {0.1, 0.3, 0.5, 0.7, 0.9}


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "gp"])
def test_a_setting_is_asked_for_only_where_its_condition_holds(sampler: str) -> None:
    whole = CONDITIONAL["model.share"].model_copy(update={"step": 1})
    search = Search(space=CONDITIONAL | {"model.share": whole}, trials=14, sampler=sampler, startup_trials=4)
    outcomes: list[Outcome] = []
    for number in range(14):
        params = propose(search, number, seen=outcomes, taken=[item.params for item in outcomes])
        assert sound(params)
        assert all(search.space[path].holds(value) for path, value in params.items())
        outcomes.append(Outcome(params, (math.sin(number),), {1: math.sin(number)}))
    assert len({str(item.params) for item in outcomes}) == 14


def test_a_grid_is_walked_from_the_first_point() -> None:
    space = {"model.rh": Space(low=0.1, high=0.3, step=0.1), "model.pool": Space(choices=("max", "avg"))}
    first = {"model.rh": 0.2, "model.pool": "avg"}
    search = Search(space=space, sampler="grid", first=first)
    found = [propose(search, number, seen=[], taken=[]) for number in range(most(search))]
    assert found[0] == first
    grid = [{"model.rh": h, "model.pool": p} for h, p in itertools.product((0.1, 0.2, 0.3), ("max", "avg"))]
    assert sorted(map(str, found)) == sorted(map(str, grid))
    assert most(search.model_copy(update={"trials": 3})) == 3


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_the_first_point_is_tried_first(sampler: str) -> None:
    search = HEIGHT.model_copy(update={"first": {"model.rh": 0.3}, "sampler": sampler})
    assert propose(search, 0, seen=[], taken=[]) == {"model.rh": 0.3}
    assert propose(search, 1, seen=[], taken=[{"model.rh": 0.3}]) != {"model.rh": 0.3}


def test_steps_that_do_not_reach_the_end_stop_before_it() -> None:
    search = Search(space={"model.rh": Space(low=0.1, high=0.9, step=0.3)}, trials=9)
    found = [propose(search, number, seen=[], taken=[])["model.rh"] for number in range(9)]
    assert set(found) <= {0.1, 0.4, 0.7}
    assert [point["model.rh"] for point in points(search.space)] == [0.1, 0.4, 0.7]


def test_a_gaussian_process_prefers_the_neighbourhood_of_what_was_good() -> None:
    wide = Search(space={"model.rh": Space(low=0.0, high=1.0)}, trials=40, startup_trials=5, sampler="gp")
    seen = [outcome(index / 10, 1 - abs(index / 10 - 0.8)) for index in range(10)]
    found = [propose(wide, number, seen=seen, taken=[])["model.rh"] for number in (10, 11)]
    assert all(0.6 < float(point) <= 1.0 for point in found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "space", [Space(low=1, high=32, log=True), Space(choices=("a", "b")), Space(low=1e-4, high=1.0, log=True)]
)
def test_every_kind_of_space_gives_allowed_values(space: Space) -> None:
    search = Search(space={"recipe.x": space}, trials=10)
    for number in range(10):
        value = propose(search, number, seen=[], taken=[])["recipe.x"]
        if space.choices is not None:
            assert value in space.choices
        else:
            assert isinstance(value, type(space.low))
            assert space.low <= value <= space.high


def test_tpe_and_halving_need_at_most_half_of_random_search_s_epochs() -> None:
    """To be as good as the best of its 60 trials, on a planted optimum: the median over ten seeds."""
    place = Path(__file__).parents[3] / "benchmarks" / "search.py"
    spec = importlib.util.spec_from_file_location("search_benchmark", place)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    shares = [benchmark.share_of_epochs(benchmark.GUIDED, seed) for seed in range(10)]
    assert statistics.median(shares) <= 0.5
