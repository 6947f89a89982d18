"""Statistics of data sets: counted here by other means, and beside what the papers print."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

from pipeline import report
from pipeline.commands import verify
from pipeline.exports import counts
from pipeline.exports.results import Experiment
from pipeline.planning import published
from pipeline.planning.metrics import COUNTS
from pipeline.planning.published import PublishedError
from pipeline.reporting import captions, inventory, render
from pipeline.reporting.tables import DASH, Table
from tests.pipeline import results_factory as made

NAMES = {"market1501": "Market-1501", "synthetic": "Embedded set"}
MEASURES = [
    "identities",
    "images",
    "cameras",
    "train_ids",
    "test_ids",
    "train_images",
    "query_images",
    "gallery_images",
]


PRINTED = ["Market-1501", "CUHK03-NP: labeled", "CUHK03-NP: detected", "DukeMTMC-reID"]


def statistics(counts: dict[str, dict[str, int]], **changes: Any) -> dict[str, Any]:
    common = {"kind": "statistics", "published": "sonanet_table1", "published_datasets": PRINTED, "metrics": MEASURES}
    return made.experiment("sonanet_table1", [], counts=counts, **common) | changes


def table(counts: dict[str, dict[str, int]], **changes: Any) -> Table:
    experiment = pydantic.TypeAdapter(Experiment).validate_python(statistics(counts, **changes))
    printed = published.load(made.PUBLISHED, experiment.published) if experiment.published else None
    return inventory.table(experiment, datasets=NAMES, printed=printed)


def test_every_count_is_that_of_a_loop() -> None:
    draw = np.random.default_rng(0)
    rows = [
        {"split": str(draw.choice(["train", "query", "gallery", "test"])), "identity": int(draw.integers(-1, 30))}
        | {"camera": int(draw.integers(0, 7))}
        for _ in range(400)
    ]
    found = counts.count(pd.DataFrame(rows), COUNTS)

    def images(*splits: str) -> int:
        return sum(row["split"] in splits for row in rows)

    def people(*splits: str) -> int:
        return len({row["identity"] for row in rows if row["split"] in splits and row["identity"] > 0})

    everything, scored = ("train", "query", "gallery", "test"), ("query", "gallery", "test")
    assert found == {
        "images": 400,
        "bounding_boxes": 400,
        "identities": people(*everything),
        "classes": people(*everything),
        "cameras": len({row["camera"] for row in rows if row["camera"] > 0}),
        "train_images": images("train"),
        "training_images": images("train"),
        "train_ids": people("train"),
        "training_classes": people("train"),
        "test_images": images("gallery", "test"),
        "testing_images": images(*scored),
        "test_ids": people(*scored),
        "testing_classes": people(*scored),
        "query_images": images("query", "test"),
        "gallery_images": images("gallery", "test"),
    }


def test_ours_stand_beside_the_printed_counts() -> None:
    counts = dict.fromkeys(MEASURES, 7) | {"images": 36_036, "identities": 1501}
    built = table({"market1501": counts})
    assert [row.label for row in built.rows] == [
        "Market-1501",
        "CUHK03-NP: labeled",
        "CUHK03-NP: detected",
        "DukeMTMC-reID",
    ]
    assert [row.ours for row in built.rows] == [True, False, False, False]
    by_place = {
        (row.label, group.kind, metric): cell
        for row in built.rows
        for (group, metric), cell in zip(built.columns(), row.cells, strict=True)
    }
    assert by_place["Market-1501", "ours", "images"].text == "36036"
    assert by_place["Market-1501", "published", "images"].text == "32668"
    assert by_place["Market-1501", "difference", "images"].text == "+3368"
    assert by_place["Market-1501", "difference", "identities"].text == "0"
    assert by_place["CUHK03-NP: labeled", "published", "images"].text == "14096"
    assert by_place["CUHK03-NP: detected", "published", "images"].text == "14097"
    assert by_place["DukeMTMC-reID", "ours", "images"].text == DASH


def test_data_that_no_paper_counts_has_a_row_without_a_counterpart() -> None:
    built = table({"synthetic": dict.fromkeys(MEASURES, 7)})
    assert built.rows[0].label == "Embedded set"
    assert [cell.text for cell in built.rows[0].cells] == ["7"] * 8 + [DASH] * 8  # and nothing to subtract
    alone = table({"synthetic": dict.fromkeys(MEASURES, 7)}, published=None, published_datasets=[])
    assert [group.kind for group in alone.groups] == ["ours"]


def test_doubtful_counts_are_marked() -> None:
    metrics = ["identities", "bounding_boxes", "cameras"]
    built = table({}, published="han_tablei", published_datasets=["CUHK03-NP: labeled"], metrics=metrics)
    assert [cell.doubtful for cell in built.rows[0].cells[3:6]] == [False, True, True]
    assert sum(note.startswith("† CUHK03-NP: labeled") for note in captions.notes(built)) == 2
    assert "†" in render.markdown(built)


def test_a_data_set_the_paper_says_nothing_of_is_an_error() -> None:
    printed = published.load(made.PUBLISHED, "bdb_table6")
    assert printed.count(dataset="SOP", metric="query_images") is None
    with pytest.raises(PublishedError, match=r"no statistics of a data set 'CARS'\. .*It has: CARS196, CUB"):
        printed.count(dataset="CARS", metric="images")
    with pytest.raises(PublishedError, match="has 2 numbers for cameras on 'CUHK03-NP'"):
        published.load(made.PUBLISHED, "han_tablei").count(dataset="CUHK03-NP", metric="cameras")


def test_a_table_of_statistics_goes_through_the_whole_report(tmp_path: Path) -> None:
    counts = {"market1501": dict.fromkeys(MEASURES, 7)}
    root = made.write(tmp_path / "root", [made.trial()], made.plan([statistics(counts)], NAMES))
    report.run(root)
    text = (root / "reports/generated/sonanet_table1.md").read_text()
    assert "Ours: counted in the prepared data." in text
    assert "mean ±" not in text
    assert "- Published: SONA-Net, Table 1." in text
    page = (root / "reports/generated/index.html").read_text()
    assert "1 of 4 data sets counted" in page
    assert verify.verify(root).wrong == ()
