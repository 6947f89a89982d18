"""From experiments to trials: rows x data sets x seeds, each resolved, keyed and listed once.

A row that two tables share is one setting and is trained once. What a search asks for is not known beforehand: its
`SearchPlan` makes trials of the parameters that come in.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.planning import figure_kinds, keys, pictured, spaces
from pipeline.planning.experiments import ARROW, Experiment, Row
from pipeline.planning.naming import readable
from pipeline.planning.params import Params, overridden, scaled
from pipeline.planning.searches import Point, Search
from pipeline.planning.strict import ParamsError, override, unknown
from reid import methods
from reid.config import Protocol, TrialConfig
from reid.data.readers import reader, readers
from reid.methods.base import OWN
from reid.rehearsal import rehearse

Digests = Mapping[str, str]  # of a data set, by what a trial is evaluated on: "val" or "test"
Scale = Callable[[str, str, str | None], TrialConfig]  # of method, variant and data set

_code_digest = functools.cache(keys.code_digest)  # its files are read once in a process, and it would look for them


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run, another scoring of one, or pictures of one.

    `spec` is what `key` hashes; `setting` is shared by the seeds of one cell. `source`: the trial whose trained network
    is scored, by another protocol or on another data set, or drawn; None where none is used. `dataset` is the key of a
    column: that of a data set, or of a `Transfer`.
    """

    key: str
    setting: str
    name: str
    dataset: str
    config: TrialConfig
    spec: dict[str, Any] = field(compare=False)  # the key stands for it
    source: "Trial | None" = None

    @property
    def epochs(self) -> int:
        """How many it trains."""
        return 0 if "scored_on" in self.spec else self.config.recipe.schedule.epochs


@dataclass(frozen=True)
class Transfer:
    """Training on one data set and scoring on another."""

    trained_on: str
    scored_on: str

    @property
    def key(self) -> str:
        """What the column is called in files."""
        return f"{self.trained_on}{ARROW}{self.scored_on}"

    @property
    def title(self) -> str:
        """What the column is called in tables."""
        return f"{readers()[self.scored_on]}: trained on {readers()[self.trained_on]}"


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """A row of an experiment and, by data set, its trials in the order of the seeds; others' and winners' have none."""

    row: Row
    trials: dict[str, tuple[Trial, ...]]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """One search on one data set: `base` is the configuration that the parameters it tries are put into.

    `protocol` is the one by which the trials of the method are scored when they have been trained, see `scored`.
    """

    experiment: str
    dataset: str
    search: Search
    base: TrialConfig
    protocol: Protocol
    digests: Digests
    seeds: tuple[int, ...]

    def trial(self, number: int, params: Point) -> Trial:
        """The search's trial of this number: scored on held-out identities, with the search's own seed.

        When it is stopped depends on what the search shows it, so a search that may stop trials is part of their keys;
        how many trials it asks for, and what becomes of the best, is not, so that a longer search keeps those it has.
        """
        config = replace(self._config(params), evaluate_on="val", seed=self.search.seed)
        rules = self.search.model_dump(mode="json", exclude={"trials", "gpu_hours", "top"})
        name = f"{self.experiment}-{number}-{self.dataset}"
        return make_trial(config, self.dataset, self.digests, name=name, search=rules if self.search.pruning else None)

    def winner_trials(self, params: Point) -> list[Trial]:
        """The final trials of parameters that are among the best, scored on the test split, one for each seed."""
        column = Transfer(self.dataset, self.dataset)
        return _cell(self._config(params), self.protocol, column, {self.dataset: self.digests}, self.seeds)

    def _config(self, params: Point) -> TrialConfig:
        return override(self.base, spaces.whole(self.base, params), where=f"{self.experiment}: search")


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


def expand(params: Params, experiments: Sequence[Experiment], data: Mapping[str, Digests]) -> Plan:
    """Every trial that the experiments declare under these parameters.

    Args:
        params: the profile, data sets and seeds.
        experiments: the selected ones.
        data: for each data set its digest for "val" and for "test".

    Raises:
        ParamsError: a row, an override or a search asks for something that does not exist or is out of range.
    """
    bases = _bases(params, experiments)
    scale = _scale(params)
    planned: list[tuple[Experiment, tuple[PlannedRow, ...]]] = []
    searches: list[SearchPlan] = []
    for experiment in experiments:
        by_row = zip(*(found[experiment.name] for found in bases.values()), strict=True)
        configs = [dict(zip(bases, row, strict=True)) for row in by_row]
        rows = zip(experiment.rows, configs, strict=True)
        planned.append(
            (experiment, tuple(_planned(experiment, row, found, params, data, scale) for row, found in rows))
        )
        searches += _searches(experiment, configs, params, data, scale)
    cells = [trials for _, rows in planned for row in rows for trials in row.trials.values()]
    by_seed = (trials[index] for index in range(len(params.seeds)) for trials in cells if index < len(trials))
    trials = (one for trial in by_seed for one in (trial.source, trial) if one)
    return Plan(experiments=tuple(planned), trials={trial.key: trial for trial in trials}, searches=tuple(searches))


def _bases(params: Params, experiments: Sequence[Experiment]) -> dict[str, dict[str, list[TrialConfig | None]]]:
    """`resolve` by data set, done once for all those that the profile does not name."""
    named = params.profiles[params.profile].datasets
    own = {dataset: dataset if dataset in named else None for dataset in params.datasets}
    found = {name: resolve(params, experiments, name) for name in dict.fromkeys(own.values())}
    return {dataset: found[name] for dataset, name in own.items()}


def resolve(
    params: Params, experiments: Sequence[Experiment], dataset: str | None = None
) -> dict[str, list[TrialConfig | None]]:
    """The configuration of every row, None for others' rows; needs no data, so it can be checked before there is any.

    A row starts from its method's recipe and its variant's model; then come the profile's overrides for all methods,
    those for its method, which leave alone what makes the variant one, those for the data set (`params.scaled`;
    None: no certain one), and the row's own.

    Raises:
        ParamsError: one line for everything that is wrong.
    """
    problems: list[str] = []
    scale = _scale(params)
    resolved: dict[str, list[TrialConfig | None]] = {}
    for experiment in experiments:
        configs = resolved.setdefault(experiment.name, [])
        for index, row in enumerate(experiment.rows):
            try:
                where = f"{experiment.name}: rows[{index}]"
                config = _resolved(row, scale, dataset, where=where) if row.method else None
                if config and row.winner and experiment.search:
                    spaces.check(config, experiment.search, where=f"{experiment.name}: search.space")
                if config and experiment.figure:
                    figure_kinds.check(experiment.figure, config, where=where)
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
    config = _with_protocol(config, config.recipe.protocol, dataset)
    spec = keys.trial_spec(
        config,
        dataset=dataset,
        data_digest=digests[config.evaluate_on],
        code_digest=_code_digest(config.method),
    )
    if search is not None:
        spec["search"] = search
    return _named(name or readable(config, spec), dataset, config, spec)


def scored(trained: Trial, protocol: Protocol, scored_on: str, digests: Digests) -> Trial:
    """A trained trial scored by a protocol on a data set; the trial itself where that is what it is scored by."""
    own = trained.spec["dataset"]
    config = _with_protocol(trained.config, protocol, scored_on)
    if (config, scored_on) == (trained.config, own):
        return trained
    target = {"dataset": scored_on, "data_digest": digests["test"]}
    spec = keys.scoring_spec(trained.spec, config, source=trained.key, target=target)
    column = own if scored_on == own else Transfer(own, scored_on).key
    return replace(_named(readable(config, spec), column, config, spec), source=trained)


def _seeded(trial: Trial, seed: int) -> Trial:
    """The same with another seed, which changes little of it: of a large plan most trials are made this way."""
    source = _seeded(trial.source, seed) if trial.source else None
    config = replace(trial.config, seed=seed)
    spec = trial.spec | {"config": trial.spec["config"] | {"seed": seed}} | ({"source": source.key} if source else {})
    key = keys.trial_key(spec)
    return replace(trial, key=key, name=f"{readable(config, spec)}-{key[:8]}", config=config, spec=spec, source=source)


def _with_protocol(config: TrialConfig, protocol: Protocol, dataset: str) -> TrialConfig:
    """The configuration with a protocol; what that leaves open is filled in by the data set's own rule and ranks."""
    resolved = _protocol(protocol, dataset)
    if resolved == config.recipe.protocol:
        return config  # making another is most of what a plan costs
    return replace(config, recipe=replace(config.recipe, protocol=resolved))


@functools.cache
def _protocol(protocol: Protocol, dataset: str) -> Protocol:
    source = reader(dataset)
    return protocol.resolved(source.rule, source.ranks)


def _named(start: str, dataset: str, config: TrialConfig, spec: dict[str, Any]) -> Trial:
    key = keys.trial_key(spec)
    return Trial(
        key=key, setting=keys.setting_key(spec), name=f"{start}-{key[:8]}", dataset=dataset, config=config, spec=spec
    )


def _resolved(row: Row, scale: Scale, dataset: str | None, *, where: str) -> TrialConfig:
    method = str(row.method)
    if method not in methods.names():
        raise ParamsError([f"{where}.method {unknown(method, methods.names())}"])
    variants = methods.variants(method)
    if row.variant not in variants:
        raise ParamsError([f"{where}.variant {unknown(row.variant, variants)}"])
    config = scale(method, row.variant, dataset)
    if row.overrides:
        config = overridden(config, row.overrides, where=f"{where}.overrides")
    _check_embedding(row, config, where=f"{where}.embedding")
    return config


def _scale(params: Params) -> Scale:
    """A method's variant under the profile on a data set, before what a row changes; each made once."""
    profile, where = params.profiles[params.profile], f"profiles.{params.profile}"

    @functools.cache
    def own(method: str, variant: str, dataset: str | None) -> TrialConfig:
        variants = methods.variants(method)
        config = TrialConfig(method=method, model=variants[variant], recipe=methods.recipe(method))
        return scaled(config, profile, default=variants["default"], dataset=dataset, where=where)

    return lambda method, variant, dataset: own(method, variant, dataset if dataset in profile.datasets else None)


def _check_embedding(row: Row, config: TrialConfig, *, where: str) -> None:
    if row.embedding == OWN:
        return
    known = [name for name in _embeddings(config) if name != OWN]
    if row.embedding not in known:
        raise ParamsError([f"{where} {unknown(row.embedding, known)}"])


_embeddings = functools.cache(rehearse)


def _planned(
    experiment: Experiment,
    row: Row,
    configs: Mapping[str, TrialConfig | None],
    params: Params,
    data: Mapping[str, Digests],
    scale: Scale,
) -> PlannedRow:
    """A row with its trials; `configs`: its configuration by data set trained on."""
    if row.winner or row.method is None:
        return PlannedRow(row=row, trials={})
    columns = {dataset: Transfer(dataset, dataset) for dataset in params.datasets}
    if experiment.transfer:
        columns = {pair.key: pair for pair in pairs(params.datasets)}
    cells = {}
    for name, column in columns.items():
        config = configs[column.trained_on]
        assert config is not None
        usual = scale(config.method, row.variant, column.trained_on).recipe.protocol
        seeds = params.seeds[:1] if experiment.pictures else params.seeds
        cells[name] = tuple(_cell(config, usual, column, data, seeds))
        if experiment.pictures:
            shown = params.report.shown(column.scored_on)
            cells[name] = (pictured.pictured(cells[name][0], experiment.pictures, row, shown),)
    return PlannedRow(row=row, trials=cells)


def pairs(datasets: Sequence[str]) -> list[Transfer]:
    """Every ordered pair of the data sets, those that are scored on the first one first."""
    return [Transfer(other, dataset) for dataset in datasets for other in datasets if other != dataset]


def _cell(
    config: TrialConfig, usual: Protocol, column: Transfer, data: Mapping[str, Digests], seeds: Sequence[int]
) -> list[Trial]:
    """The final trials of a configuration, one for each seed; `usual` is the protocol before what a row changes.

    What is trained does not depend on how it is scored. So that rows which differ in protocol alone share their
    training, it is done under the usual one, and whatever asks for another scores that again.
    """
    first = replace(_with_protocol(config, usual, column.trained_on), evaluate_on="test", seed=seeds[0])
    trained = make_trial(first, column.trained_on, data[column.trained_on])
    cell = scored(trained, config.recipe.protocol, column.scored_on, data[column.scored_on])
    return [cell, *(_seeded(cell, seed) for seed in seeds[1:])]


def _searches(
    experiment: Experiment,
    configs: Sequence[Mapping[str, TrialConfig | None]],
    params: Params,
    data: Mapping[str, Digests],
    scale: Scale,
) -> Iterator[SearchPlan]:
    if experiment.search is None:
        return
    row, bases = next(pair for pair in zip(experiment.rows, configs, strict=True) if pair[0].place == 1)
    for dataset, base in bases.items():
        assert base is not None
        scoring = _with_protocol(base, base.recipe.protocol, dataset).recipe.protocol
        spaces.check_objectives(experiment.search, scoring, where=f"{experiment.name}: search.objective")
        yield SearchPlan(
            experiment=experiment.name,
            dataset=dataset,
            search=spaces.typed(experiment.search, base),
            base=base,
            protocol=scale(base.method, row.variant, dataset).recipe.protocol,
            digests=data[dataset],
            seeds=params.seeds,
        )
