"""Searches as a pure function of what earlier trials found, so that they survive any kill and repeat exactly.

Trial n of a search sees the trials up to n - lag and nothing else: its parameters, the trials it is held against and
whether it is asked for at all depend on its number and on their outcomes, never on timing. `lag` trials can therefore
run side by side, and a search that is killed, resumed or run on other hardware asks for the same points; an outcome
that was measured with a clock (cost, seconds of a step) is as it was when the trial ran. Optuna does the sampling; it
is rebuilt from the trial store at every question and remembers nothing itself.
"""

import itertools
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.planning.searches import SECONDS, Objective, Point, Pruning, Search, Space, Value, asked

_ATTEMPTS = 5
_MOST = 10_000

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Outcome:
    """What a search trial found.

    `values`: of the objectives, at the end; none where it failed. `curve`: the first objective by epoch. `pruned`: it
    was stopped early and cannot win. `hours`: GPU-hours, see `gpu_hours`.
    """

    params: Point
    values: tuple[float, ...]
    curve: Mapping[int, float]
    pruned: bool = False
    hours: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return bool(self.values) and not self.pruned


def gpu_hours(*, seconds: float, gpus: float, cpus: float) -> float:
    """What a trial took of a budget: its time by its share of a GPU; without one, by its CPU cores."""
    return seconds / 3600 * (gpus or cpus)


def propose(search: Search, number: int, *, seen: Sequence[Outcome], taken: Sequence[Point]) -> dict[str, Value]:
    """The parameters of trial `number`.

    Args:
        search: the declared search.
        number: of the trial, from 0 and below `most(search)`.
        seen: the outcomes of the trials it may see, in order.
        taken: the parameters of all trials before it; no point is asked for twice while there are others. Where the
            sampler insists on one, another is drawn.
    """
    if number == 0 and search.first:
        return _tidy(search.first)
    if search.sampler == "grid":
        rest = (point for point in points(search.space) if point != search.first)
        return next(itertools.islice(rest, number - bool(search.first), None))
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.sampler == "cmaes":
        study = _asked_again(search, number, seen, taken)
    else:
        study = _study(search, seen, _sampler(search, seed))
    _, params = _new_point(study, search, taken)
    if params not in taken:
        return params
    untried = [point for point in _all(search.space) if point not in taken]
    return untried[seed % len(untried)] if untried else params


def most(search: Search) -> int:
    """How many trials it can ask for: its `trials`, at most 10,000 where hours alone limit it, or all there are."""
    return min(search.trials or _MOST, len(_all(search.space)) or _MOST)


def wants_more(search: Search, seen: Sequence[Outcome]) -> bool:
    """Whether the next trial is asked for, as far as the outcomes that it may see decide.

    Not when their hours have used up the budget; a trial that failed counts as their mean. And not when the first
    `startup_trials` have all failed: what is wrong then is not a point of the space.
    """
    hours = [outcome.hours for outcome in seen if outcome.values]
    if not hours and len(seen) >= search.startup_trials:
        return False
    return search.gpu_hours is None or not hours or statistics.fmean(hours) * len(seen) < search.gpu_hours


def points(space: Mapping[str, Space]) -> Iterator[dict[str, Value]]:
    """All points of a space of choices, steps and whole numbers, the last setting varying fastest."""
    yield from _extended(list(space.items()), {})


def _all(space: Mapping[str, Space]) -> list[dict[str, Value]]:
    """The points of a space, the first 10,000 of more; none where they cannot be counted."""
    smooth = any(
        isinstance(found, FloatDistribution) and found.step is None for found in map(_distribution, space.values())
    )
    return [] if smooth else list(itertools.islice(points(space), _MOST))


def _extended(rest: Sequence[tuple[str, Space]], found: dict[str, Value]) -> Iterator[dict[str, Value]]:
    if not rest:
        yield found
        return
    (path, space), *others = rest
    if not asked(space, found):
        yield from _extended(others, found)
        return
    for value in _values(space):
        yield from _extended(others, _tidy({**found, path: value}))


def _values(space: Space) -> Sequence[Value]:
    if space.choices is not None:
        return space.choices
    assert space.low is not None
    assert space.high is not None
    step = space.step or 1
    return [space.low + index * step for index in range(int((space.high - space.low) / step + 1e-9) + 1)]


# --- stopping early ---


def stopped_at(search: Search, curve: Mapping[int, float], *, epochs: int, seen: Sequence[Outcome]) -> int | None:
    """The epoch at which a trial with this curve falls behind the trials it may see; None: it does not, so far.

    Args:
        search: the declared search.
        curve: the objective by epoch, as far as the trial has come.
        epochs: that the trial trains when nothing stops it.
        seen: the outcomes of the trials it may see, in order.
    """
    if search.pruning is None:
        return None
    behind = _outside_best if search.pruning.kind == "halving" else _below_median
    judged = (epoch for epoch in sorted(curve) if epoch < epochs)
    return next(
        (epoch for epoch in judged if behind(search.pruning, curve, epoch=epoch, epochs=epochs, seen=seen)), None
    )


def _outside_best(
    rule: Pruning, curve: Mapping[int, float], *, epoch: int, epochs: int, seen: Sequence[Outcome]
) -> bool:
    """Successive halving, asynchronous: at a rung, not among the best 1 / factor of those that have reached it."""
    assert rule.start is not None
    assert rule.factor is not None
    rung = max(1, round(rule.start * epochs))
    while rung < epoch:
        rung *= rule.factor
    if rung != epoch:
        return False
    ranked = sorted([*(other.curve[epoch] for other in seen if epoch in other.curve), curve[epoch]], reverse=True)
    return curve[epoch] < ranked[max(1, len(ranked) // rule.factor) - 1]


def _below_median(
    rule: Pruning, curve: Mapping[int, float], *, epoch: int, epochs: int, seen: Sequence[Outcome]
) -> bool:
    """The median rule: its best so far is below the median of the finished trials at this epoch."""
    assert rule.startup_trials is not None
    assert rule.warm_up is not None
    finished = [other for other in seen if other.finished]
    others = [other.curve[epoch] for other in finished if epoch in other.curve]
    if len(finished) < rule.startup_trials or epoch < round(rule.warm_up * epochs) or not others:
        return False
    return max(value for past, value in curve.items() if past <= epoch) < statistics.median(others)


# --- the best ---


def ranking(search: Search, outcomes: Sequence[Outcome]) -> list[int]:
    """The numbers of the trials that ran to their end, the best first, each point once.

    Those that no other is at least as good as in everything and better in something come first; among them the first
    objective decides, then the others, then the lower number. With one objective that is its order.
    """
    finished = {number: outcome.values for number, outcome in enumerate(outcomes) if outcome.finished}
    rest = {number: losses(search.objectives, values) for number, values in finished.items()}
    found: list[int] = []
    while rest:
        front = pareto_front(rest) if len(search.objectives) > 1 else list(rest)
        found += sorted(front, key=lambda number: (rest[number], number))
        rest = {number: own for number, own in rest.items() if number not in found}
    return [number for place, number in enumerate(found) if not _before(outcomes, found[:place], number)]


def pareto_front(losses: Mapping[int, tuple[float, ...]]) -> list[int]:
    """The numbers of those that no other beats: at least as small in everything, and smaller in something."""
    return [number for number, own in losses.items() if not any(_beats(other, own) for other in losses.values())]


def _before(outcomes: Sequence[Outcome], better: Sequence[int], number: int) -> bool:
    return any(outcomes[other].params == outcomes[number].params for other in better)


def losses(objectives: Sequence[Objective], values: Sequence[float]) -> tuple[float, ...]:
    """The values with their signs such that less is better in all."""
    return tuple(value if minimised(name) else -value for name, value in zip(objectives, values, strict=True))


def minimised(objective: Objective) -> bool:
    """Whether less of it is better."""
    return objective == SECONDS


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


# --- Optuna ---


def _study(search: Search, seen: Sequence[Outcome], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """A study that knows the outcomes."""
    directions = ["minimize" if minimised(name) else "maximize" for name in search.objectives]
    study = optuna.create_study(directions=directions, sampler=sampler)
    for one in seen:
        curve = one.curve if len(search.objectives) == 1 else {}  # of several objectives Optuna takes the ends alone
        study.add_trial(replayed(search.space, one.params, values=one.values, curve=curve, pruned=one.pruned))
    return study


def _asked_again(search: Search, number: int, seen: Sequence[Outcome], taken: Sequence[Point]) -> optuna.Study:
    """A study of CMA-ES, whose cloud moves with every question: all are asked again, each knowing what it knew then.

    A point that this does not lead to, such as the first or one drawn because the sampler insisted on a known one, is
    nothing to the cloud.
    """
    startup = search.startup_trials
    sampler = optuna.samplers.CmaEsSampler(seed=search.seed, n_startup_trials=startup, warn_independent_sampling=False)
    study = _study(search, (), sampler)
    trials: list[tuple[optuna.Trial, bool]] = []
    told = 0
    for asked_for in range(number + 1):
        while told <= asked_for - search.lag:
            trial, is_own = trials[told]
            _tell(study, trial, seen[told], is_own=is_own)
            told += 1
        if asked_for < number:
            trial, params = _new_point(study, search, taken[:asked_for])
            trials.append((trial, params == taken[asked_for]))
    return study


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome, *, is_own: bool) -> None:
    values = list(outcome.values) if is_own and outcome.finished else None
    study.tell(trial, values, state=TrialState.COMPLETE if values else TrialState.FAIL)


def _new_point(study: optuna.Study, search: Search, taken: Sequence[Point]) -> tuple[optuna.Trial, dict[str, Value]]:
    """A point that was not asked for before, or, if the sampler insists on a known one, that."""
    for _ in range(_ATTEMPTS):
        trial = study.ask()
        params = _asked(trial, search.space)
        if params not in taken:
            break
    return trial, params


def replayed(
    space: Mapping[str, Space],
    params: Point,
    *,
    values: Sequence[float],
    curve: Mapping[int, float] | None = None,
    pruned: bool = False,
) -> FrozenTrial:
    """What became of a trial as Optuna records it; without values, that it failed."""
    made: FrozenTrial = optuna.trial.create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE if values else TrialState.FAIL,
        values=list(values) or None,
        params=dict(params),
        distributions={path: _distribution(space[path]) for path in params},
        intermediate_values=dict(curve or {}),
    )
    return made


def _sampler(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    startup = search.startup_trials
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if not any(space.when for space in search.space.values()):
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)


def _asked(trial: optuna.Trial, space: Mapping[str, Space]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for path, own in space.items():
        if asked(own, found):
            found[path] = _suggested(trial, path, _distribution(own))
    return _tidy(found)


def _suggested(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        chosen: Value = trial.suggest_categorical(path, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        chosen = trial.suggest_int(path, **vars(distribution))
    else:
        chosen = trial.suggest_float(path, **vars(distribution))
    return chosen


def _tidy(point: Point) -> dict[str, Value]:
    """The point without the rounding errors of steps: 0.1 + 2 * 0.1 must share its trial with a row that says 0.3."""
    return {path: float(f"{value:.12g}") if isinstance(value, float) else value for path, value in point.items()}


def _distribution(space: Space) -> BaseDistribution:
    if space.choices is not None:
        return CategoricalDistribution(space.choices)
    assert space.low is not None
    assert space.high is not None
    if isinstance(space.low, int) and isinstance(space.high, int):
        return IntDistribution(space.low, _last(space), log=space.log, step=int(space.step or 1))
    return FloatDistribution(space.low, _last(space), log=space.log, step=space.step)


def _last(space: Space) -> float | int:
    """The highest value: steps may not reach `high`."""
    assert space.high is not None
    last = _tidy({"last": _values(space)[-1]})["last"] if space.step else space.high
    assert isinstance(last, (int, float))
    return last
