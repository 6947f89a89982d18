"""Searches as a pure function of what earlier trials found, so that they survive any kill and repeat exactly.

Trial n of a search sees the trials up to n - lag and nothing else: its parameters and the rungs it is held against
depend on its number and on their outcomes, never on timing. `lag` trials can therefore run side by side, and a search
that is killed, resumed or run on other hardware asks for the same points. Optuna does the sampling and the successive
halving; it is rebuilt from the trial store at every question and remembers nothing itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from pipeline.experiments import Search, Space

Value = float | int | str | bool | None

_ATTEMPTS = 30

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Outcome:
    """What a search trial found: `value` at the end (None: it failed), `curve` the objective by epoch.

    `pruned`: it was stopped early and cannot win.
    """

    params: Mapping[str, Value]
    value: float | None
    curve: Mapping[int, float]
    pruned: bool = False


def propose(
    search: Search, number: int, *, seen: Sequence[Outcome], taken: Sequence[Mapping[str, Value]]
) -> dict[str, Value]:
    """The parameters of trial `number`.

    Args:
        search: the declared search.
        number: of the trial, from 0.
        seen: the outcomes of the trials it may see, in order.
        taken: the parameters of all trials before it; a point is asked for twice only where no new one turns up.
    """
    study, distributions = _study(search, number, seen, optuna.pruners.NopPruner()), _distributions(search)
    for _ in range(_ATTEMPTS):
        params = dict(study.ask(distributions).params)
        if params not in taken:
            break
    return params


def should_stop(search: Search, curve: Mapping[int, float], *, epochs: int, seen: Sequence[Outcome]) -> bool:
    """Whether a running trial with this curve so far falls behind the trials it may see (ASHA; Li et al. 2018).

    Args:
        search: the declared search.
        curve: the objective by epoch, as far as the trial has come.
        epochs: that the trial trains when nothing stops it.
        seen: the outcomes of the trials it may see, in order.
    """
    if search.pruning is None:
        return False
    first_rung = max(1, round(search.pruning.start * epochs))
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=search.pruning.factor)
    study = _study(search, 0, seen, pruner)
    trial = study.ask()
    verdict = False
    for epoch in sorted(curve):
        trial.report(curve[epoch], epoch)
        verdict = trial.should_prune()
    return verdict


def winner(outcomes: Sequence[Outcome]) -> int | None:
    """The number of the best trial that ran to its end; the earliest of equals; None when there is none."""
    finished = [
        (-outcome.value, number)
        for number, outcome in enumerate(outcomes)
        if outcome.value is not None and not outcome.pruned
    ]
    return min(finished)[1] if finished else None


def _study(search: Search, number: int, seen: Sequence[Outcome], pruner: optuna.pruners.BasePruner) -> optuna.Study:
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=_sampler(search, seed), pruner=pruner)
    distributions = _distributions(search)
    for outcome in seen:
        study.enqueue_trial(dict(outcome.params))
        trial = study.ask(distributions)
        for epoch in sorted(outcome.curve):
            trial.report(outcome.curve[epoch], epoch)
            trial.should_prune()  # records the rungs it reached; the verdict was acted on when it ran
        if outcome.value is None:
            study.tell(trial, state=TrialState.FAIL)
        elif outcome.pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, outcome.value)
    return study


def _sampler(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)


def _distributions(search: Search) -> dict[str, BaseDistribution]:
    return {path: _distribution(space) for path, space in search.space.items()}


def _distribution(space: Space) -> BaseDistribution:
    if space.choices is not None:
        return CategoricalDistribution(space.choices)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return IntDistribution(space.low, space.high, log=space.log, step=int(space.step or 1))
    assert space.low is not None
    assert space.high is not None
    return FloatDistribution(space.low, space.high, log=space.log, step=space.step)
