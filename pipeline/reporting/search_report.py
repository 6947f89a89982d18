"""What the page says and draws of a search: from the plan and the table of trials alone, without any randomness."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna

from pipeline.drawing import search_figures
from pipeline.drawing.canvas import Points
from pipeline.drawing.figures import Drawing, file_stem
from pipeline.drawing.search_figures import Tried
from pipeline.exports import curves
from pipeline.exports.curves import Curves
from pipeline.exports.results import Experiment, Run, SearchEntry
from pipeline.planning import search
from pipeline.planning.searches import SECONDS, Objective
from pipeline.reporting import tables

# PED-ANOVA compares where the best quarter of the trials lies with where all do; of fewer it would tell noise.
_ENOUGH, _BEST = 12, 0.25
_MARKS = "Filled: ran to its end. Hollow: stopped early. Ring: the winner."


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """One search on one data set. `notes` say which figures are missing and why."""

    dataset: str
    title: str
    entry: SearchEntry
    figures: tuple[Drawing, ...]
    notes: tuple[str, ...]


def build(
    experiment: Experiment, dataset: str, *, title: str, runs: Mapping[str, Run], recorded: Curves
) -> SearchReport:
    """One search of an experiment, with its figures and the trials' own word on how they ended.

    Args:
        experiment: the declared one, which has searches.
        dataset: the key of the data set it ran on.
        title: the data set's name.
        runs: every declared trial by its key.
        recorded: what was recorded by epoch.

    Raises:
        ValueError: the search names a trial that `runs` lacks.
    """
    declared = (experiment.search or {})[dataset]
    tables.require(f"{experiment.name}, search on {dataset}", [trial.key for trial in declared.trials], runs)
    trials = [dataclasses.replace(trial, status=runs[trial.key].status) for trial in declared.trials]
    entry = dataclasses.replace(declared, trials=trials)
    shares = importances(entry) if len(entry.space) > 1 else {}
    drawn = _drawings(entry, shares, recorded, stem=f"{experiment.name}-{dataset}")
    finished = sum(bool(trial.values) and trial.status == "done" for trial in trials)
    lacking = len(entry.space) > 1 and not shares
    note = f"How much each setting matters is estimated from {_ENOUGH} finished trials on; there are {finished}."
    return SearchReport(
        dataset=dataset, title=title, entry=entry, figures=tuple(drawn), notes=(note,) if lacking else ()
    )


def objective_words(objective: Objective) -> str:
    """An objective as an axis names it."""
    return "seconds of a training step" if objective == SECONDS else f"{objective} on held-out identities, percent"


def objective_scale(objective: Objective) -> int:
    """What an objective is multiplied by to be shown: metrics are in percent."""
    return 1 if objective == SECONDS else 100


def tried(entry: SearchEntry) -> list[Tried]:
    """The trials that have a number, in the units of the figures."""
    places = {winner.number: place for place, winner in enumerate(entry.winners, start=1)}
    scales = [objective_scale(name) for name in entry.objectives]
    losses = {
        trial.number: search.losses(entry.objectives, trial.values)
        for trial in entry.trials
        if trial.values and trial.status == "done"
    }
    front = search.pareto_front(losses)
    return [
        Tried(
            number=trial.number,
            params=trial.params,
            values=tuple(scale * value for scale, value in zip(scales, trial.values, strict=True)),
            pruned=trial.status == "pruned",
            place=places.get(trial.number, 0),
            on_front=trial.number in front,
        )
        for trial in entry.trials
        if trial.values
    ]


def importances(entry: SearchEntry) -> dict[str, float]:
    """How much each setting decides whether a trial is among the best quarter, shares of 1; empty for too few trials.

    PED-ANOVA (Watanabe et al., IJCAI 2023) on the first objective of the trials that ran to their end, in Optuna's form
    for settings that are not always asked for.
    """
    done = [trial for trial in entry.trials if trial.values and trial.status == "done"]
    if len(done) < _ENOUGH:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials([search.replayed(entry.space, trial.params, values=trial.values[:1]) for trial in done])
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_BEST)
    found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return found


def _drawings(entry: SearchEntry, shares: Mapping[str, float], recorded: Curves, *, stem: str) -> Iterator[Drawing]:
    """The figures, the most telling first."""
    trials = tried(entry)
    if not trials:
        return
    words = [objective_words(name) for name in entry.objectives]
    name = file_stem(f"{stem}-history")
    svg = search_figures.history(trials, objective=words[0])
    yield Drawing(name=name, svg=svg, caption=f"{_MARKS} Line: the best so far.")
    if courses := _courses(entry, trials, recorded):
        name = file_stem(f"{stem}-learning")
        svg = search_figures.learning(courses, objective=words[0])
        yield Drawing(name=name, svg=svg, caption=f"A line a trial, to the epoch it ended with. {_MARKS}")
    if len(words) > 1:
        name = file_stem(f"{stem}-front")
        svg = search_figures.front(trials, objectives=words[:2])
        yield Drawing(name=name, svg=svg, caption="Line: what no other trial beats in both. Ring: the winner.")
    if len(entry.space) > 1:
        name = file_stem(f"{stem}-parallel")
        svg = search_figures.parallel(trials, space=entry.space, objectives=words)
        caption = "A line a trial, stronger for better. Faint: stopped early. Thick: the winner."
        gaps = " A gap: not asked for there." if any(space.when for space in entry.space.values()) else ""
        yield Drawing(name=name, svg=svg, caption=caption + gaps)
    if shares:
        name = file_stem(f"{stem}-importance")
        svg = search_figures.importance(shares, title="importance (PED-ANOVA), share of 1")
        yield Drawing(
            name=name, svg=svg, caption="How far a setting decides whether a trial is among the best quarter."
        )
    yield from _scatters(entry, trials, words[0], stem=stem)


def _courses(entry: SearchEntry, trials: Sequence[Tried], recorded: Curves) -> list[tuple[Tried, Points]]:
    """The first objective after each epoch, of the trials that have a record of it."""
    keys = {trial.number: trial.key for trial in entry.trials}
    name, scale = f"val/{entry.objectives[0]}", objective_scale(entry.objectives[0])
    found: list[tuple[Tried, Points]] = []
    for one in trials:
        curve = recorded.of(keys[one.number])
        if curve and name in curve.values:
            epochs, values = curves.thinned(curve.epochs, scale * curve.values[name][None].astype(float))
            found.append((one, [*zip(map(float, epochs), map(float, values[0]), strict=True)]))
    return found


def _scatters(entry: SearchEntry, trials: Sequence[Tried], objective: str, *, stem: str) -> Iterator[Drawing]:
    for path, space in entry.space.items():
        if having := [trial for trial in trials if path in trial.params]:
            name = file_stem(f"{stem}-{path}")
            svg = search_figures.scatter(having, parameter=path, space=space, objective=objective)
            yield Drawing(name=name, svg=svg, caption=_MARKS)
