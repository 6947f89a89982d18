"""The comparison: what is drawn of cost and accuracy, and words that say no more than was tested."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from pipeline.drawing.compared_figures import Slope, Spot, scatter, slopes
from pipeline.exports.results import Run, as_run
from pipeline.reporting import comparison, significance, tables
from pipeline.reporting.tables import Comparison, Table
from tests.pipeline import results_factory as made
from tests.pipeline.drawing.test_figures import marks, points, texts
from tests.pipeline.reporting.test_experiment_figures import NAMES, as_experiment

LEVELS = {"Baseline": 0.30, "BDB": 0.36, "SaADB": 0.52, "HA-N": 0.24}
MS = {"Baseline": 2.0, "BDB": 2.5, "SaADB": 4.0, "HA-N": 9.0}


def compared(
    *,
    levels: dict[str, float] = LEVELS,
    seeds: int = 3,
    datasets: tuple[str, ...] = ("synthetic",),
    costs: dict[str, float] = MS,
    devices: dict[str, str] | None = None,
    tested: bool = False,
) -> Table:
    """A table of methods; `tested`: by the values of the queries, as the report does."""
    rows: list[dict[str, Any]] = []
    entries = []
    for label, level in levels.items():
        keys: dict[str, list[str]] = {}
        for place, dataset in enumerate(datasets):
            lines = [
                made.trial(
                    dataset=dataset,
                    seed=seed,
                    mean_ap=level + 0.004 * seed + 0.1 * place,
                    model={"row": label},
                    device=(devices or {}).get(label, "cpu"),
                )
                for seed in range(seeds)
            ]
            rows += lines
            keys[dataset] = [line["key"] for line in lines]
        entries.append(made.plan_row(label, keys, published=None))
    declared = made.experiment("comparison", entries, figure={"kind": "comparison"}, reference="Baseline")
    runs = {row["key"]: costing(as_run(row), costs) for row in rows}
    table = tables.build(as_experiment(declared), datasets=NAMES, runs=runs, printed=None)
    return significance.compared(table, made.scores(rows)) if tested else table


def costing(run: Run, costs: dict[str, float]) -> Run:
    label = run.config["model"]["row"]
    own = {comparison.TIME: costs[label], comparison.SIZE: 10 * costs[label]} if label in costs else {}
    return dataclasses.replace(run, metrics=run.metrics | own)


def judged(table: Table, significant: dict[str, float], *, over_seeds: bool = True) -> Table:
    """The table with comparisons of its mAP: these differences are significant, those of the other rows are not."""

    def cell(label: str, one: tables.Cell) -> tables.Cell:
        difference = significant.get(label, 0.5)
        found = Comparison(
            reference="Baseline",
            difference=difference,
            low=difference - 1,
            high=difference + 1,
            p=0.01,
            corrected=0.02,
            num_queries=240,
            num_identities=60,
            over_seeds=over_seeds,
            significant=label in significant,
        )
        return one if label == "Baseline" else dataclasses.replace(one, comparison=found)

    rows = tuple(dataclasses.replace(row, cells=tuple(cell(row.label, one) for one in row.cells)) for row in table.rows)
    return dataclasses.replace(table, rows=rows)


def test_accuracy_against_each_cost_with_every_name() -> None:
    drawn = {drawing.name: drawing for drawing in comparison.drawings(compared())}
    assert [*drawn] == ["comparison-synthetic-inference_ms_per_image", "comparison-synthetic-params_million"]
    svg = drawn["comparison-synthetic-inference_ms_per_image"].svg
    assert set(LEVELS) <= set(texts(svg))
    xs = [x for x, _, _ in marks(svg)]
    assert xs == sorted(xs)  # the rows are in the order of their times
    heights = [y for _, y, _ in marks(svg)]
    assert np.argsort(heights).tolist() == np.argsort([-level for level in LEVELS.values()]).tolist()
    assert "Times on cpu" in drawn["comparison-synthetic-inference_ms_per_image"].caption


def test_a_row_without_a_cost_is_named_and_no_cost_is_no_figure() -> None:
    known = {label: ms for label, ms in MS.items() if label != "HA-N"}
    first = next(comparison.drawings(compared(costs=known)))
    assert first.caption.endswith("Not drawn, as ms per image were not recorded: HA-N.")
    assert "HA-N" not in texts(first.svg)
    assert list(comparison.drawings(compared(costs={}))) == []
    assert list(comparison.drawings(compared(levels={}))) == []


def test_data_sets_stand_side_by_side_where_there_are_two() -> None:
    *_, last = comparison.drawings(compared(datasets=("synthetic", "market1501")))
    assert last.name == "comparison-datasets"
    assert {"Embedded set", "Market-1501", *LEVELS} <= set(texts(last.svg))


def test_no_label_lies_on_another() -> None:
    spots = [Spot(label=f"Method {place}", x=3.0 + 0.01 * place, y=50 + 0.2 * place, std=None) for place in range(5)]
    svg = scatter(spots, x_title="ms", y_title="mAP")
    found = [
        (float(x), float(y))
        for x, y, text in re.findall(r'<text x="(\S+)" y="(\S+)"[^>]*>([^<]*)<', svg)
        if "Method" in text
    ]
    for place, (x, y) in enumerate(found):
        for other_x, other_y in found[:place]:
            assert abs(x - other_x) > 45 or abs(y - other_y) > 9


def test_names_at_the_ends_of_slopes_are_apart_and_inside() -> None:
    found = [Slope(label=f"Method {place}", values=(40.0, 50.0 + 0.1 * place, None)) for place in range(12)]
    svg = slopes(found, ["a", "b", "c"], y_title="mAP")
    bases = [float(y) for y, text in re.findall(r'<text x="\S+" y="(\S+)"[^>]*>(Method [^<]*)<', svg)]
    assert min(abs(one - other) for place, one in enumerate(bases) for other in bases[:place]) >= 12.9
    height = float(re.findall(r'viewBox="0 0 \S+ (\S+)"', svg)[0])
    assert 0 < min(bases) <= max(bases) < height
    assert max(x for d in re.findall(r'd="(.*?)"', svg) for x, _ in points(d)) <= 440


def test_words_of_what_differs_and_of_what_does_not() -> None:
    table = judged(compared(), {"SaADB": 22.0, "HA-N": -6.0})
    (text,) = comparison.words(table)
    assert text.startswith(
        "On Embedded set, the highest mean mAP of 4 methods is that of SaADB (52.4 ± 0.4 %, 3 seeds)"
    )
    assert "Better than Baseline, Holm-corrected across the table: SaADB (+22.0 points" in text
    assert "Worse than Baseline: HA-N (−6.0 points, 95 % interval −7.0 to −5.0)." in text
    assert "No difference from Baseline is shown for BDB." in text
    assert "Whether SaADB and BDB differ from each other was not tested." in text
    assert "The least time for an image, 2.00 ms on cpu, is that of Baseline." in text
    assert "no other is both quicker and better than SaADB, BDB and Baseline." in text


@pytest.mark.parametrize("word", ["Better than", "Worse than"])
def test_nothing_significant_is_nothing_better_or_worse(word: str) -> None:
    (text,) = comparison.words(judged(compared(), {}))
    assert word not in text
    assert "No difference from Baseline is shown for SaADB, BDB and HA-N." in text


def test_without_tests_only_the_order_of_means_is_said() -> None:
    (text,) = comparison.words(compared())
    assert "No difference between them was tested, so the order of the means is all that can be said." in text
    assert "Better" not in text


def test_one_seed_speaks_of_networks() -> None:
    (text,) = comparison.words(judged(compared(seeds=1), {"SaADB": 22.0}, over_seeds=False))
    assert "this is said of the trained networks, not of the methods" in text
    assert "1 seed)" in text
    assert "trained networks" not in comparison.words(judged(compared(), {}))[0]


def test_speed_is_compared_on_one_device_and_among_all_alone() -> None:
    (text,) = comparison.words(compared(devices={"HA-N": "NVIDIA H200"}))
    assert "Times were taken on different devices (NVIDIA H200 and cpu), so speed is not compared." in text
    (text,) = comparison.words(compared(costs={"BDB": 1.0}))
    assert "The time of an image was not measured for SaADB, Baseline and HA-N, so speed is not compared." in text
    assert "least time" not in text


def test_a_method_alone_and_none_at_all() -> None:
    (text,) = comparison.words(compared(levels={"BDB": 0.3}))
    assert text == "On Embedded set only BDB (30.4 ± 0.4 %, 3 seeds) has a number, so nothing is compared."
    assert comparison.words(compared(levels={})) == ()


def test_of_rows_that_are_alike_no_words_say_that_one_is_better() -> None:
    """The whole way: made-up values of queries, the report's own test, words; 20 tables of 4 equal methods."""
    said = 0
    for number in range(20):
        alike = {"Baseline": 0.3, **{f"{label} {number}": 0.3 for label in ("BDB", "SaADB", "HAN")}}
        (text,) = comparison.words(compared(levels=alike, costs={}, tested=True))
        said += "Better than" in text or "Worse than" in text
    assert said <= 3
    (text,) = comparison.words(compared(levels={"Baseline": 0.2, "BDB": 0.6}, costs={}, tested=True))
    assert "Better than Baseline, Holm-corrected across the table: BDB (+40.0 points" in text
