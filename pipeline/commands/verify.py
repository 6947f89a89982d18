"""`python -m pipeline verify`: every printed number recomputed from the stored values of the queries.

The metrics of the trials are computed anew and compared with the table of trials, the values themselves with the store
where it is here. From what was computed anew the whole report is made once more, and compared with the one there is.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import report
from pipeline.drawing.figures import file_stem
from pipeline.exports import counts, export
from pipeline.exports.queries import PER_QUERY, QUERIES
from pipeline.exports.results import Run
from pipeline.planning import params
from pipeline.planning.metrics import COSTS
from pipeline.planning.searches import SECONDS
from pipeline.report import GENERATED, Inputs
from pipeline.reporting.alterations import Alteration, Outline, alterations
from pipeline.reporting.captions import heading
from pipeline.storage.remote import store_at
from pipeline.storage.store import TrialStore
from reid.data import manifest
from reid.data.dataset import ReidData

_TRIALS = "results/trials.parquet"
_ROUNDING = 1e-12  # of a mean of fractions, summed in another order
_NOT_MADE = "a file that this report does not make"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`checked` and `unchecked`: how many of what; `wrong`: the places that are not as they should be."""

    checked: dict[str, int]
    unchecked: dict[str, int]
    wrong: tuple[Alteration, ...]


class _Tally:
    """What a check goes through."""

    def __init__(self, inputs: Inputs) -> None:
        self.places = _places(inputs)
        self.checked: Counter[str] = Counter()
        self.unchecked: Counter[str] = Counter()
        self.wrong: list[Alteration] = []

    def of_trial(self, file: str, key: str, what: str, found: Any, expected: Any) -> None:
        """Note one wrong value of a trial, under the first table and row that it is in."""
        table, row, title = self.places.get(key, ("", f"trial {key}", ""))
        column = ": ".join(filter(None, (title, what)))
        self.wrong.append(
            Alteration(file=file, table=table, row=row, column=column, found=str(found), expected=str(expected))
        )


def run(root: Path, *, as_json: bool) -> int:
    """Check the results and the report of `root`; the exit code is 1 if anything is wrong."""
    verdict = verify(root)
    if as_json:
        print(json.dumps(dataclasses.asdict(verdict), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(verdict)))
    return 1 if verdict.wrong else 0


def verify(root: Path) -> Verdict:
    """Check everything that can be.

    Raises:
        FileNotFoundError: there are no results, or there is no report.
    """
    folder = root / GENERATED
    if not (folder / "index.html").is_file():
        raise FileNotFoundError(f"{folder} holds no report; make it with: dvc repro report")
    inputs = report.read(root)
    tally = _Tally(inputs)
    runs = {key: _recomputed(one, inputs, tally) for key, one in inputs.runs.items()}
    _check_store(root, inputs, tally)
    _check_queries(root, inputs, tally)
    _check_searches(inputs, tally)
    _check_counts(root, inputs, tally)
    right = dataclasses.replace(inputs, runs=runs)
    _check_files(folder, report.build(right), outlines(right), tally)
    return Verdict(checked=dict(tally.checked), unchecked=dict(tally.unchecked), wrong=tuple(tally.wrong))


def _recomputed(run: Run, inputs: Inputs, tally: _Tally) -> Run:
    """A trial with its metrics computed anew, as far as they can be."""
    metrics = dict(run.metrics)
    if run.status != "done" or run.evaluate_on != "test":
        return run
    for name, found in run.metrics.items():
        embedding, _, metric = name.rpartition("/")
        values = inputs.scores.values(run, embedding, metric)
        if values is None:
            why = "measured" if metric in COSTS else "no mean of values that are on record"
            tally.unchecked[f"{metric} of trials: {why}"] += 1
            continue
        metrics[name] = float(np.nanmean(values))
        tally.checked["metrics of trials, from the values of their queries"] += 1
        if not math.isclose(found, metrics[name], rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            tally.of_trial(_TRIALS, run.key, name, found, metrics[name])
        else:
            metrics[name] = found
    return dataclasses.replace(run, metrics=metrics)


def _check_store(root: Path, inputs: Inputs, tally: _Tally) -> None:
    """The table of trials and the values of the queries against the records that they were exported from."""
    store = store_at(inputs.plan.store, root, cache=params.load(root / "params.yaml").sweep.cache)
    lines = pd.read_parquet(root / _TRIALS).set_index("key").to_dict("index")
    for key, run in inputs.runs.items():
        if run.status not in ("done", "pruned"):
            continue
        if store.state(key) != "done":
            tally.unchecked["trials whose record is not in the store here: times, devices, commits"] += 1
            continue
        tally.checked["records of the store"] += 1
        for name, expected in export.recorded(store.result(key)).items():
            found = lines[key].get(name, "no column")
            if found != expected and not (found != found and expected != expected):  # NaN: not measured
                tally.of_trial(_TRIALS, key, name, found, expected)
        if run.status == "done":
            _check_arrays(key, store, inputs, tally)


def _check_arrays(key: str, store: TrialStore, inputs: Inputs, tally: _Tally) -> None:
    for name, expected in (store.per_query(key) or {}).items():
        embedding, _, field = name.rpartition("/")
        if field not in inputs.scores.arrays:
            continue  # a picture that the trial drew
        found = inputs.scores.arrays[field].get((key, embedding))
        if found is None:
            if inputs.runs[key].evaluate_on == "test":
                tally.of_trial(f"results/{PER_QUERY}", key, name, "nothing", f"{len(expected)} values")
            continue
        tally.checked["arrays of values of queries, against the store"] += 1
        if len(found) != len(expected):
            tally.of_trial(f"results/{PER_QUERY}", key, name, f"{len(found)} values", f"{len(expected)} values")
            continue
        differ = np.flatnonzero((found != expected) & ~(np.isnan(found) & np.isnan(expected)))
        for query in differ[:1]:
            tally.of_trial(f"results/{PER_QUERY}", key, f"{name} of query {query}", found[query], expected[query])


def _check_queries(root: Path, inputs: Inputs, tally: _Tally) -> None:
    """The identities of the queries against the data, where they are here and the same."""
    for (name, digest), found in inputs.scores.identities.items():
        try:
            data = ReidData.load(root / "data" / name)
        except (FileNotFoundError, ValueError):
            tally.unchecked[f"identities of the queries of {name}: the data are not here"] += 1
            continue
        if data.digest_for("test") != digest:
            tally.unchecked[f"identities of the queries of {name}: the data here are others"] += 1
            continue
        tally.checked["lists of the queries' identities, against the data"] += 1
        if not np.array_equal(found, data.identities[data.scored("test")[0]]):
            here = Alteration(
                file=f"results/{QUERIES}",
                table="",
                row=name,
                column="identities",
                found="others",
                expected="the data's",
            )
            tally.wrong.append(here)


def _check_searches(inputs: Inputs, tally: _Tally) -> None:
    """What the plan says of the searches' trials against the table of trials."""
    for experiment in inputs.plan.experiments:
        for dataset, search in (experiment.search or {}).items():
            for trial in search.trials:
                for objective, value in zip(search.objectives, trial.values, strict=False):
                    if trial.status != "done" or objective == SECONDS:
                        tally.unchecked["values of searches: of trials stopped early, and times"] += 1
                        continue
                    tally.checked["values of searches, against the table of trials"] += 1
                    expected = inputs.runs[trial.key].metrics.get(objective)
                    if value != expected:
                        column = f"{dataset}: {objective}"
                        wrong = Alteration(
                            file="results/plan.json",
                            table=experiment.name,
                            row=f"search trial {trial.number}",
                            column=column,
                            found=str(value),
                            expected=str(expected),
                        )
                        tally.wrong.append(wrong)


def _check_counts(root: Path, inputs: Inputs, tally: _Tally) -> None:
    """The statistics of data sets against their manifests."""
    for experiment in inputs.plan.experiments:
        for dataset, found in (experiment.counts or {}).items():
            path = root / "data" / dataset / "manifest.parquet"
            if not path.is_file():
                tally.unchecked[f"statistics of {dataset}: the data are not here"] += len(found)
                continue
            for name, expected in counts.count(manifest.read(path), tuple(found)).items():
                tally.checked["statistics of data sets, against the data"] += 1
                if found[name] != expected:
                    place = {"file": "results/plan.json", "table": experiment.name, "row": dataset, "column": name}
                    tally.wrong.append(Alteration(**place, found=str(found[name]), expected=str(expected)))


def _check_files(
    folder: Path, expected: Mapping[str, str | bytes], known: Mapping[str, Outline], tally: _Tally
) -> None:
    """The files of the report against those made anew."""
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted({*expected, *there}):
        place = f"{GENERATED.as_posix()}/{name}"
        if name not in there or name not in expected:
            absent = ("no file", "a file") if name in expected else (_NOT_MADE, "no file")
            tally.wrong.append(_altered_file(place, *absent))
            continue
        tally.checked["files of the report, against those made anew"] += 1
        found, right = there[name].read_bytes(), expected[name]
        if isinstance(right, str):
            tally.wrong += alterations(place, found.decode("utf-8", errors="replace"), right, known)
        elif found != right:
            tally.wrong.append(_altered_file(place, "another picture", "the picture that was drawn"))


def _altered_file(file: str, found: str, expected: str) -> Alteration:
    return Alteration(file=file, table="", row="", column="", found=found, expected=expected)


def outlines(inputs: Inputs) -> dict[str, Outline]:
    """The tables of a report by the stem of their files."""
    tables = [report.table_of(inputs, experiment) for experiment in inputs.plan.experiments]
    return {
        file_stem(table.experiment.name): Outline(
            table=table.experiment.name,
            heads=tuple(f"{heading(group)}: {metric}" for group, metric in table.columns()),
        )
        for table in tables
    }


def _places(inputs: Inputs) -> dict[str, tuple[str, str, str]]:
    """The first table, row and data set that each trial is in."""
    titles = inputs.plan.datasets | inputs.plan.transfers
    found: dict[str, tuple[str, str, str]] = {}
    for experiment in inputs.plan.experiments:
        for row in experiment.rows:
            for dataset, keys in row.keys.items():
                for key in keys:
                    found.setdefault(key, (experiment.name, row.label, titles[dataset]))
    return found


def _lines(verdict: Verdict) -> Iterator[str]:
    yield from (f"checked: {count:,} {what}" for what, count in verdict.checked.items())
    yield from (f"cannot be recomputed: {count:,} {what}" for what, count in verdict.unchecked.items())
    yield from (f"wrong: {one}" for one in verdict.wrong)
    yield f"{len(verdict.wrong)} wrong" if verdict.wrong else "everything agrees"
