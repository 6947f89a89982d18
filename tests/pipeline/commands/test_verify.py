"""A single altered digit, wherever a number is printed or stored, is found and its place named."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import report
from pipeline.commands import verify
from pipeline.exports import queries
from pipeline.reporting.alterations import Alteration, Outline, alterations
from pipeline.storage.store import TrialStore
from tests.pipeline import results_factory as made

TWO = {"synthetic": "Embedded set", "market1501": "Market-1501"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = made.make_results(tmp_path_factory.mktemp("demo"), TWO)
    report.run(root)
    return root


@pytest.fixture(scope="module")
def expected(demo: Path) -> tuple[dict[str, str], dict[str, Outline]]:
    """The files of text, and the tables in them."""
    inputs = report.read(demo)
    files = report.build(inputs)
    return {name: text for name, text in files.items() if isinstance(text, str)}, verify.outlines(inputs)


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "copy"))


def other_digit(text: str, place: int) -> str:
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


def test_what_was_left_alone_agrees(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.run(demo, as_json=False) == 0
    said = capsys.readouterr().out
    assert said.endswith("everything agrees\n")
    measured = (
        pd.read_parquet(demo / "results/trials.parquet").query("evaluate_on == 'test'")["status"] == "done"
    ).sum()
    assert f"checked: {measured * 5:,} metrics of trials, from the values of their queries" in said
    assert "cannot be recomputed: 4 values of searches: of trials stopped early, and times" in said
    assert "trials whose record is not in the store here: times, devices, commits" in said


def test_any_altered_digit_of_any_file_of_the_report_is_found(
    expected: tuple[dict[str, str], dict[str, Outline]],
) -> None:
    files, outlines = expected
    draw = np.random.default_rng(0)
    for name, text in files.items():
        digits = [found.start() for found in re.finditer(r"[0-9]", text)]
        assert digits
        for place in draw.choice(digits, min(12, len(digits)), replace=False):
            found = list(alterations(name, other_digit(text, int(place)), text, outlines))
            assert len(found) >= 1, (name, place)
            assert {one.file for one in found} == {name}
            assert all(one.found != one.expected for one in found)


def printed(text: str, pattern: str) -> Iterator[int]:
    """Where the digits are of what a pattern finds."""
    for found in re.finditer(pattern, text):
        yield from (found.start() + at for at, letter in enumerate(found[0]) if letter.isdigit())


@pytest.mark.parametrize(
    ("file", "row", "pattern"),
    [
        ("bdb_table2.md", "Both Branches (BDB)", r"(?m)^\| Both Branches.*$"),
        ("bdb_table2.tex", "Both Branches (BDB)", r"(?m)^Both Branches.*$"),
        ("bdb_table2.csv", "Both Branches (BDB)", r"(?m)^bdb_table2,Both Branches \(BDB\),ours,[^,]*,[^,]*,[\d.]+"),
        ("index.html", "Both Branches (BDB)", r'(?<=<a href="#bdb_table2\.4">)<span class="mean">[\d.]+'),
    ],
)
def test_the_place_of_a_digit_in_a_table_is_named(
    expected: tuple[dict[str, str], dict[str, Outline]], file: str, row: str, pattern: str
) -> None:
    files, outlines = expected
    heads = [f"{name}: {metric}" for name in TWO.values() for metric in ("Rank-1", "mAP")]
    text, columns = files[file], set()
    places = [place for place in printed(text, pattern) if text[place - 1] != "-" and text[place - 4 : place] != "k-1,"]
    assert places
    for place in places:
        (one,) = alterations(file, other_digit(text, place), text, outlines)
        assert (one.table, one.row) == ("bdb_table2", row), str(one)
        columns.add(one.column.removesuffix(": value"))
    assert columns & set(heads)


def test_the_metrics_for_dvc_are_named_by_row_and_metric(expected: tuple[dict[str, str], dict[str, Outline]]) -> None:
    files, outlines = expected
    tree = json.loads(files["metrics.json"])
    right = tree["bdb_table2"]["BDB + Cut"]["Market-1501"]["mAP"]
    tree["bdb_table2"]["BDB + Cut"]["Market-1501"]["mAP"] = right + 0.1
    altered = json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
    (one,) = alterations("metrics.json", altered, files["metrics.json"], outlines)
    assert (one.table, one.row, one.column, one.expected) == ("bdb_table2", "BDB + Cut", "Market-1501: mAP", str(right))


def test_added_and_lost_lines_are_found_at_the_first(expected: tuple[dict[str, str], dict[str, Outline]]) -> None:
    files, outlines = expected
    for name in ("bdb_table2.md", "bdb_table2.csv", "index.html"):
        lines = files[name].split("\n")
        (lost,) = alterations(name, "\n".join(lines[:5] + lines[6:]), files[name], outlines)
        (added,) = alterations(name, files[name] + "more\n", files[name], outlines)
        assert lost.expected
        assert "more" in added.found
    (spaced,) = alterations("metrics.json", files["metrics.json"] + " ", files["metrics.json"], outlines)
    assert spaced.file == "metrics.json"


def wrong(root: Path) -> tuple[Alteration, ...]:
    return verify.verify(root).wrong


def test_an_altered_metric_of_a_trial_is_named_by_its_table_and_row(copy: Path) -> None:
    path = copy / "results/trials.parquet"
    frame = pd.read_parquet(path)
    plan = json.loads((copy / "results/plan.json").read_text())
    row = plan["experiments"][1]["rows"][1]
    key = row["keys"]["market1501"][0]
    right = float(frame.loc[frame["key"] == key, "mAP"].iloc[0])
    frame.loc[frame["key"] == key, "mAP"] = right + 0.001
    frame.to_parquet(path, index=False)
    (one,) = wrong(copy)  # the report is as the values of the queries say, and so it is right
    assert (one.file, one.table, one.row) == ("results/trials.parquet", "bdb_table2", row["label"])
    assert one.column == "Market-1501: mAP"
    assert float(one.expected) == pytest.approx(right, abs=1e-12)


def test_an_altered_value_of_one_query_is_found(copy: Path) -> None:
    path = copy / "results" / queries.PER_QUERY
    table = pq.read_table(path).to_pylist()
    table[3]["average_precision"][7] += 1e-4
    pq.write_table(pa.Table.from_pylist(table), path)
    found = wrong(copy)
    assert [(one.file, one.column.rpartition(": ")[2]) for one in found if one.file.startswith("results")] == [
        ("results/trials.parquet", "mAP")
    ]


def test_an_altered_file_ends_with_exit_code_1_and_names_everything(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "reports/generated/bdb_table2.md"
    text = path.read_text()
    place = next(printed(text, r"(?m)(?<=^\| BDB \+ Cut).*$"))
    path.write_text(other_digit(text, place))
    (copy / "reports/generated/figures/extra.svg").write_text("<svg/>")
    (copy / "reports/generated/bdb_table1.csv").unlink()
    assert verify.run(copy, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)["wrong"]
    assert {(one["file"].removeprefix("reports/generated/"), one["row"]) for one in found} == {
        ("bdb_table2.md", "BDB + Cut"),
        ("figures/extra.svg", ""),
        ("bdb_table1.csv", ""),
    }
    assert verify.run(copy, as_json=False) == 1
    said = capsys.readouterr().out
    assert re.search(
        r"wrong: reports/generated/bdb_table2\.md: bdb_table2, BDB \+ Cut, Embedded set: Rank-1: found '.*', expected",
        said,
    )
    assert said.endswith("3 wrong\n")


def test_an_altered_published_number_no_longer_fits_the_report(copy: Path) -> None:
    path = copy / "reports/published/bdb_table2.csv"
    path.write_text(path.read_text().replace("86.7", "86.8"))
    found = [one for one in wrong(copy) if one.file.endswith("bdb_table2.md")]
    assert (found[0].row, found[0].column) == ("BDB + Cut", "Market-1501, published: mAP")
    assert (found[0].found, found[0].expected) == ("86.7", "86.8")


def test_a_search_s_value_in_the_plan_is_compared_with_its_trial(copy: Path) -> None:
    path = copy / "results/plan.json"
    plan = json.loads(path.read_text())
    plan["experiments"][2]["search"]["synthetic"]["trials"][0]["values"] = [0.99]
    path.write_text(json.dumps(plan))
    named = [(one.table, one.row, one.found) for one in wrong(copy) if one.file == "results/plan.json"]
    assert named == [("bdb_block_height", "search trial 0", "0.99")]


@dataclass(frozen=True)
class Opened:
    """As much of a trial as the store asks for."""

    key: str
    spec: dict[str, str]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A checkout with one table of two rows, and the records of its trials."""
    lines = [made.trial(seed=seed, model={"rh": height}) for height in (0.3, 0.5) for seed in (0, 1)]
    entries = [made.plan_row(f"row {at}", {"synthetic": [line["key"] for line in lines[at : at + 2]]}) for at in (0, 2)]
    table = made.experiment("own", [entry | {"published_method": None} for entry in entries])
    root = made.write(tmp_path / "root", lines, made.plan([table]))
    store, scores = TrialStore(root / "results/trials"), queries.read(root / "results")
    for line in pd.read_parquet(root / "results/trials.parquet").to_dict("records"):
        store.open(Opened(line["key"], {}))  # type: ignore[arg-type]
        result = {
            "status": "done",
            "metrics": {name: line[name] for name in (*made.METRICS, "num_valid", "num_skipped")},
            "epochs": line["epochs"],
            "cost": {name: line[name] for name in ("seconds", "cpus", "gpus", "device")},
            "environment": {name: line[name] for name in ("commit", "dirty", "python", "torch")},
            "started": line["started"],
            "finished": line["finished"],
        }
        store.finish(line["key"], result, {name: arrays[line["key"], ""] for name, arrays in scores.arrays.items()})
    report.run(root)
    return root


def test_results_are_compared_with_the_records_of_the_store(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.run(stored, as_json=False) == 0
    said = capsys.readouterr().out
    assert "checked: 4 records of the store" in said
    assert "checked: 12 arrays of values of queries, against the store" in said
    path = stored / "results" / queries.PER_QUERY
    table = pq.read_table(path).to_pylist()
    table[1]["first_match_rank"][5] += 40.0
    pq.write_table(pa.Table.from_pylist(table), path)
    frame = pd.read_parquet(stored / "results/trials.parquet")
    frame.loc[2, ["seconds", "mINP"]] = [1.0, 0.5]
    frame.to_parquet(stored / "results/trials.parquet", index=False)
    named = {(one.file, one.row, one.column) for one in wrong(stored) if one.file.startswith("results")}
    assert {
        ("results/per_query.parquet", "row 0", "Embedded set: first_match_rank of query 5"),
        ("results/trials.parquet", "row 2", "Embedded set: seconds"),
        ("results/trials.parquet", "row 2", "Embedded set: mINP"),
    } <= named


def test_a_trial_whose_values_were_not_exported_is_found(stored: Path) -> None:
    path = stored / "results" / queries.PER_QUERY
    pq.write_table(pa.Table.from_pylist(pq.read_table(path).to_pylist()[1:]), path)
    found = [one for one in wrong(stored) if one.file.endswith(queries.PER_QUERY)]
    assert [(one.row, one.found, one.expected) for one in found] == [("row 0", "nothing", "240 values")] * 3


def test_without_a_report_the_message_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no report; make it with: dvc repro report"):
        verify.verify(tmp_path)
