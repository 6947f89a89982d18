"""Experiment files: ours join to the printed numbers, and a wrong one is answered in one line."""

import csv
import dataclasses
import itertools
from pathlib import Path
from typing import get_args

import pytest

from pipeline.planning import experiments
from pipeline.planning.experiments import PUBLISHED, Experiment
from pipeline.planning.metrics import COSTS, Column
from pipeline.planning.searches import Space
from pipeline.planning.strict import ParamsError
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


def printed(stems: str) -> list[dict[str, str]]:
    """The published file, read here once more and by other means than the code's; of several, stems are prefixes."""
    lines = []
    for stem in stems.split("+"):
        with (PUBLISHED / f"{stem}.csv").open(newline="", encoding="utf-8") as file:
            lines += [line | {"stem": stem} for line in csv.DictReader(file)]
    prefixed = stems != lines[0]["stem"]
    return [line | {"method": f"{line['stem']}: {line['method']}"} if prefixed else line for line in lines]


TABLES = [item for item in ALL if item.published and item.kind != "statistics"]
WHOLE = [item for item in TABLES if item.name == item.published and "_text" not in item.name]
_LINES = csv.DictReader((PUBLISHED / "index.csv").read_text(encoding="utf-8").splitlines())
INDEX = [line["file"].removesuffix(".csv") for line in _LINES]
# What the prose says of how a network is trained, of a curve or of a machine: no result of a table of ours.
SETTINGS = {
    "J_identities", "K_images", "average_loss_change_percent", "base_lr", "batch_size", "best_erasing_ratio_percent",
    "best_height_ratio", "drop_branch_dim", "dropblock_plus_gamma", "dropblock_plus_height", "dropblock_plus_width",
    "epochs", "erased_percent", "erasing_probability_P", "erasing_ratio_R_percent", "feature_dim", "feature_map_height",
    "feature_map_width", "fig3_epoch_loss_starts_rising", "fig4_R_max_percent", "fig4_R_min_percent",
    "fig6_batch_size", "fig7_width_ratio", "gallery_images_without_junk", "global_dim", "identities_per_batch",
    "images_per_identity", "input_height", "input_width", "lr_decay_epoch_1", "lr_decay_epoch_2", "momentum",
    "p_attention_branch", "p_drop_branch", "parts_k", "reduction_r", "reid_erased_height_ratio",
    "reid_erased_width_ratio", "retrieval_crop", "retrieval_drop_height_ratio", "retrieval_drop_width_ratio",
    "retrieval_resize", "runs_per_configuration", "training_hours", "triplet_margin", "warmup_epochs", "weight_decay",
}  # fmt: skip
# Printed for some rows of a table alone, and all of them in Table 5; the experiment's note says so.
ELSEWHERE = {("sonanet_table4", "Rank-5"), ("sonanet_table4", "Rank-10")}


def shown(experiment: Experiment, line: dict[str, str]) -> int:
    """In how many cells of its published columns an experiment shows a printed number."""
    places = [name.partition(": ") for name in experiment.datasets]
    columns = sum(name == line["dataset"] and words in line["protocol"] for name, _, words in places)
    if experiment.kind == "statistics":
        return columns * (line["metric"] in experiment.metrics) * (line["method"] == "dataset statistics")
    rows = sum(row.published_method == line["method"] for row in experiment.rows)
    return rows * columns * (line["metric"] in experiment.metrics)


def test_every_published_table_is_an_experiment() -> None:
    tables = {stem for stem in INDEX if "_table" in stem}
    assert len(tables) == 41
    assert tables <= set(NAMES)
    assert set(INDEX) == {path.stem for path in PUBLISHED.glob("*.csv")} - {"index"}


@pytest.mark.parametrize("stem", INDEX)
def test_every_published_cell_is_shown_exactly_once(stem: str) -> None:
    """In the prose what is no setting; in its own table each number, and its row is one of ours or of the paper's."""
    ours = [item for item in ALL if item.published == stem]
    for line in printed(stem):
        if (stem, line["metric"]) not in ELSEWHERE and not (stem.endswith("_text") and line["metric"] in SETTINGS):
            found = {item.name: shown(item, line) for item in ours}
            assert sum(found.values()) == 1, (line, found)


@pytest.mark.parametrize("experiment", TABLES, ids=lambda item: item.name)
def test_every_row_of_ours_joins_to_exactly_one_printed_number(experiment: Experiment) -> None:
    lines = printed(str(experiment.published))
    ours = [row for row in experiment.rows if row.method is not None and row.published_method is not None]
    for row, dataset, metric in itertools.product(ours, experiment.datasets, experiment.metrics):
        name, _, words = dataset.partition(": ")
        of_data = [line for line in lines if line["dataset"] == name and words in line["protocol"]]
        if metric in {line["metric"] for line in of_data}:
            asked = [line for line in of_data if (line["method"], line["metric"]) == (row.published_method, metric)]
            assert len(asked) == 1, (row.label, dataset, metric)
        else:
            assert metric in COSTS, (
                row.label,
                dataset,
                metric,
            )  # a paper that prints the one need not print the others


@pytest.mark.parametrize("experiment", WHOLE, ids=lambda item: item.name)
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


def test_an_experiment_is_named_after_its_published_table() -> None:
    stems = {path.stem for path in PUBLISHED.glob("*.csv")}
    named = [item for item in ALL if item.name != item.published and item.kind != "pictures"]
    assert [item.name for item in named if item.published] == ["comparison", "sonanet_stage4"]
    own = {"bdb_branches", "saadb_test_map"}  # what no paper prints
    assert all(
        "_fig" in item.name or item.kind == "search" for item in named if not item.published and item.name not in own
    )
    assert {stem for item in TABLES for stem in str(item.published).split("+")} <= stems


def test_a_figure_has_rows_and_no_printed_numbers(tmp_path: Path) -> None:
    figure = GOOD.replace("bdb_table2:", "bdb_fig7:").replace("  datasets:", "  published: null\n  datasets:")
    experiment = load(tmp_path, figure, "bdb_fig7")
    assert (experiment.kind, experiment.published) == ("table", None)
    assert [row.published_method for row in experiment.rows] == [None, "BDB + Cut", None]


def test_rows_may_join_to_several_papers(tmp_path: Path) -> None:
    text = GOOD.replace("  datasets:", "  published: bdb_table2+han_tableii\n  datasets:")
    text = text.replace("method: bdb, variant: drop_only", 'method: bdb, published_method: "han_tableii: Ours"')
    text = text.replace("published_method: BDB + Cut", 'published_method: "bdb_table2: BDB + Cut"')
    rows = load(tmp_path, text).rows
    assert [row.published_method for row in rows] == ["han_tableii: Ours", "bdb_table2: BDB + Cut", None]
    with pytest.raises(ParamsError, match=r"no method 'bdb_table2: BDB \+ Cat'. Did you mean 'bdb_table2: BDB \+ Cut'"):
        load(tmp_path, text.replace("BDB + Cut", "BDB + Cat"))
    with pytest.raises(ParamsError, match=r"no published table .*han_tabelii\.csv. Did you mean 'han_tableii'"):
        load(tmp_path, text.replace("+han_tableii", "+han_tabelii"))


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
        f"metrics[1] is the text 'map'; allowed: {', '.join(get_args(Column))}; did you mean mAP?",
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
    "counts among scores": (
        "[Rank-1, mAP]",
        "[Rank-1, images]",
        "paper.yaml: bdb_table2: metrics: counts of data sets need a table of their own",
    ),
    "statistics with rows": (
        "[Rank-1, mAP]",
        "[images]",
        "paper.yaml: bdb_table2: counts are of whole data sets: leave rows out",
    ),
    "a reference that is no row": (
        "  title: A table",
        "  title: A table\n  reference: Urs",
        "reference is the text 'Urs'; allowed: Feature Dropping Branch, New, Ours; did you mean Ours?",
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
    "unknown sampler": (
        "trials: 8",
        "trials: 8\n    sampler: tpee",
        "allowed: tpe, random, grid, gp, cmaes; did you mean tpe?",
    ),
    "no halving": (
        "trials: 8",
        "trials: 8\n    pruning: {start: 0.5, factor: 1}",
        "search.pruning.factor is 1; allowed: a whole number, 2 or more",
    ),
    "no budget": ("    trials: 8\n", "", "search: give trials, gpu_hours or both"),
    "a budget of nothing": ("trials: 8", "gpu_hours: 0", "search.gpu_hours is 0; allowed: a number, 1e-06 or more"),
    "a grid without steps": (
        "{low: 0.1, high: 0.9, step: 0.1}\n    trials: 8",
        "{low: 0.1, high: 0.9}\n    sampler: grid",
        "search: the sampler grid needs choices or a step for model.rh",
    ),
    "an unknown objective": ("trials: 8", "trials: 8\n    objective: map", "; did you mean mAP?"),
    "an objective twice": (
        "trials: 8",
        "trials: 8\n    objective: [mAP, mAP]",
        "search: objective: give at least one, and none twice",
    ),
    "time decides": (
        "trials: 8",
        "trials: 8\n    objective: [step_seconds, mAP]",
        "search: objective: the first decides and is a metric; step_seconds may come after it",
    ),
    "pruning by two objectives": (
        "trials: 8",
        "trials: 8\n    objective: [mAP, step_seconds]\n    pruning: {start: 0.5, factor: 2}",
        "search: pruning judges by one objective, and there are several: leave it out",
    ),
    "the wrong rule's settings": (
        "trials: 8",
        "trials: 8\n    pruning: {kind: median, start: 0.5, factor: 2}",
        "search.pruning: median takes warm_up and startup_trials, and nothing else",
    ),
    "half a rule": (
        "trials: 8",
        "trials: 8\n    pruning: {start: 0.5}",
        "search.pruning: halving takes start and factor, and nothing else",
    ),
    "an unknown rule": (
        "trials: 8",
        "trials: 8\n    pruning: {kind: medain}",
        "search.pruning.kind is the text 'medain'; allowed: halving, median; did you mean median?",
    ),
    "a first point that is none": (
        "trials: 8",
        "trials: 8\n    first: {model.rr: 0.3}",
        "search: first.model.rr is not in the space; did you mean model.rh?",
    ),
    "a first point off the steps": (
        "trials: 8",
        "trials: 8\n    first: {model.rh: 0.35}",
        "search: first.model.rh is 0.35; allowed: 0.1 to 0.9 in steps of 0.1",
    ),
    "half a first point": (
        "    trials: 8",
        "      model.rw: {choices: [1, 0.5]}\n    trials: 8\n    first: {model.rh: 0.3}",
        "search: first.model.rw is missing; allowed: 1, 0.5",
    ),
    "a first point that asks for too much": (
        "    trials: 8",
        "      model.rw: {choices: [1, 0.5], when: {model.rh: 0.4}}\n    trials: 8\n"
        "    first: {model.rh: 0.3, model.rw: 1}",
        "search: first.model.rw is not asked for there: see its when",
    ),
    "a condition on what comes later": (
        "      model.rh: {low",
        "      model.rw: {choices: [1, 0.5], when: {model.rh: 0.4}}\n      model.rh: {low",
        "search: space.model.rw.when: model.rh must come before model.rw",
    ),
    "a condition on itself": (
        "step: 0.1}",
        "step: 0.1, when: {model.rh: 0.3}}",
        "search: space.model.rh.when: model.rh waits for it in turn",
    ),
    "conditions in a circle": (
        "step: 0.1}",
        "step: 0.1, when: {model.rw: 1}}\n      model.rw: {choices: [1, 2], when: {model.rh: 0.3}}",
        "search: space.model.rh.when: model.rw waits for it in turn",
    ),
    "a condition that never holds": (
        "    trials: 8",
        "      model.rw: {choices: [1, 0.5], when: {model.rh: [0.3, 0.95]}}\n    trials: 8",
        "search: space.model.rw.when: model.rh is never 0.95; allowed: 0.1 to 0.9 in steps of 0.1",
    ),
    "a second best that is not tested": (
        "winner: true}",
        "winner: true}\n    - {label: Second, method: bdb, winner: 2}",
        "rows: in a search one row has winner: true and a method; elsewhere none has",
    ),
    "a best that has no row": (
        "trials: 8",
        "trials: 8\n    top: 3",
        "elsewhere none has; with top: 3 the others have winner: 2, 3",
    ),
    "a second best of another search": (
        "winner: true}\n  search:",
        "winner: true}\n    - {label: Second, method: bdb, variant: gap, winner: 2}\n  search:\n    top: 2",
        "rows: those of a search's best differ in nothing but their place and label",
    ),
    "nobody wins": (
        ", winner: true",
        "",
        "rows: in a search one row has winner: true and a method; elsewhere none has",
    ),
    "a winner of nothing": (", method: bdb", "", "rows: in a search one row has winner: true and a method"),
}


def test_the_places_of_a_search_s_best_and_its_objectives(tmp_path: Path) -> None:
    rows = "    - {label: Second, method: bdb, winner: 2}\n  search:\n    top: 2\n    objective: [mAP, step_seconds]\n"
    found = load(tmp_path, SEARCH.replace("  search:\n", rows), "height")
    assert [row.place for row in found.rows] == [1, 2]
    assert found.search is not None
    assert found.search.objectives == ("mAP", "step_seconds")
    plain = load(tmp_path, SEARCH, "height").search
    assert plain is not None
    assert plain.objectives == ("mAP",)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.9, 0.1 + 0.1 + 0.1])
def test_a_space_holds_its_steps(value: float) -> None:
    space = Space(low=0.1, high=0.9, step=0.1)
    assert space.holds(value)
    assert not any(space.holds(other) for other in (value + 0.05, value - 1, True, "0.3", None))


READY = [item for item in ALL if item.name.startswith("search_")]


@pytest.mark.parametrize("experiment", READY, ids=lambda item: item.name)
def test_a_ready_search_begins_with_what_is_published(experiment: Experiment) -> None:
    """So that it can never end below it by chance alone; and the published setting is a row beside the best three."""
    assert experiment.search is not None
    assert [row.place for row in experiment.rows] == [0, 1, 2, 3]
    published, best = experiment.rows[:2]
    assert (published.method, published.variant) == (best.method, best.variant)
    model = dataclasses.asdict(methods.variants(str(best.method))[best.variant])
    for path, value in experiment.search.first.items():
        name, _, place = path.removeprefix("model.").partition("[")
        assert value == (model[name][int(place[0])] if place else model[name])


def test_there_is_a_ready_search_for_each_method_that_drops() -> None:
    assert [item.name for item in READY] == ["search_bdb", "search_esnet", "search_saadb", "search_sona"]


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


def test_the_search_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "searches.md").read_text()
    found = load(tmp_path, page.partition("```yaml\n")[2].partition("```")[0], "my_search")
    assert found.search is not None
    assert [row.place for row in found.rows] == [0, 1, 2]
