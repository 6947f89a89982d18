"""The table as values: means, deviations, marks, joins, holes and warnings, against numbers worked out here."""

import json
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exports.results import Experiment, Run, as_run
from pipeline.planning import published
from pipeline.planning.published import PublishedError
from pipeline.reporting import captions, tables
from pipeline.reporting.tables import Cell, Table
from tests.pipeline import results_factory as made

NAMES = {
    "synthetic": "Embedded set",
    "market1501": "Market-1501",
    "dukemtmcreid->market1501": "Market-1501: trained on DukeMTMC-reID",
}


def build(rows: list[dict[str, Any]], entries: list[Any], **changes: Any) -> Table:
    """A table of `entries` over the trials in `rows`, both as the sweep writes them."""
    declared = pydantic.TypeAdapter(Experiment).validate_python(made.experiment("own", entries, **changes))
    printed = published.load(made.PUBLISHED, declared.published) if declared.published else None
    return tables.build(declared, datasets=NAMES, runs=runs(rows), printed=printed)


def runs(rows: list[dict[str, Any]]) -> dict[str, Run]:
    return {row["key"]: as_run(row) for row in rows}


def seeds(values: list[float], label: str = "BDB", **changes: Any) -> tuple[list[dict[str, Any]], Any]:
    """The trials of one row with these mAPs, and the row."""
    rows = [
        made.trial(seed=seed, mean_ap=value, model={"label": label}, **changes) for seed, value in enumerate(values)
    ]
    return rows, made.plan_row(label, {rows[0]["dataset"]: [row["key"] for row in rows]}, published=None)


def column(table: Table, metric: str = "mAP", kind: str = "ours") -> list[Cell]:
    place = next(index for index, (group, name) in enumerate(table.columns()) if (group.kind, name) == (kind, metric))
    return [row.cells[place] for row in table.rows]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_cell_is_mean_and_sample_deviation_in_percent(values: list[float]) -> None:
    rows, entry = seeds(values)
    (cell,) = column(build(rows, [entry]))
    assert cell.value == pytest.approx(100 * np.mean(values))
    assert abs(float(cell.text) - 100 * np.mean(values)) <= 0.05 + 1e-9
    assert cell.count == f"({len(values)})"
    if len(values) > 1:
        assert abs(float(cell.std) - 100 * np.std(values, ddof=1)) <= 0.05 + 1e-9
    else:
        assert cell.std == ""


def test_the_printed_form_by_hand() -> None:
    rows, entry = seeds([0.30, 0.31, 0.335])
    (cell,) = column(build(rows, [entry]))
    assert (cell.text, cell.std, cell.count, cell.lacking) == ("31.5", "1.8", "(3)", False)


@pytest.mark.parametrize(
    ("means", "marks"),
    [
        ([0.30, 0.50, 0.40], ["", "best", "second"]),
        ([0.50, 0.50, 0.40, 0.40, 0.1], ["best", "best", "second", "second", ""]),
        ([0.5001, 0.4999, 0.3], ["best", "best", "second"]),  # equal as printed
        ([0.4, 0.4], ["best", "best"]),
        ([0.4], [""]),  # alone it is no best
    ],
)
def test_best_and_second_share_their_mark_when_printed_alike(means: list[float], marks: list[str]) -> None:
    parts = [seeds([mean], label=f"row {place}") for place, mean in enumerate(means)]
    table = build([row for rows, _ in parts for row in rows], [entry for _, entry in parts])
    assert [cell.mark for cell in column(table)] == marks


def test_marks_compare_numbers_and_not_text() -> None:
    low, high = seeds([0.095], "low"), seeds([0.105], "high")
    table = build([*low[0], *high[0]], [low[1], high[1]])
    assert [cell.mark for cell in column(table)] == ["second", "best"]


def test_published_numbers_are_never_marked() -> None:
    rows, entry = seeds([0.3], "mine")
    other = made.plan_row("MGN", {}, method=None)
    table = build(rows, [entry, other], published="bdb_table1", published_datasets=["Market-1501"])
    assert {cell.mark for cell in column(table, kind="published")} == {""}
    assert [row.ours for row in table.rows] == [True, False]


def test_failed_and_missing_seeds_show_in_the_count_and_in_the_reason() -> None:
    rows, entry = seeds([0.30, 0.32, 0.90])
    rows[2] = made.unfinished(rows[2], "failed", "out of memory")
    (cell,) = column(build(rows, [entry]))
    assert (cell.text, cell.count, cell.lacking) == ("31.0", "(2/3)", True)
    assert cell.reason == "seed 2 failed: out of memory"


def test_a_cell_without_any_result_is_a_dash_and_says_why() -> None:
    rows, entry = seeds([0.30, 0.32])
    rows = [made.unfinished(rows[0], "failed", "no space left"), made.unfinished(rows[1], "missing")]
    (cell,) = column(build(rows, [entry]))
    assert (cell.value, cell.text, cell.count) == (None, tables.DASH, "")
    assert cell.reason == "seed 0 failed: no space left; seed 1 missing"


def test_a_pruned_trial_is_not_a_result() -> None:
    rows, entry = seeds([0.30, 0.32])
    rows[1]["status"] = "pruned"
    (cell,) = column(build(rows, [entry]))
    assert (cell.text, cell.count, cell.reason) == ("30.0", "(1/2)", "seed 1 pruned")


def test_costs_are_no_percentages_and_have_no_best() -> None:
    rows, entry = seeds([0.3, 0.4])
    other, fast = seeds([0.3, 0.4], "other")
    for place, row in enumerate([*rows, *other]):
        row |= {"params_million": 34.8, "multiply_adds_billion": 12.346, "inference_ms_per_image": 7.0 + place / 4}
    names = ["params_million", "multiply_adds_billion", "inference_ms_per_image"]
    table = build([*rows, *other], [entry, fast], metrics=names)
    assert [(cell.text, cell.std) for cell in table.rows[0].cells] == [("34.8", ""), ("12.35", ""), ("7.12", "0.18")]
    assert {cell.mark for row in table.rows for cell in row.cells} == {""}


def test_costs_stand_beside_the_printed_ones() -> None:
    rows, entry = seeds([0.3], "with SONA2", dataset="market1501")
    rows[0] |= {"inference_ms_per_image": 5.0, "params_million": 40.0}
    entry["published_method"] = "with SONA2"
    table = build(
        rows,
        [entry],
        metrics=["inference_ms_per_image", "params_million"],
        published="sonanet_text",
        published_datasets=["Market-1501"],
    )
    assert [(group.kind, group.metrics) for group in table.groups[1:]] == [
        (kind, ("inference_ms_per_image",)) for kind in ("published", "difference")
    ]
    assert [(cell.text, cell.std) for cell in table.rows[0].cells] == [
        ("5.00", ""),
        ("40.0", ""),
        ("8.44", "0.09"),
        (f"{tables.MINUS}3.4", ""),
    ]


def test_a_metric_that_was_not_measured_is_a_dash() -> None:
    rows, entry = seeds([0.3, 0.4])
    for row in rows:
        row["Rank-1"] = float("nan")
    table = build(rows, [entry])
    assert [cell.text for cell in table.rows[0].cells] == [tables.DASH, "35.0"]


def test_the_winner_of_an_unfinished_search_is_a_dash() -> None:
    rows, entry = seeds([0.3])
    table = build(rows, [entry, made.plan_row("winner", {"synthetic": []}, published=None)])
    assert [(cell.text, cell.reason) for cell in table.rows[1].cells] == [(tables.DASH, "not declared yet")] * 2


def test_a_data_set_of_its_own_name_gets_published_numbers_and_differences() -> None:
    rows, entry = seeds([0.843, 0.853], "BDB", dataset="market1501")
    entry["published_method"] = "BDB"
    table = build(rows, [entry], published="bdb_table1", published_datasets=["Market-1501"])
    assert [(group.kind, group.title, group.not_comparable) for group in table.groups] == [
        ("ours", "Market-1501", ""),
        ("published", "Market-1501", ""),
        ("difference", "Market-1501", ""),
    ]
    assert [cell.text for cell in table.rows[0].cells[2:]] == [
        "94.2",
        "84.3",
        "+5.8",
        "+0.5",
    ]  # Rank-1 is capped at 100


def test_a_difference_is_that_of_the_printed_numbers() -> None:
    rows, entry = seeds([0.84251], "BDB", dataset="market1501")  # 84.251 is printed 84.3, as is the paper's
    entry["published_method"] = "BDB"
    table = build(rows, [entry], published="bdb_table1", published_datasets=["Market-1501"])
    assert column(table, "mAP", "difference")[0].text == "0.0"
    rows, entry = seeds([0.80], "BDB", dataset="market1501")
    entry["published_method"] = "BDB"
    table = build(rows, [entry], published="bdb_table1", published_datasets=["Market-1501"])
    assert column(table, "mAP", "difference")[0].text == f"{tables.MINUS}4.3"


def test_another_data_set_gets_the_first_published_one_and_no_difference() -> None:
    rows, entry = seeds([0.3], "BDB")
    entry["published_method"] = "BDB"
    names = ["Market-1501", "CUHK03-NP: detected"]
    table = build(rows, [entry], published="bdb_table1", published_datasets=names)
    assert [(group.kind, group.title) for group in table.groups] == [
        ("ours", "Embedded set"),
        ("published", "Market-1501"),
    ]
    assert table.groups[1].not_comparable == "measured on Embedded set, published on Market-1501"


def test_under_another_rule_nothing_is_compared() -> None:
    rows, entry = seeds([0.3], "BDB", dataset="market1501")
    protocol = json.loads(rows[0]["protocol"]) | {"rule": "query_gallery"}
    rows[0]["protocol"] = json.dumps(protocol)
    table = build(rows, [entry], published="bdb_table1", published_datasets=["Market-1501"])
    assert [group.kind for group in table.groups] == ["ours", "published"]
    assert table.groups[1].not_comparable == (
        "Market-1501 is scored here by the rule query_gallery, in the papers by cross_camera"
    )


def test_a_row_by_another_embedding_shows_that_one_s_numbers() -> None:
    rows, whole = seeds([0.3, 0.4])
    for row in rows:
        row["drop/mAP"], row["drop/Rank-1"] = row["mAP"] / 2, 0.1
    branch = made.plan_row("Drop branch", whole["keys"], published=None, embedding="drop")
    table = build(rows, [whole, branch])
    assert [cell.text for cell in column(table)] == ["35.0", "17.5"]
    assert [panel.values("Rank-1") for panel in table.panels][1] == [0.1, 0.1]
    assert table.rows[1].cells[0].panel == 1


def test_a_transfer_joins_the_numbers_printed_for_its_training_set_and_names_withdrawn_data() -> None:
    rows, entry = seeds([0.2], dataset="dukemtmcreid->market1501")
    entry["published_method"] = "Baseline"
    table = build(
        rows,
        [entry],
        published="han_tableviii",
        published_datasets=["Market-1501: trained on DukeMTMC-reID"],
    )
    assert [group.kind for group in table.groups] == ["ours", "published", "difference"]
    assert column(table, kind="published")[0].text == "12.65"
    assert column(table, kind="difference")[0].text == "+7.4"
    (notice,) = table.groups[0].withdrawn
    assert "withdrew in 2019" in notice
    assert notice in captions.notes(table)
    assert build(*_plain()).groups[0].withdrawn == ()


def _plain() -> tuple[list[dict[str, Any]], list[Any]]:
    rows, entry = seeds([0.3])
    return rows, [entry]


def test_a_metric_the_paper_does_not_print_has_no_published_column() -> None:
    rows, entry = seeds([0.3])
    table = build(rows, [entry], metrics=["mINP", "mAP"], published="bdb_table1", published_datasets=["Market-1501"])
    assert [(group.kind, group.metrics) for group in table.groups] == [
        ("ours", ("mINP", "mAP")),
        ("published", ("mAP",)),
    ]


def test_joins_that_find_nothing_are_errors() -> None:
    rows, entry = seeds([0.3], "mine")
    entry["published_method"] = "Mine"
    with pytest.raises(PublishedError, match="no method 'Mine'"):
        build(rows, [entry], published="bdb_table1", published_datasets=["Market-1501"])
    with pytest.raises(PublishedError, match="no data set 'MSMT17'"):
        build(*_one("x"), published="bdb_table1", published_datasets=["Market-1501", "MSMT17"])
    entry["published_method"] = "BDB"
    with pytest.raises(PublishedError, match="2 numbers for Rank-1 on 'CUHK03-NP'"):
        build(rows, [entry], published="bdb_table1", published_datasets=["CUHK03-NP"])


def _one(label: str) -> tuple[list[dict[str, Any]], list[Any]]:
    rows, entry = seeds([0.3], label)
    return rows, [entry]


def test_a_plan_and_trials_of_different_sweeps_are_an_error() -> None:
    rows, entry = seeds([0.3, 0.4])
    with pytest.raises(ValueError, match=rf"own, row 'BDB': trial {rows[1]['key']} is not in the table of trials"):
        build(rows[:1], [entry])


def test_two_rows_of_one_label_are_an_error() -> None:
    rows, entry = seeds([0.3])
    with pytest.raises(ValueError, match="own: two rows are named 'BDB'"):
        build(rows, [entry, entry])


def test_panels_keep_the_runs_of_every_cell() -> None:
    first, second = seeds([0.3, 0.4], "a"), seeds([0.5], "b")
    table = build([*first[0], *second[0]], [first[1], second[1]])
    assert [[run.key for run in panel.runs] for panel in table.panels] == [
        [row["key"] for row in rows] for rows, _ in (first, second)
    ]
    assert [cell.panel for row in table.rows for cell in row.cells] == [0, 0, 1, 1]
    assert table.panels[1].first.key == first[0][0]["key"]


def _two(change: dict[str, Any], **columns: Any) -> Table:
    """Two rows on one data set, the second with a change of its recipe or of its columns."""
    first, second = seeds([0.3], "first"), seeds([0.4], "second", recipe_changes=change, **columns)
    return build([*first[0], *second[0]], [first[1], second[1]])


@pytest.mark.parametrize(
    ("change", "columns", "what"),
    [
        ({}, {"protocol": json.dumps({"rule": "cross_camera", "flip": True})}, "protocol: flip (Embedded set)"),
        ({}, {"data_digest": "f" * 64}, "data digest (Embedded set)"),
        ({}, {"code_digest": "f" * 64}, "code digest (bdb)"),
        ({"precision": "bf16"}, {}, "precision"),
        ({}, {"torch": "2.10.0"}, "torch version"),
    ],
)
def test_rows_that_differ_in_what_should_be_equal_are_warned_of(
    change: dict[str, Any], columns: dict[str, Any], what: str
) -> None:
    assert any(
        warning.startswith(f"Runs of this table differ in {what},") for warning in _two(change, **columns).warnings
    )
    assert all("first" in warning and "second" in warning for warning in _two(change, **columns).warnings)


def test_what_may_differ_gives_no_warning() -> None:
    assert _two({}).warnings == ()
    assert _two({"image_size": (96, 48)}).warnings == ()
    assert _two({}, method="han", code_digest="f" * 64).warnings == ()  # another method has other code


def test_data_sets_are_not_compared_with_each_other() -> None:
    first, second = seeds([0.3], "first"), seeds([0.4], "second", dataset="market1501")
    assert first[0][0]["data_digest"] != second[0][0]["data_digest"]
    assert build([*first[0], *second[0]], [first[1], second[1]]).warnings == ()
