"""Figures that experiments ask for: what lies where, what is named by the paper, and what is said of it."""

import dataclasses
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline import report
from pipeline.drawing.figures import Drawing
from pipeline.drawing.line_figures import CellOf, Level, Line, by_epoch, cells, sweep
from pipeline.drawing.plot import Plot, Scale
from pipeline.exports import curves, results
from pipeline.exports.curves import Curves
from pipeline.planning import experiments, figure_kinds, published
from pipeline.planning.params import load
from pipeline.planning.plan import resolve
from pipeline.planning.strict import ParamsError
from pipeline.reporting import experiment_figures, tables
from pipeline.reporting.experiment_figures import half_width
from pipeline.reporting.tables import Table
from tests.conftest import ROOT
from tests.pipeline import results_factory as made
from tests.pipeline.drawing.test_figures import marks, points, texts

NAMES = {"synthetic": "Embedded set", "market1501": "Market-1501"}


def drawn(name: str, *, seeds: int = 3, dataset: str = "synthetic", lost: int = 0) -> tuple[Drawing, ...]:
    """An experiment's figures; the last `lost` of its trials have failed."""
    rows, declared = made.figures(seeds, dataset)
    wanted = next(one for one in declared if one["name"] == name)
    keys = [key for row in wanted["rows"] for key in row["keys"][dataset]]
    gone = keys[len(keys) - lost :]
    lines = [made.unfinished(row, "failed") if row["key"] in gone else row for row in rows]
    runs = {row["key"]: results.as_run(row) for row in lines}
    table = tables.build(as_experiment(wanted), datasets=NAMES, runs=runs, printed=None)
    records = {row["key"]: made.losses(row) for row in lines if row["epochs"]}
    return experiment_figures.build(table, Curves(curves.table(dict(sorted(records.items())))), stated(table))


def as_experiment(content: dict[str, Any]) -> results.Experiment:
    return pydantic.TypeAdapter(results.Experiment).validate_json(json.dumps(content))


def stated(table: Table) -> dict[str, published.PublishedTable]:
    stems = figure_kinds.stems(table.experiment.figure)
    return {stem: published.load(made.PUBLISHED, stem) for stem in stems}


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_the_interval_is_student_s(values: list[float]) -> None:
    if statistics.stdev(values) < 1e-9:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert math.isnan(half_width(values[:1]))


def test_the_interval_holds_the_mean_of_the_seeds_19_times_in_20() -> None:
    draws = np.random.default_rng(0).normal(50, 2, (2000, 3))
    inside = [abs(row.mean() - 50) <= half_width([*map(float, row)]) for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_a_curve_for_each_metric_with_a_mark_for_each_row() -> None:
    rank1, mean_ap = drawn("bdb_fig7a")
    assert (rank1.name, mean_ap.name) == ("bdb_fig7a-synthetic-Rank-1", "bdb_fig7a-synthetic-mAP")
    in_colour = [style for _, _, style in marks(mean_ap.svg) if "--c1" in style]
    assert len(in_colour) == 5 + 1  # and one in the legend
    assert "95 % interval of the mean over the seeds (Student's t, 3 seeds)" in mean_ap.caption
    assert {"0.1", "0.2", "0.3", "0.4", "0.5"} <= set(texts(mean_ap.svg))


def test_the_paper_s_best_is_ringed_at_its_place() -> None:
    svg = drawn("bdb_fig7a")[1].svg
    rings = [x for x, _, style in marks(svg) if "stroke: currentColor" in style]
    places = sorted(x for x, _, style in marks(svg) if "fill: var(--c1" in style)
    assert pytest.approx(sorted(places)[3], abs=0.2) == max(rings)  # the third of five heights; the first is the legend
    assert "best, as the paper names it" in texts(svg)


def test_each_series_has_its_own_line_and_best() -> None:
    svg = drawn("esnet_fig4")[0].svg
    assert {"ESB", "AIB+ESB"} <= set(texts(svg))
    rings = [x for x, _, style in marks(svg) if "stroke: currentColor" in style and "fill: none" in style]
    assert len(set(rings)) == 2 + 1
    assert "erased share R, percent of the pixels" in texts(svg)
    assert {"0", "10", "20", "30", "40"} <= set(texts(svg))


def test_printed_levels_are_drawn_on_their_own_data_set_alone() -> None:
    words = "Baseline + Triplet (BDB, Table 4): "
    assert not [text for one in drawn("bdb_fig7a") for text in texts(one.svg) if words in text]
    there = [text for one in drawn("bdb_fig7a", dataset="market1501") for text in texts(one.svg) if words in text]
    printed = published.load(made.PUBLISHED, "bdb_table4")
    numbers = [
        printed.find(method="Baseline + Triplet", dataset="Market-1501", metric=metric) for metric in ("Rank-1", "mAP")
    ]
    assert [text.removeprefix(words)[:4] for text in there] == [number.mean for number in numbers if number]


def test_one_seed_has_no_band_and_says_so() -> None:
    alone = drawn("bdb_fig7a", seeds=1)[0]
    assert alone.caption == "One seed has no interval."
    assert "fill-opacity: 0.16" not in alone.svg
    assert "fill-opacity: 0.16" in drawn("bdb_fig7a", seeds=2)[0].svg
    part = drawn("bdb_fig7a", seeds=3, lost=2)[0]
    assert part.caption.endswith("(Student's t, 1 to 3 seeds). One seed has no interval.")


def test_rows_without_a_number_are_left_out_and_nothing_at_all_is_no_figure() -> None:
    svg = drawn("bdb_fig7a", lost=3)[1].svg
    assert len([style for _, _, style in marks(svg) if "--c1" in style]) == 4 + 1
    assert drawn("bdb_fig7a", lost=15) == ()
    assert drawn("esnet_fig6", lost=12) == ()
    assert drawn("esnet_fig3", lost=9) == ()


def test_a_cell_for_each_pair_and_the_others_empty() -> None:
    mean_ap = drawn("esnet_fig6")[1]
    shown = texts(mean_ap.svg)
    assert len([text for text in shown if re.fullmatch(r"\d\d\.\d ± \d\.\d", text)]) == 4
    assert {"2", "4", "8", "16", "32"} <= set(shown)
    assert mean_ap.svg.count("fill-opacity: 0.04") == 16  # 4 x 4 places
    assert "setting that the paper names" in shown


def test_the_frame_is_around_the_paper_s_pair() -> None:
    found = [CellOf(x=k, y=64 / k, mean=50 + k, std=None) for k in (2.0, 4.0, 8.0, 16.0)]
    svg = cells(found, best=(4.0, 16.0), titles=("K", "J"), metric="mAP")
    (frame,) = [
        points(d)
        for d, colour in re.findall(r'd="(.*?)" style="fill: none; stroke: (.*?);', svg)
        if "M" in d and colour.startswith("var(--accent-2") and d.count("L") == 4
    ]
    middle = (frame[0][0] + frame[2][0]) / 2, (frame[0][1] + frame[2][1]) / 2
    value = next((float(x), float(y)) for x, y in re.findall(r'<text x="(\S+)" y="(\S+)"[^>]*>54\.0</text>', svg))
    assert middle == pytest.approx((value[0], value[1] - 4), abs=0.2)
    assert "--accent-2" not in cells(found, best=None, titles=("K", "J"), metric="mAP")


def test_the_loss_on_erased_images_by_epoch() -> None:
    (figure,) = drawn("esnet_fig3")
    assert {"Base", "Base+BESM", "Base+BESM+P-pooling", "epoch 55 that the paper names"} <= set(texts(figure.svg))
    assert "Student's t, 3 seeds" in figure.caption


def test_an_epoch_that_is_not_reached_is_told_in_words() -> None:
    line = Line(label="a", x=(1.0, 2.0), mean=(2.0, 1.0), low=(1.5, 0.5), high=(2.5, 1.5))
    assert "named" in by_epoch([line], y_title="loss", mark=(2.0, "named"))
    assert "named" not in by_epoch([line], y_title="loss", mark=(55.0, "named"))


def test_a_level_far_away_does_not_squeeze_the_curve() -> None:
    line = Line(
        label="a", x=(1.0, 2.0), mean=(20.0, 22.0), low=(19.0, 21.0), high=(21.0, 23.0), seeds=((20.0,), (22.0,))
    )
    near, far = (
        sweep([line], [Level(label="printed", value=value)], x_title="x", y_title="y") for value in (22.5, 95.0)
    )
    assert near.count("stroke-dasharray") == far.count("stroke-dasharray") + 1
    assert "printed, outside the frame" in far
    assert "95" not in texts(far)


# --- scales ---


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.booleans())
def test_ticks_are_round_increasing_and_inside(low: float, span: float, log: bool) -> None:
    scale = Scale.over([abs(low) + 0.01, abs(low) + 0.01 + span], log=True) if log else Scale.over([low, low + span])
    ticks = scale.ticks()
    values = [value for value, _ in ticks]
    assert values == sorted(values)
    assert 1 <= len(values) <= 7
    room = 1e-9 * (abs(scale.low) + abs(scale.high))
    assert all(scale.low - room <= value <= scale.high + room for value in values)
    assert len({text for _, text in ticks}) == len(ticks)
    for value, text in ticks:
        assert float(text) == pytest.approx(value, rel=5e-3, abs=1e-9 + 0.005 * (scale.high - scale.low))


@pytest.mark.parametrize("last", [1, 2, 3, 7, 12, 13, 40, 120, 150, 400])
def test_epochs_are_whole_numbers(last: int) -> None:
    ticks = Scale(0.0, float(last), whole=True).ticks()
    assert [text for _, text in ticks] == [str(round(value)) for value, _ in ticks]
    assert 2 <= len(ticks) <= 7


def test_places_are_in_proportion_and_kept_in_the_frame() -> None:
    plot = Plot(Scale(0, 10), Scale(0, 4), x_title="x")
    (left, middle, right) = plot.places([(0, 0), (5, 2), (10, 99)])
    assert middle == pytest.approx(((left[0] + right[0]) / 2, (plot.top + plot.bottom) / 2))
    assert right[1] == plot.top


# --- what an experiment may not ask for ---


def experiment(**figure: Any) -> experiments.Experiment:
    declared = experiments.load(("bdb_fig7a",))[0]
    return declared.model_copy(
        update={"figure": figure_kinds.Curve(**({"kind": "curve", "x": "model.rh", "title": "t"} | figure))}
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.rhh", r"model\.rhh of bdb is unknown; did you mean model\.rh"),
        ("recipe.schedule.name", r'recipe\.schedule\.name is "S1" of bdb; only numbers have a place'),
    ],
)
def test_a_figure_over_what_a_row_lacks_is_an_error_before_anything_runs(path: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        resolve(load(ROOT / "params.yaml"), [experiment(x=path)])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("best_height_ratio", "best_hight", r"bdb_text\.csv: 0 numbers for 'BDB', 'best_hight'"),
        ("bdb_table4: Baseline + Triplet", "bdb_table4: Base", r"bdb_table4\.csv: no method 'Base'; it has: Baseline"),
        ("bdb_table4: Baseline", "bdb_tabel4: Baseline", r"no published table .*Did you mean 'bdb_table4'"),
        (
            "kind: curve",
            "kind: curves",
            r"own\.yaml: bdb_fig7a: figure\.kind is the text 'curves'; allowed: .*mean curve",
        ),
        ("    title: height", "    titel: height", r"figure\.titel is unknown; did you mean figure\.title"),
    ],
)
def test_a_wrong_figure_is_an_error_that_names_it(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (experiments.FOLDER / "bdb.yaml").read_text()
    start = text.index("bdb_fig7a:")
    own = text[start : text.index("bdb_fig7b:")].replace(old, new)
    (tmp_path / "own.yaml").write_text(own)
    with pytest.raises(ParamsError, match=message):
        experiments.load(("bdb_fig7a",), folder=tmp_path)


# --- in the report ---


def test_the_table_stays_under_the_figure_and_learning_curves_are_folded(tmp_path: Path) -> None:
    rows, declared = made.figures(2)
    root = made.write(tmp_path / "root", rows, made.plan(declared))
    report.run(root)
    page = (root / "reports/generated/index.html").read_text()
    section = page[page.index('id="bdb_fig7a"') : page.index('id="bdb_fig7b"')]
    assert section.index("<figure>") < section.index('<div class="beside">') < section.index("Learning curves")
    assert section.count("<figure>") == 2 + 1
    names = {path.name for path in (root / "reports/generated/figures").iterdir()}
    assert {"bdb_fig7a-synthetic-mAP.svg", "esnet_fig3-synthetic-loss-1.svg", "bdb_fig7b-synthetic-loss-2.svg"} <= names


def test_rows_of_the_same_networks_have_one_learning_curve() -> None:
    row = made.trial()
    entries = [made.plan_row(label, {"synthetic": [row["key"]]}, published=None) for label in ("own", "branch")]
    table = tables.build(
        as_experiment(made.experiment("t", entries)),
        datasets=NAMES,
        runs={row["key"]: results.as_run(row)},
        printed=None,
    )
    (figure,) = experiment_figures.learning(table, Curves(curves.table({row["key"]: made.losses(row)})))
    assert [text for text in texts(figure.svg) if text in ("own", "branch")] == ["own"]
    assert figure.caption == "One seed."
    nothing = dataclasses.replace(table, panels=())
    assert experiment_figures.learning(nothing, Curves(curves.table({}))) == ()
