"""From experiments to trials: rows x data sets x seeds, each resolved, keyed and listed once.

A row that two tables share is one setting and is trained once. What a search asks for is not known beforehand: its
`SearchPlan` makes trials of the parameters that come in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import keys
from pipeline.experiments import Experiment, Row, Search, Space, Value
from pipeline.params import Params, overridden, scaled
from pipeline.strict import ParamsError, override, redact, unknown
from reid import methods
from reid.config import Settings, TrialConfig, flatten, to_dict
from reid.data.readers import reader, readers

Digests = Mapping[str, str]  # of a data set, by what a trial is evaluated on: "val" or "test"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run. `spec` is what `key` hashes; `setting` is shared by the seeds of one cell."""

    key: str
    setting: str
    name: str
    dataset: str
    config: TrialConfig
    spec: dict[str, Any] = field(compare=False)  # the key stands for it


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """A row of an experiment and, by data set, its trials in the order of the seeds; others' and winners' have none."""

    row: Row
    trials: dict[str, tuple[Trial, ...]]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """One search on one data set: `base` is the configuration that the parameters it tries are put into."""

    experiment: str
    dataset: str
    search: Search
    base: TrialConfig
    digests: Digests
    seeds: tuple[int, ...]

    def trial(self, number: int, params: Mapping[str, Value]) -> Trial:
        """The search's trial of this number: scored on held-out identities, with the search's own seed.

        When it is stopped depends on what the search shows it, so a search that may stop trials is part of their keys;
        how many trials it asks for is not, so that a longer search keeps those it has.
        """
        config = replace(self._config(params), evaluate_on="val", seed=self.search.seed)
        rules = self.search.model_dump(mode="json", exclude={"trials"}) if self.search.pruning else None
        name = f"{self.experiment}-{number}-{self.dataset}"
        return make_trial(config, self.dataset, self.digests, name=name, search=rules)

    def winner_trials(self, params: Mapping[str, Value]) -> list[Trial]:
        """The final trials of the parameters that won, scored on the test split, one for each seed."""
        return _cell(self._config(params), self.dataset, self.digests, self.seeds)

    def _config(self, params: Mapping[str, Value]) -> TrialConfig:
        # Steps add up with rounding errors: 0.1 + 2 * 0.1 must share its trial with a row that says 0.3.
        tidy = {path: float(f"{value:.12g}") if isinstance(value, float) else value for path, value in params.items()}
        return override(self.base, tidy, where=f"{self.experiment}: search")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is declared: the experiments' rows; their trials by key, one seed of every cell first; the searches."""

    experiments: tuple[tuple[Experiment, tuple[PlannedRow, ...]], ...]
    trials: dict[str, Trial]
    searches: tuple[SearchPlan, ...]

    @property
    def num_cells(self) -> int:
        """Cell values, rows x data sets x seeds, before shared ones are counted once."""
        return sum(len(trials) for _, rows in self.experiments for row in rows for trials in row.trials.values())

    def shared(self) -> dict[str, list[str]]:
        """The settings that several rows share, each with these rows: `bdb_table2: BDB + Cut`."""
        users: dict[str, list[str]] = {}
        for experiment, rows in self.experiments:
            for row in rows:
                for trials in row.trials.values():
                    users.setdefault(trials[0].setting, []).append(f"{experiment.name}: {row.row.label}")
        return {setting: labels for setting, labels in users.items() if len(labels) > 1}

    def to_json(self, params: Params, outcomes: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
        """The content of `results/plan.json`.

        Args:
            params: what the plan was expanded from.
            outcomes: for each search (experiment, data set): `trials`, a list of `number`, `params`, `value`, `status`
                and `key`; and `winner`, its `number` and `params`, or None.
        """
        return {
            "profile": params.profile,
            "datasets": {dataset: readers()[dataset] for dataset in params.datasets},
            "seeds": list(params.seeds),
            "mlflow_ui": redact(params.tracking.ui),
            "experiments": [self._entry(experiment, rows, outcomes) for experiment, rows in self.experiments],
        }

    def _entry(
        self,
        experiment: Experiment,
        rows: tuple[PlannedRow, ...],
        outcomes: Mapping[tuple[str, str], Mapping[str, Any]],
    ) -> dict[str, Any]:
        searches = {item.dataset: item for item in self.searches if item.experiment == experiment.name}
        winners = {dataset: outcomes[experiment.name, dataset]["winner"] for dataset in searches}
        won = {
            dataset: tuple(searches[dataset].winner_trials(winner["params"])) if winner else ()
            for dataset, winner in winners.items()
        }
        return {
            "name": experiment.name,
            "kind": experiment.kind,
            "title": experiment.title,
            "note": experiment.note,
            "metrics": list(experiment.metrics),
            "published": experiment.published,
            "published_datasets": list(experiment.datasets),
            "rows": [_row_json(row, won if row.row.winner else row.trials) for row in rows],
            "search": {
                dataset: _search_json(item.search, outcomes[experiment.name, dataset])
                for dataset, item in searches.items()
            }
            or None,
        }


def expand(params: Params, experiments: Sequence[Experiment], data: Mapping[str, Digests]) -> Plan:
    """Every trial that the experiments declare under these parameters.

    Args:
        params: the profile, data sets and seeds.
        experiments: the selected ones.
        data: for each data set its digest for "val" and for "test".

    Raises:
        ParamsError: a row, an override or a search asks for something that does not exist or is out of range.
    """
    bases = resolve(params, experiments)
    planned: list[tuple[Experiment, tuple[PlannedRow, ...]]] = []
    searches: list[SearchPlan] = []
    for experiment in experiments:
        configs = bases[experiment.name]
        rows = zip(experiment.rows, configs, strict=True)
        planned.append((experiment, tuple(_planned(row, config, params, data) for row, config in rows)))
        searches += _searches(experiment, configs, params, data)
    cells = [trials for _, rows in planned for row in rows for trials in row.trials.values()]
    by_seed = (trials[index] for index in range(len(params.seeds)) for trials in cells)
    return Plan(experiments=tuple(planned), trials={trial.key: trial for trial in by_seed}, searches=tuple(searches))


def resolve(params: Params, experiments: Sequence[Experiment]) -> dict[str, list[TrialConfig | None]]:
    """The configuration of every row, None for others' rows; needs no data, so it can be checked before there is any.

    A row starts from its method's recipe and its variant's model; then come the profile's overrides for all methods,
    those for its method, which leave alone what makes the variant one (`pipeline.params.scaled`), and the row's own.

    Raises:
        ParamsError: one line for everything that is wrong.
    """
    problems: list[str] = []
    resolved: dict[str, list[TrialConfig | None]] = {}
    for experiment in experiments:
        configs = resolved.setdefault(experiment.name, [])
        for index, row in enumerate(experiment.rows):
            try:
                config = _resolved(row, params, where=f"{experiment.name}: rows[{index}]") if row.method else None
                if config and row.winner and experiment.search:
                    _check_space(config, experiment.search, where=f"{experiment.name}: search.space")
                configs.append(config)
            except ParamsError as error:
                problems += error.problems
    if problems:
        raise ParamsError(problems)
    return resolved


def make_trial(
    config: TrialConfig, dataset: str, digests: Digests, *, name: str = "", search: dict[str, Any] | None = None
) -> Trial:
    """The trial of a configuration on a data set, scored by the data set's rule unless the configuration names one.

    Its name is readable and ends in the start of the key.

    Args:
        config: the trial's.
        dataset: its data set.
        digests: of the data set.
        name: the readable part; empty: made of method, variant, data set and seed.
        search: the rules of the search that may stop it early.
    """
    source = reader(dataset)
    protocol = config.recipe.protocol.resolved(source.rule, source.ranks)
    config = replace(config, recipe=replace(config.recipe, protocol=protocol))
    spec = keys.trial_spec(
        config,
        dataset=dataset,
        data_digest=digests[config.evaluate_on],
        code_digest=keys.code_digest(config.method),
    )
    if search is not None:
        spec["search"] = search
    key = keys.trial_key(spec)
    readable = name or f"{config.method}-{_variant(config.method, config.model)}-{dataset}-s{config.seed}"
    return Trial(
        key=key, setting=keys.setting_key(spec), name=f"{readable}-{key[:8]}", dataset=dataset, config=config, spec=spec
    )


def _resolved(row: Row, params: Params, *, where: str) -> TrialConfig:
    method = str(row.method)
    if method not in methods.names():
        raise ParamsError([f"{where}.method {unknown(method, methods.names())}"])
    variants = methods.variants(method)
    if row.variant not in variants:
        raise ParamsError([f"{where}.variant {unknown(row.variant, variants)}"])
    config = TrialConfig(method=method, model=variants[row.variant], recipe=methods.recipe(method))
    profile, default = params.profiles[params.profile], variants["default"]
    config = scaled(config, profile, default=default, where=f"profiles.{params.profile}")
    return overridden(config, row.overrides, where=f"{where}.overrides")


def _check_space(config: TrialConfig, search: Search, *, where: str) -> None:
    """Every value a search may take must be allowed; a range is allowed when both its ends are."""
    for path, space in search.space.items():
        for value in space.choices if space.choices is not None else (space.low, space.high):
            overridden(config, {path: value}, where=where)


def _planned(row: Row, config: TrialConfig | None, params: Params, data: Mapping[str, Digests]) -> PlannedRow:
    if config is None or row.winner:
        return PlannedRow(row=row, trials={})
    return PlannedRow(
        row=row,
        trials={dataset: tuple(_cell(config, dataset, data[dataset], params.seeds)) for dataset in params.datasets},
    )


def _cell(config: TrialConfig, dataset: str, digests: Digests, seeds: Sequence[int]) -> list[Trial]:
    """The final trials of a configuration on a data set, one for each seed."""
    return [make_trial(replace(config, evaluate_on="test", seed=seed), dataset, digests) for seed in seeds]


def _searches(
    experiment: Experiment, configs: list[TrialConfig | None], params: Params, data: Mapping[str, Digests]
) -> Iterator[SearchPlan]:
    if experiment.search is None:
        return
    base = next(config for row, config in zip(experiment.rows, configs, strict=True) if row.winner)
    assert base is not None
    for dataset in params.datasets:
        yield SearchPlan(
            experiment=experiment.name,
            dataset=dataset,
            search=_typed(experiment.search, base),
            base=base,
            digests=data[dataset],
            seeds=params.seeds,
        )


def _typed(search: Search, base: TrialConfig) -> Search:
    """The search with a range's ends as fractions where the setting is one: 0 to 1 need not be two whole numbers."""
    space = {path: _as_float(item) if _is_fraction(base, path, item) else item for path, item in search.space.items()}
    return search.model_copy(update={"space": space})


def _is_fraction(base: TrialConfig, path: str, space: Space) -> bool:
    """Whether the setting takes fractions: it makes one of the whole number it is given."""
    if space.low is None:
        return False
    flat = dict(flatten(to_dict(override(base, {path: space.low}, where="search.space"))))
    return isinstance(flat[path], float)


def _as_float(space: Space) -> Space:
    ends = {name: getattr(space, name) for name in ("low", "high", "step")}
    return space.model_copy(update={name: None if end is None else float(end) for name, end in ends.items()})


def _variant(method: str, model: Settings) -> str:
    """The variant that a configuration is, or `<variant>-custom` for the nearest: a name from the trial alone."""
    own, variants = to_dict(model), methods.variants(method)

    def departures(name: str) -> int:
        return sum(value != own[field] for field, value in to_dict(variants[name]).items())

    nearest = min(variants, key=departures)
    return f"{nearest}-custom" if departures(nearest) else nearest


def _row_json(planned: PlannedRow, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    row = planned.row
    return {
        "label": row.label,
        "method": row.method,
        "variant": row.variant,
        "overrides": row.overrides,
        "published_method": row.published_method,
        "settings": {dataset: cell[0].setting for dataset, cell in trials.items() if cell},
        "keys": {dataset: [trial.key for trial in cell] for dataset, cell in trials.items()},
    }


def _search_json(search: Search, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "objective": search.objective,
        "space": {path: space.model_dump(exclude_defaults=True) for path, space in search.space.items()},
        "trials": outcome["trials"],
        "winner": outcome["winner"],
    }
