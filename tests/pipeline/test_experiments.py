"""Experiment files: ours join to the printed numbers, and a wrong one is answered in one line."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import experiments
from pipeline.experiments import PUBLISHED, Experiment, Row
from pipeline.strict import ParamsError
from reid import methods

NAMES = tuple(experiments.names())
ALL = experiments.load(NAMES)

GOOD = """
bdb_table2:
  title: A table
  datasets: [Market-1501]
  metrics: [Rank-1, mAP]
  rows:
    - {label: Feature Dropping Branch, method: bdb, variant: drop_only}
    - {label: Ours, published_method: BDB + Cut, method: bdb, overrides: {recipe.augment.cutout: 0.5}}
    - {label: New, published_method: null, method: bdb}
"""
SEARCH = """
height:
  title: A search
  metrics: [mAP]
  rows:
    - {label: Found, method: bdb, winner: true}
  search:
    space:
      model.rh: {low: 0.1, high: 0.9, step: 0.1}
    trials: 8
"""


def load(folder: Path, text: str, name: str = "bdb_table2") -> Experiment:
    (folder / "paper.yaml").write_text(text)
    (experiment,) = experiments.load((name,), folder=folder)
    return experiment


def printed(stem: str) -> list[dict[str, str]]:
    """The published file, read here once more and by other means than the code's."""
    with (PUBLISHED / f"{stem}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


JOINS = [
    pytest.param(
        experiment, row.published_method, dataset, metric, id=f"{experiment.name}-{row.label}-{dataset}-{metric}"
    )
    for experiment in ALL
    if experiment.published
    for row, dataset, metric in itertools.product(experiment.rows, experiment.datasets, experiment.metrics)
    if row.method is not None and row.published_method is not None
]


@pytest.mark.parametrize(("experiment", "method", "dataset", "metric"), JOINS)
def test_every_row_of_ours_joins_to_exactly_one_printed_number(
    experiment: Experiment, method: str, dataset: str, metric: str
) -> None:
    name, _, words = dataset.partition(": ")
    found = [
        row
        for row in printed(str(experiment.published))
        if (row["method"], row["dataset"], row["metric"]) == (method, name, metric) and words in row["protocol"]
    ]
    assert len(found) == 1


def test_the_joins_are_all_there() -> None:
    """BDB: 4 rows on 3 data sets, 5 on 1, 5 on 1, 4 on 2 and 7 on 2, each with two metrics.

    SaADB: 1 row on 1 data set with four metrics, 1 on 2 with two, 6 on 1 with two.
    """
    assert len(JOINS) == 2 * (4 * 3 + 5 + 5 + 4 * 2 + 7 * 2) + 4 + 2 * 2 + 6 * 2


@pytest.mark.parametrize("experiment", [item for item in ALL if item.published], ids=lambda item: item.name)
def test_rows_are_in_the_paper_s_order(experiment: Experiment) -> None:
    order = list(dict.fromkeys(row["method"] for row in printed(str(experiment.published))))
    assert [order.index(str(row.published_method)) for row in experiment.rows] == sorted(
        order.index(str(row.published_method)) for row in experiment.rows
    )
    assert {row.published_method for row in experiment.rows} == set(order)  # the whole table


def test_table_1_has_all_sixteen_methods_and_ours_are_the_last_four() -> None:
    table = next(item for item in ALL if item.name == "bdb_table1")
    assert len(table.rows) == 16
    assert [row.method is None for row in table.rows] == [True] * 12 + [False] * 4
    assert [row.label for row in table.rows[12:]] == ["Baseline", "Baseline+Triplet", "BDB", "BDB+Cut"]


def saadb(row: Row, field: str) -> bool:
    return bool(getattr(methods.variants("saadb")[row.variant], field))


# What a published row's own flags must mean in our configuration, by the paper's short name.
FLAGS: dict[str, dict[str, Callable[[Row], bool]]] = {
    "saadb": {
        "global": lambda row: saadb(row, "global_branch"),
        "drop": lambda row: saadb(row, "drop"),
        "attention": lambda row: saadb(row, "attention"),
    },
    "bdb": {
        "global_branch": lambda row: row.variant != "drop_only",
        "drop_branch": lambda row: row.method == "bdb",
        "triplet": lambda row: (row.method, row.variant) not in {("baseline", "default"), ("bdb", "no_triplet")},
        "cutout": lambda row: "recipe.augment.cutout" in row.overrides,
        "random_erasing": lambda row: "recipe.augment.random_erasing" in row.overrides,
    },
}


@pytest.mark.parametrize("experiment", [item for item in ALL if item.published], ids=lambda item: item.name)
def test_every_row_is_what_the_paper_says_it_is(experiment: Experiment) -> None:
    """The published files carry the components of each row, so that a swapped variant cannot hide behind its label."""
    for row in (row for row in experiment.rows if row.method):
        texts = {
            line["variant_flags"]
            for line in printed(str(experiment.published))
            if line["method"] == row.published_method
        }
        (flags,) = (json.loads(text) for text in texts)
        tests = FLAGS[experiment.name.split("_")[0]]
        assert {name: test(row) for name, test in tests.items()} == {name: flags[name] for name in tests}, row.label
        if "drop_op" in flags:
            printed_as = {"default": "batch_dropblock", "dropblock_single": "dropblock"}
            assert printed_as.get(row.variant, row.variant) == flags["drop_op"]


def test_an_experiment_is_named_after_its_published_table() -> None:
    stems = {path.stem for path in PUBLISHED.glob("*.csv")}
    assert all(item.name == item.published for item in ALL if item.kind == "table")
    assert {item.published for item in ALL} - {None} <= stems


def test_the_order_asked_for_is_kept() -> None:
    assert [item.name for item in experiments.load(("bdb_table2", "bdb_table1"))] == ["bdb_table2", "bdb_table1"]


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    experiment = load(tmp_path, GOOD)
    assert experiment.published == "bdb_table2"
    assert experiment.kind == "table"
    assert [row.published_method for row in experiment.rows] == ["Feature Dropping Branch", "BDB + Cut", None]
    assert [row.variant for row in experiment.rows] == ["drop_only", "default", "default"]


def test_others_are_added_in_the_paper_s_order_around_ours(tmp_path: Path) -> None:
    experiment = load(tmp_path, GOOD + "  others: true\n")
    assert [(row.label, row.method) for row in experiment.rows] == [
        ("Global Branch (Baseline)", None),
        ("Feature Dropping Branch", "bdb"),
        ("Both Branches (BDB)", None),
        ("Feature Dropping Branch + Cut", None),
        ("Ours", "bdb"),
        ("New", "bdb"),
    ]


def test_a_search_needs_no_published_table(tmp_path: Path) -> None:
    experiment = load(tmp_path, SEARCH, "height")
    assert experiment.kind == "search"
    assert experiment.published is None
    assert experiment.search is not None
    assert experiment.search.space["model.rh"].step == 0.1
    assert experiment.rows[0].published_method is None


def test_whole_numbers_and_fractions_of_a_space_stay_what_they_are(tmp_path: Path) -> None:
    text = SEARCH.replace("{low: 0.1, high: 0.9, step: 0.1}", "{low: 1, high: 9, step: 2}")
    found = load(tmp_path, text, "height").search
    assert found is not None
    space = found.space["model.rh"]
    assert [type(value) for value in (space.low, space.high, space.step)] == [int, int, int]
    text = SEARCH.replace("{low: 0.1, high: 0.9, step: 0.1}", "{choices: [1, 0.5, a, true, null]}")
    found = load(tmp_path, text, "height").search
    assert found is not None
    choices = found.space["model.rh"].choices
    assert choices is not None
    assert [repr(choice) for choice in choices] == ["1", "0.5", "'a'", "True", "None"]


WRONG = {
    "unknown key": (
        "  title: A table",
        "  title: A table\n  metric: [mAP]",
        "paper.yaml: bdb_table2: metric is unknown; did you mean metrics?",
    ),
    "unknown key of a row": (
        "variant: drop_only",
        "varant: drop_only",
        "paper.yaml: bdb_table2: rows[0].varant is unknown; did you mean rows[0].variant?",
    ),
    "no title": (
        "  title: A table\n",
        "",
        "paper.yaml: bdb_table2: title is missing; allowed: text",
    ),
    "unknown metric": (
        "[Rank-1, mAP]",
        "[Rank-1, map]",
        "paper.yaml: bdb_table2: metrics[1] is the text 'map'; allowed: mAP, mINP, Rank-1, Rank-5, Rank-10; did you "
        "mean mAP?",
    ),
    "a metric twice": (
        "[Rank-1, mAP]",
        "[mAP, mAP]",
        "paper.yaml: bdb_table2: metrics: 'mAP' is given twice",
    ),
    "a label twice": (
        "label: Ours",
        "label: New",
        "paper.yaml: bdb_table2: rows: the label 'New' is given twice",
    ),
    "overrides that are no mapping": (
        "{recipe.augment.cutout: 0.5}",
        "[recipe.augment.cutout]",
        'paper.yaml: bdb_table2: rows[1].overrides is ["recipe.augment.cutout"]; allowed: a section',
    ),
    "a row that the paper has not": (
        "Feature Dropping Branch",
        "Feature Droping Branch",
        "paper.yaml: bdb_table2: bdb_table2.csv: no method 'Feature Droping Branch'",
    ),
    "a data set that the paper has not": (
        "Market-1501",
        "Market1501",
        "paper.yaml: bdb_table2: bdb_table2.csv: no data set 'Market1501'. Did you mean 'Market-1501'?",
    ),
    "a winner without a search": (
        "method: bdb}",
        "method: bdb, winner: true}",
        "paper.yaml: bdb_table2: rows: in a search one row has winner: true and a method; elsewhere none has",
    ),
    "a published file that is none": (
        "  title: A table",
        "  title: A table\n  published: bdb_table22",
        "Did you mean 'bdb_table2'?",
    ),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_table_is_answered_with_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    (line,) = caught.value.problems
    assert said in line
    assert line.startswith("paper.yaml: bdb_table2: ")


SPACE = "{low: 0.1, high: 0.9, step: 0.1}"
WRONG_SEARCH = {
    "no range": (SPACE, "{low: 0.1}", "give choices, or low and a greater high"),
    "an empty range": (SPACE, "{low: 0.5, high: 0.5}", "give choices, or low and a greater high"),
    "a step too long": (SPACE, "{low: 0.5, high: 0.75, step: 1}", "step is 1; allowed: above 0, up to 0.25"),
    "a logarithm of zero": (SPACE, "{low: 0, high: 1, log: true}", "with log, low must be above 0"),
    "steps on a logarithm": (SPACE, "{low: 1, high: 2, log: true, step: 1}", "there is no step"),
    "one choice": (SPACE, "{choices: [1]}", "choices are two or more"),
    "two forms": (SPACE, "{choices: [1, 2], low: 1, high: 2}", "nothing else is given"),
    "text for an end": (
        SPACE,
        '{low: "0.1", high: 0.9}',
        "search.space.model.rh.low is the text '0.1'; allowed: a number",
    ),
    "an infinite end": (SPACE, "{low: 0.1, high: .inf}", "search.space.model.rh.high is Infinity; allowed: a number"),
    "no trials": ("trials: 8", "trials: 0", "search.trials is 0; allowed: a whole number, 1 or more"),
    "unknown sampler": ("trials: 8", "trials: 8\n    sampler: tpee", "allowed: tpe, random; did you mean tpe?"),
    "no halving": (
        "trials: 8",
        "trials: 8\n    pruning: {start: 0.5, factor: 1}",
        "search.pruning.factor is 1; allowed: a whole number, 2 or more",
    ),
    "nobody wins": (
        ", winner: true",
        "",
        "rows: in a search one row has winner: true and a method; elsewhere none has",
    ),
    "a winner of nothing": (", method: bdb", "", "rows: in a search one row has winner: true and a method"),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG_SEARCH.values(), ids=WRONG_SEARCH)
def test_a_wrong_search_is_answered_with_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SEARCH
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, SEARCH.replace(old, new, 1), "height")
    (line,) = caught.value.problems
    assert said in line
    assert line.startswith("paper.yaml: height: ")


def test_an_experiment_that_is_no_section(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"paper\.yaml: bdb_table2 is no section; allowed: name, title"):
        load(tmp_path, "bdb_table2: 3\n")


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    for file in ("one.yaml", "two.yaml"):
        (tmp_path / file).write_text(GOOD)
    with pytest.raises(ParamsError, match=r"two\.yaml: the experiment bdb_table2 is also in one\.yaml"):
        experiments.names(tmp_path)


def test_unknown_experiments_are_answered_with_the_nearest() -> None:
    with pytest.raises(ParamsError) as caught:
        experiments.load(("bdb_tabel1", "nothing_like_it"))
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].endswith("did you mean bdb_table1?")
