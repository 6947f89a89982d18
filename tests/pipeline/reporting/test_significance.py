"""Which cells are compared with which, corrected for how many they are, and what is said of the rest."""

from typing import Any

import numpy as np
import pydantic
import pytest
from statsmodels.stats.multitest import multipletests

from pipeline.exports.queries import Scores
from pipeline.exports.results import Experiment, as_run
from pipeline.reporting import captions, significance, tables
from pipeline.reporting.significance import holm
from pipeline.reporting.tables import Cell, Table
from tests.pipeline import results_factory as made

NAMES = {"synthetic": "Embedded set", "market1501": "Market-1501"}


def row(label: str, level: float, seeds: int = 3, **changes: Any) -> tuple[list[dict[str, Any]], Any]:
    lines = [made.trial(seed=seed, mean_ap=level, model={"name": label}, **changes) for seed in range(seeds)]
    return lines, made.plan_row(label, {lines[0]["dataset"]: [line["key"] for line in lines]}, published=None)


def build(parts: list[Any], scores: Scores | None = None, **changes: Any) -> Table:
    lines = [line for rows, _ in parts for line in rows]
    declared = pydantic.TypeAdapter(Experiment).validate_python(
        made.experiment("own", [entry for _, entry in parts], **changes)
    )
    runs = {line["key"]: as_run(line) for line in lines}
    table = tables.build(declared, datasets=NAMES, runs=runs, printed=None)
    return significance.compared(table, scores or made.scores(lines))


def column(table: Table, metric: str = "mAP") -> list[Cell]:
    place = [name for _, name in table.columns()].index(metric)
    return [found.cells[place] for found in table.rows]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_the_correction_is_holm_s(count: int) -> None:
    draw = np.random.default_rng(count)
    for _ in range(2):
        values = [float(value) for value in draw.random(count).round(2) ** 3]
        np.testing.assert_allclose(holm(values), multipletests(values, method="holm")[1])


def test_rows_are_compared_with_the_first_of_ours_and_marked_by_direction() -> None:
    table = build([row("base", 0.4), row("better", 0.6), row("worse", 0.2), row("alike", 0.4)])
    cells = column(table)
    assert [cell.arrow for cell in cells] == ["", "▲", "▼", ""]
    assert cells[0].comparison is None
    for cell, gap in zip(cells[1:], (20, -20, 0), strict=True):
        found = cell.comparison
        assert found is not None
        assert found.reference == "base"
        assert found.difference == pytest.approx(gap, abs=0.01)
        assert found.low < found.difference < found.high
        assert found.over_seeds
        assert found.num_queries == made.QUERIES
        assert found.num_identities == len(np.unique(made.IDENTITIES))
    note = next(note for note in captions.notes(table) if note.startswith("▲ ▼"))
    assert "above or below base, significant at 5 % by Holm's correction over the 6 comparisons" in note
    assert "speak of the methods" in note
    assert "△" not in note


def test_the_reference_may_be_another_row_and_the_correction_is_over_the_whole_table() -> None:
    table = build([row("a", 0.4), row("b", 0.6), row("c", 0.45)], reference="b")
    cells = column(table)
    assert [cell.arrow for cell in cells] == ["▼", "", "▼"]
    tested = [cell.comparison for line in table.rows for cell in line.cells if cell.comparison]
    assert len(tested) == 4
    assert [one.corrected for one in tested] == pytest.approx(holm([one.p for one in tested]))


def test_of_one_seed_each_the_mark_is_hollow_and_speaks_of_networks() -> None:
    table = build([row("base", 0.4, seeds=1), row("better", 0.6, seeds=1), row("worse", 0.2, seeds=1)])
    assert [cell.arrow for cell in column(table)] == ["", "△", "▽"]
    note = next(note for note in captions.notes(table) if note.startswith("△ ▽"))
    assert "they speak of these trained networks and say nothing of the methods" in note
    assert "▲" not in note


def test_with_both_kinds_in_one_table_both_are_explained() -> None:
    table = build([row("base", 0.4), row("one", 0.6, seeds=1), row("three", 0.6)])
    assert [cell.arrow for cell in column(table)] == ["", "△", "▲"]
    (note,) = (note for note in captions.notes(table) if "Holm" in note)
    assert note.startswith("▲ ▼ or △ ▽: ")


def test_without_a_significant_difference_the_note_says_so() -> None:
    table = build([row("base", 0.4), row("alike", 0.4)])
    assert [cell.arrow for cell in column(table)] == ["", ""]
    assert any("No row is." in note for note in captions.notes(table))


def test_rows_that_differ_on_too_few_identities_are_not_tested() -> None:
    base, other = row("base", 0.4, seeds=1), row("other", 0.4, seeds=1)
    scores = made.scores([*base[0], *other[0]])
    first, second = (lines[0]["key"] for lines, _ in (base, other))
    for arrays in scores.arrays.values():
        changed = arrays[first, ""].copy()
        changed[made.IDENTITIES <= 4] += 1.0
        arrays[second, ""] = changed  # type: ignore[index]
    cell = column(build([base, other], scores))[1]
    assert (cell.comparison, cell.arrow) == (None, "")
    assert cell.untested == "it differs from the reference row on fewer than 10 identities"


def test_what_cannot_be_tested_says_why() -> None:
    base, other = row("base", 0.4), row("other", 0.6)
    base_only = made.scores(base[0])
    assert "mAP is not on record" in column(build([base, other], base_only))[1].untested
    other_only = made.scores(other[0])
    assert column(build([base, other], other_only))[1].untested.endswith("(the reference row)")
    elsewhere = row("other", 0.6, data_digest="e" * 64)
    assert column(build([base, elsewhere]))[1].untested == "scored on other data than the reference row"
    scores = made.scores([*base[0], *other[0]])
    nameless = Scores(arrays=scores.arrays, identities={})
    assert column(build([base, other], nameless))[1].untested == "whose image each query is, is not on record"
    halves = {place: first + 0.5 for place, first in scores.arrays["first_match_rank"].items()}
    tied = Scores(arrays={**scores.arrays, "first_match_rank": halves}, identities=scores.identities)
    table = build([base, other], tied, metrics=["Rank-1"])
    assert "no mean of such values" in column(table, "Rank-1")[1].untested
    assert captions.notes(table) == [
        "Not tested against the reference row: other (Embedded set, Rank-1): Rank-1 is not on record for each query, "
        "or no mean of such values."
    ]


def test_a_reference_row_without_a_number_is_named() -> None:
    base, other = row("base", 0.4, seeds=1), row("other", 0.6, seeds=1)
    base[0][0] = made.unfinished(base[0][0], "failed", "out of memory")
    cells = column(build([base, other]))
    assert [cell.untested for cell in cells] == ["", "the reference row has no number"]


def test_a_seed_that_failed_is_left_out_of_its_row() -> None:
    base, other = row("base", 0.4), row("other", 0.6)
    other[0][2] = made.unfinished(other[0][2], "failed", "out of memory")
    found = column(build([base, other]))[1].comparison
    assert found is not None
    assert found.over_seeds
    assert found.significant


def test_a_lone_row_and_no_row_are_not_compared() -> None:
    table = build([row("base", 0.4)])
    assert column(table)[0].comparison is None
    assert captions.notes(table) == []
    assert build([], metrics=["mAP"]).rows == ()


def test_more_comparisons_than_draws_can_bear_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "DRAWS", 60)
    parts = [row("base", 0.4, seeds=1), *(row(f"row {place}", 0.6, seeds=1) for place in range(3))]
    cells = column(build(parts))
    assert cells[1].untested == "6 comparisons are too many for 60 draws: none could be significant"
