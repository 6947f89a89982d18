"""Everything behind one number: for people, as JSON and in the page, from one object."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import report
from pipeline.commands import why
from pipeline.exports.results import read_runs
from pipeline.planning.strict import ParamsError
from tests.pipeline import results_factory as made

SEARCHED = "Height found by the search"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_results(tmp_path_factory.mktemp("demo"))


def facts(root: Path, capsys: pytest.CaptureFixture[str], *cell: str) -> dict[str, Any]:
    why.run(root, *cell, as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def told(root: Path, capsys: pytest.CaptureFixture[str], *cell: str) -> str:
    why.run(root, *cell, as_json=False)
    return capsys.readouterr().out


def test_the_runs_are_those_of_the_cell_and_their_mean_is_the_number(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(demo, capsys, "bdb_table2", "Both Branches (BDB)", "mAP")
    runs = read_runs(demo / "results/trials.parquet")
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2]
    values = [run["value"] for run in found["runs"]]
    assert values == [runs[run["key"]].metrics["mAP"] for run in found["runs"]]
    assert found["printed"]["mean"] == f"{100 * sum(values) / 3:.1f}"
    for run in found["runs"]:
        assert (run["commit"], run["code_digest"]) == (runs[run["key"]].commit, runs[run["key"]].code_digest)
        assert run["per_query"].startswith(f"results/trials/{run['key']}/per_query.npz")
        assert run["mlflow"].startswith(f"{made.UI}/#/experiments/1/runs/")
    assert found["protocol"]["rule"] == "cross_camera"


def test_the_published_counterpart_is_named_with_its_line(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(demo, capsys, "bdb_table2", "BDB + Cut", "mAP")["published"]
    lines = (made.PUBLISHED / found["file"]).read_text().splitlines()
    (line,) = csv.DictReader([lines[0], lines[found["line"] - 1]])
    assert (line["method"], line["metric"]) == ("BDB + Cut", "mAP")
    assert line["mean"] == found["mean"] == "86.7"
    text = told(demo, capsys, "bdb_table2", "BDB + Cut", "mAP")
    assert f"reports/published/bdb_table2.csv, line {found['line']}" in text


def test_what_differs_from_the_first_row_and_how_it_compares(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(demo, capsys, "bdb_table2", "Both Branches (BDB)", "Embedded set: mAP")
    assert found["configuration_against_first_row"] == [{"path": "model.drop_branch", "first": "false", "here": "true"}]
    comparison = found["comparison"]
    assert comparison["reference"] == "Global Branch (Baseline)"
    assert comparison["low"] < comparison["difference"] < comparison["high"]
    assert comparison["p"] <= comparison["corrected"]
    text = told(demo, capsys, "bdb_table2", "Both Branches (BDB)", "mAP")
    assert f"{comparison['difference']:+.2f} points against Global Branch (Baseline)" in text
    assert "model.drop_branch: false -> true" in text


def test_the_search_that_found_a_setting_is_in_its_cost(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads((demo / "results/plan.json").read_text())
    runs = read_runs(demo / "results/trials.parquet")
    tried = [runs[trial["key"]] for trial in plan["experiments"][2]["search"]["synthetic"]["trials"]]
    cost = facts(demo, capsys, "bdb_block_height", SEARCHED, "mAP")["cost"]
    assert cost["searched"]["trials"] == len(tried) == 8
    assert cost["searched"]["cpu_hours"] == pytest.approx(sum(run.seconds for run in tried) / 3600)
    assert cost["searched"]["without"] == 1
    assert cost["trained"]["trials"] == 3
    assert facts(demo, capsys, "bdb_block_height", "Height 0.3 (paper)", "mAP")["cost"]["searched"] is None
    assert "the search that found the setting: 8 trials" in told(demo, capsys, "bdb_block_height", SEARCHED, "mAP")


def test_a_scored_network_s_training_is_in_its_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.trial(gpus=0.5, seconds=7200.0)
    scored = made.trial(model={"rh": 0.5}, source=source["key"], gpus=0.5, seconds=3600.0)
    entry = made.plan_row("Scored", {"synthetic": [scored["key"]]}, published=None)
    root = made.write(tmp_path / "root", [source, scored], made.plan([made.experiment("own", [entry])]))
    trained = facts(root, capsys, "own", "Scored", "mAP")["cost"]["trained"]
    assert (trained["trials"], trained["gpu_hours"], trained["cpu_hours"]) == (2, 1.5, 3.0)


def test_the_page_shows_the_same_facts(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.run(demo)
    page = (demo / "reports/generated/index.html").read_text()
    found = facts(demo, capsys, "bdb_block_height", SEARCHED, "mAP")
    panel = page[page.index("<summary>Height found by the search") :].partition("</details>\n</div>")[0]
    assert "the search that found the setting: 8 trials" in panel
    assert f"{found['comparison']['difference']:+.2f} points against Height 0.3 (paper)" in panel
    table = page[page.index('id="bdb_table2"') :]
    assert re.search(r"86\.7 for BDB \+ Cut on Market-1501 \(<code>bdb_table2\.csv</code>, line \d+\)", table)


def test_a_cell_without_a_number_says_what_became_of_its_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = made.unfinished(made.trial(), "failed", "out of memory")
    entry = made.plan_row("BDB", {"synthetic": [lost["key"]]}, published=None)
    root = made.write(tmp_path / "root", [lost], made.plan([made.experiment("own", [entry])]))
    text = told(root, capsys, "own", "BDB", "mAP")
    assert text.startswith("own, BDB, Embedded set: mAP = –\n  lacking: seed 0 failed: out of memory")
    assert "seed 0: no number (failed: out of memory)" in text


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (("bdb_tabel2", "BDB + Cut", "mAP"), r"table is the text 'bdb_tabel2'; allowed: .*; did you mean bdb_table2\?"),
        (("bdb_table2", "BDB + Cat", "mAP"), r"row is the text 'BDB \+ Cat'; .*did you mean BDB \+ Cut\?"),
        (("bdb_table1", "MGN", "mAP"), r"row is the text 'MGN'; allowed: BDB, BDB\+Cut, Baseline, Baseline\+Triplet"),
        (("bdb_table2", "BDB + Cut", "map"), r"column is the text 'map'; allowed: Embedded set: Rank-1, Embedded set"),
    ],
)
def test_unknown_names_are_answered_with_those_there_are(demo: Path, cell: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        why.run(demo, *cell, as_json=False)


def test_of_several_data_sets_the_column_says_which(tmp_path: Path) -> None:
    root = made.make_results(tmp_path / "root", {"synthetic": "Embedded set", "market1501": "Market-1501"})
    assert why.find(root, "bdb_table2", "BDB + Cut", "Market-1501: mAP")[0].column == "Market-1501"
    with pytest.raises(ParamsError, match=r"column is the text 'mAP'; allowed: .*Market-1501: mAP"):
        why.find(root, "bdb_table2", "BDB + Cut", "mAP")
