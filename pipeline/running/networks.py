"""Which trained networks are kept: of every table, on each data set, that of the best trial."""

from collections.abc import Iterable

from pipeline.planning.metrics import SCORES
from pipeline.planning.plan import Plan, Trial
from pipeline.storage.store import TrialStore

Place = tuple[str, str]  # experiment and data set


class Networks:
    """The tables of a plan, each with the trials whose networks may be its best.

    Those are the trials that train for a row of its own embedding; another scoring of a network, or a picture of one,
    is no other network, and the rows that report a search have none. `metrics`: what decides in each table, its first
    score; one without scores has no best.
    """

    def __init__(self, plan: Plan) -> None:
        self.metrics: dict[Place, str] = {}
        self.trials: dict[Place, list[Trial]] = {}
        self._places: dict[str, list[Place]] = {}
        self._scores: dict[str, dict[str, float]] = {}
        for experiment, rows in plan.experiments:
            metric = next((name for name in experiment.metrics if name in SCORES), None)
            for row in rows if metric else ():
                for dataset, cell in row.trials.items():
                    for trial in cell if not row.row.embedding else ():
                        if trial.source is None:
                            self._add((experiment.name, dataset), str(metric), trial)

    def candidate(self, key: str) -> bool:
        """Whether a trial may turn out to be the best of a table."""
        return key in self._places

    def best(self, store: TrialStore) -> dict[Place, Trial]:
        """The best trial that is done, of each table that has one; of equal ones the first."""
        return self._best(store, self.trials)

    def kept(self, store: TrialStore) -> set[str]:
        """The keys of the networks to keep: the best of each table among those that are there."""
        return {trial.key for trial in self._best(store, self.trials, there=True).values()}

    def beaten(self, store: TrialStore, key: str) -> list[str]:
        """Whose networks are there and no table's best any more, now that a trial is done; perhaps its own."""
        near = {trial.key for place in self._places.get(key, ()) for trial in self.trials[place]}
        there = [other for other in near if store.has_weights(other) and self._score(store, other)]
        places = {place for other in there for place in self._places[other]}
        best = {trial.key for trial in self._best(store, places, there=True).values()}
        return sorted(set(there) - best)

    def _add(self, place: Place, metric: str, trial: Trial) -> None:
        self.metrics[place] = metric
        self.trials.setdefault(place, []).append(trial)
        self._places.setdefault(trial.key, []).append(place)

    def _best(self, store: TrialStore, places: Iterable[Place], *, there: bool = False) -> dict[Place, Trial]:
        found = {}
        for place in places:
            metric = self.metrics[place]
            able = [trial for trial in self.trials[place] if not there or store.has_weights(trial.key)]
            done = [trial for trial in able if metric in self._score(store, trial.key)]
            if done:
                found[place] = max(done, key=lambda trial: self._score(store, trial.key)[metric])
        return found

    def _score(self, store: TrialStore, key: str) -> dict[str, float]:
        """The metrics of a done trial, which stay as they are; none of another."""
        if key not in self._scores:
            if store.state(key) != "done":
                return {}
            self._scores[key] = store.result(key)["metrics"]
        return self._scores[key]
