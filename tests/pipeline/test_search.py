"""A search is a function of what earlier trials found: repeatable, distinct points, honest stopping."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiments import Pruning, Search, Space
from pipeline.search import Outcome, propose, should_stop, winner

HEIGHT = Search(
    space={"model.rh": Space(low=0.1, high=0.6, step=0.1)},
    trials=6,
    lag=2,
    startup_trials=2,
    pruning=Pruning(start=0.5, factor=2),
)


def outcome(height: float, value: float | None, *, pruned: bool = False, epochs: int = 4) -> Outcome:
    curve = {epoch: (value or 0.0) * epoch / epochs for epoch in range(1, epochs + 1)}
    return Outcome(params={"model.rh": height}, value=value, curve=curve, pruned=pruned)


def run(search: Search, score: dict[float, float]) -> list[float]:
    """The whole search with instant trials: the points it asks for, in order."""
    outcomes: list[Outcome] = []
    for number in range(search.trials):
        seen = outcomes[: max(0, number - search.lag + 1)]
        params = propose(search, number, seen=seen, taken=[item.params for item in outcomes])
        outcomes.append(outcome(params["model.rh"], score[round(params["model.rh"], 1)]))
    return [item.params["model.rh"] for item in outcomes]


SCORE = {0.1: 0.4, 0.2: 0.5, 0.3: 0.7, 0.4: 0.6, 0.5: 0.3, 0.6: 0.2}


def test_the_same_outcomes_ask_for_the_same_points() -> None:
    assert run(HEIGHT, SCORE) == run(HEIGHT, SCORE)


def test_no_point_is_asked_for_twice_while_there_are_new_ones() -> None:
    assert sorted(round(point, 1) for point in run(HEIGHT, SCORE)) == sorted(SCORE)


def test_a_trial_sees_nothing_later_than_its_lag() -> None:
    first, second = (propose(HEIGHT, number, seen=[], taken=[]) for number in (0, 1))
    assert first != second or propose(HEIGHT, 1, seen=[], taken=[first]) != first


def test_tpe_prefers_the_neighbourhood_of_what_was_good() -> None:
    wide = Search(space={"model.rh": Space(low=0.0, high=1.0)}, trials=40, startup_trials=5)
    seen = [outcome(index / 20, 1 - abs(index / 20 - 0.8)) for index in range(20)]
    points = [propose(wide, number, seen=seen, taken=[])["model.rh"] for number in range(20, 30)]
    assert sum(0.6 < point <= 1.0 for point in points) >= 7


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=6), st.data())
def test_the_winner_is_the_best_finished_trial(values: list[float | None], data: st.DataObject) -> None:
    pruned = [data.draw(st.booleans()) for _ in values]
    outcomes = [outcome(0.3, value, pruned=cut) for value, cut in zip(values, pruned, strict=True)]
    eligible = [value for value, cut in zip(values, pruned, strict=True) if value is not None and not cut]
    won = winner(outcomes)
    if not eligible:
        assert won is None
    else:
        assert won is not None
        assert values[won] == max(eligible)
        assert won == min(n for n, v in enumerate(values) if v == max(eligible) and not pruned[n])


def test_the_last_at_a_rung_is_stopped_and_the_best_goes_on() -> None:
    seen = [outcome(0.1, 0.6), outcome(0.2, 0.7)]
    assert should_stop(HEIGHT, {1: 0.0, 2: 0.05}, epochs=4, seen=seen)
    assert not should_stop(HEIGHT, {1: 0.3, 2: 0.6}, epochs=4, seen=seen)


def test_nothing_is_stopped_between_rungs_or_without_pruning() -> None:
    seen = [outcome(0.1, 0.6), outcome(0.2, 0.7)]
    assert not should_stop(HEIGHT, {1: 0.0}, epochs=4, seen=seen)
    free = HEIGHT.model_copy(update={"pruning": None})
    assert not should_stop(free, {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}, epochs=4, seen=seen)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0, 1))
def test_stopping_is_the_rule_of_successive_halving(values: list[float], own: float) -> None:
    """At the first rung: on when among the best 1 / factor of those seen and itself, or the best while they are few."""
    seen = [outcome(0.1, value, epochs=2) for value in values]
    ranked = sorted([*values, own], reverse=True)
    keep = max(1, len(ranked) // 2)
    assert should_stop(HEIGHT, {1: 0.0, 2: own}, epochs=4, seen=seen) == (own < ranked[keep - 1])


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
