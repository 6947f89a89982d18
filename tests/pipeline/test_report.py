"""The stage from files to files: the demo's results in, a page, tables, figures and numbers for DVC out."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image

from pipeline import report
from pipeline.exports.results import STATUSES, PlanFile, SearchEntry, as_run, read_plan, read_runs
from pipeline.reporting.search_report import importances, tried
from tests.pipeline import results_factory as made

CHROMIUM = shutil.which("chromium")
TWO = {"synthetic": "Embedded set", "market1501": "Market-1501"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = made.make_results(tmp_path_factory.mktemp("demo"))
    report.run(root)
    return root


def contents(root: Path) -> dict[str, bytes]:
    folder = root / "reports" / "generated"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_experiment_gets_its_files(demo: Path) -> None:
    names = {*contents(demo)}
    for stem in ("bdb_table1", "bdb_table2", "bdb_block_height"):
        assert {f"{stem}.md", f"{stem}.tex", f"{stem}.csv", f"plots/tables/{stem}.csv"} <= names
        assert {f"figures/{stem}-synthetic-{metric}.svg" for metric in ("Rank-1", "mAP")} <= names
    assert {"index.html", "metrics.json", "plots/searches/bdb_block_height.csv"} <= names
    assert "plots/searches/bdb_table1.csv" not in names


def test_the_same_results_give_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    again = made.make_results(tmp_path / "again")
    report.run(again)
    assert contents(again) == contents(demo)


def test_a_report_leaves_nothing_of_the_one_before(demo: Path) -> None:
    stale = demo / "reports" / "generated" / "figures" / "gone.svg"
    stale.write_text("old")
    report.run(demo)
    assert not stale.exists()


def test_metrics_are_the_printed_numbers(demo: Path) -> None:
    metrics = json.loads((demo / "reports/generated/metrics.json").read_text())
    frame = pd.read_parquet(demo / "results/trials.parquet").set_index("key")
    plan = json.loads((demo / "results/plan.json").read_text())
    checked = 0
    for experiment in plan["experiments"]:
        for row in experiment["rows"]:
            for keys in row["keys"].values():
                done = frame.loc[keys].query("status == 'done'")
                numbers = metrics[experiment["name"]][row["label"]]["Embedded set"]
                assert numbers["mAP"] == pytest.approx(100 * done["mAP"].mean(), abs=0.0501)
                assert numbers["mAP_std"] == pytest.approx(100 * np.std(done["mAP"], ddof=1), abs=0.0501)
                checked += 1
    assert checked == 4 + 5 + 2
    assert not any(other in metrics["bdb_table1"] for other in made.OTHERS)


def test_the_counts_at_the_top_add_up(demo: Path) -> None:
    page = (demo / "reports/generated/index.html").read_text()
    found = re.search(r"(\d+) declared = (\d+) done \+ (\d+) pruned \+ (\d+) failed \+ (\d+) missing", page)
    assert found
    declared, *parts = map(int, found.groups())
    frame = pd.read_parquet(demo / "results/trials.parquet")
    assert declared == sum(parts) == len(frame)
    assert parts == [int((frame["status"] == status).sum()) for status in STATUSES]


def test_the_page_says_when_and_from_which_commit(demo: Path) -> None:
    runs = read_runs(demo / "results/trials.parquet")
    header = dict(report.header(read_plan(demo / "results/plan.json"), runs))
    assert header["Latest result"] == "2026-03-01 12:02 UTC"
    assert header["Commit"] == made.digest("commit", length=40)[:10]
    seconds = sum(run.seconds for run in runs.values())
    assert header["Training time"] == f"{seconds / 60:.0f} min on cpu"


def test_several_commits_and_changes_are_all_named() -> None:
    rows = [
        made.trial(seed=0),
        made.trial(seed=1, dirty=True),
        made.trial(seed=2, commit="e" * 40, device="NVIDIA H200"),
    ]
    runs = {row["key"]: as_run(row) for row in rows}
    plan = PlanFile(
        store="results/trials", profile="demo", datasets={}, transfers={}, seeds=[0], mlflow_ui=made.UI, experiments=[]
    )
    header = dict(report.header(plan, runs))
    commit = made.digest("commit", length=40)[:10]
    assert header["Commit"] == f"{commit}, {commit} + uncommitted changes, eeeeeeeeee"
    assert header["Training time"] == "3 min on cpu, 2 min on NVIDIA H200"


def test_nothing_finished_is_a_page_too(tmp_path: Path) -> None:
    row = made.unfinished(made.trial(), "missing")
    entry = made.plan_row("BDB", {"synthetic": [row["key"]]})
    table = made.experiment("bdb_table1", [entry], published="bdb_table1", published_datasets=["Market-1501"])
    report.run(made.write(tmp_path / "root", [row], made.plan([table])))
    page = (tmp_path / "root/reports/generated/index.html").read_text()
    assert "1 declared = 0 done + 0 pruned + 0 failed + 1 missing" in page
    assert "none yet" in page
    assert "* BDB (Embedded set): seed 0 missing." in page
    assert "<svg" not in page


def test_the_search_is_shown_with_its_winner_and_what_it_saw(demo: Path) -> None:
    page = (demo / "reports/generated/index.html").read_text()
    search = page[page.index('<div class="search">') :]
    assert "The search saw only identities held out of the training set" in search
    assert re.search(r"Winner: trial 4, <code>model\.rh</code> = <b>0\.4</b>", search)
    assert "8 trials = 5 done + 1 failed + 2 pruned" in " ".join(search.split())
    rows = re.findall(r"<tr( class=\"winner\")?><th scope=\"row\" data-value=\"(\d)\">", search)
    assert [number for _, number in rows] == [*map(str, range(8))]
    assert [number for winner, number in rows if winner] == ["4"]
    assert "failed: the loss is not finite" in search  # the trial's own word, the plan calls it missing


def test_a_search_without_a_winner_says_so(tmp_path: Path) -> None:
    root = made.make_results(tmp_path / "root")
    path = root / "results/plan.json"
    plan = json.loads(path.read_text())
    entry = plan["experiments"][2]
    entry["search"]["synthetic"] |= {"winners": [], "over": False}
    entry["rows"][1]["keys"] = {"synthetic": []}
    path.write_text(json.dumps(plan))
    report.run(root)
    page = (root / "reports/generated/index.html").read_text()
    assert "No winner yet." in page
    assert 'class="winner"' not in page


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of four settings, one of them conditional, with two objectives, and a short one beside it."""
    rows, long = made.wide_search()
    few, short = made.wide_search("short", trials=8)
    root = made.write(tmp_path_factory.mktemp("wide") / "root", [*rows, *few], made.plan([long, short]))
    report.run(root)
    return root


def test_a_search_of_several_settings_and_objectives_has_all_its_figures(wide: Path) -> None:
    names = {name for name in contents(wide) if name.startswith("figures/wide") and name.endswith(".svg")}
    kinds = {name.removeprefix("figures/wide-synthetic-").rpartition("-")[0] or name for name in names}
    assert kinds == {
        *(f"figures/wide-synthetic-{kind}.svg" for kind in ("history", "learning", "front", "parallel", "importance")),
        *("recipe-schedule-peak_lr", "model-drop_rule", "model-alpha", "model-attention"),
    }
    page = (wide / "reports/generated/index.html").read_text()
    assert "its values are mAP on those and the median seconds of a training step" in page
    assert "it has the best mAP" in page
    assert len(re.findall(r'<td title="not asked for here">', page)) == 6 + 2
    assert "done, number 2 of the best" in page


def test_few_trials_say_why_importance_is_not_drawn(wide: Path) -> None:
    page = (wide / "reports/generated/index.html").read_text()
    assert page.count("estimated from 12 finished trials on") == 1
    assert "from 12 finished trials on; there are 7." in page
    assert "figures/short-synthetic-importance.svg" not in contents(wide)


def test_importance_finds_the_setting_that_matters() -> None:
    _, experiment = made.wide_search(trials=60)
    entry = pydantic.TypeAdapter(SearchEntry).validate_json(json.dumps(experiment["search"]["synthetic"]))
    shares = importances(entry)
    assert max(shares, key=lambda path: shares[path]) == "model.alpha"
    assert shares["model.alpha"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(entry) == shares
    assert set(shares) == set(entry.space)


def test_the_front_is_marked_among_the_finished_trials() -> None:
    """Oracle: who is beaten, written out."""
    _, experiment = made.wide_search()
    entry = pydantic.TypeAdapter(SearchEntry).validate_json(json.dumps(experiment["search"]["synthetic"]))
    shown = [one for one in tried(entry) if not one.pruned]
    for one in shown:
        beaten = any(
            other.values[0] >= one.values[0] and other.values[1] <= one.values[1] and other.values != one.values
            for other in shown
        )
        assert one.on_front != beaten
    assert not any(one.on_front for one in tried(entry) if one.pruned)


def test_plots_for_dvc_have_one_line_a_row_and_one_a_search_trial(demo: Path) -> None:
    folder = demo / "reports/generated/plots"
    with (folder / "tables/bdb_table2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [*made.TABLE2]
    assert all(0 < float(row["mAP"]) < 100 for row in rows)
    with (folder / "searches/bdb_block_height.csv").open() as file:
        trials = list(csv.DictReader(file))
    assert [(row["parameter"], float(row["value"])) for row in trials][:2] == [("model.rh", 0.3), ("model.rh", 0.55)]
    assert [row["objective"] for row in trials].count("") == 1


def test_figures_are_documents_of_their_own(demo: Path) -> None:
    files = contents(demo)
    drawn = [name for name in files if name.startswith("figures/") and name.endswith(".svg")]
    assert len(drawn) == 3 * 3 + 3  # of the search: its history, learning curves, and the objective by its one setting
    for name in drawn:
        root = ElementTree.fromstring(files[name].decode())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        picture = Image.open(io.BytesIO(files[name.replace(".svg", ".png")]))
        assert picture.size == tuple(2 * round(float(root.attrib[side])) for side in ("width", "height"))
        darkest, lightest = picture.convert("L").getextrema()
        assert darkest < 60  # ink
        assert lightest == 255  # on white


def test_two_data_sets_stand_side_by_side_with_differences_where_they_compare(tmp_path: Path) -> None:
    root = made.make_results(tmp_path / "root", TWO)
    report.run(root)
    head = (root / "reports/generated/bdb_table2.md").read_text().splitlines()[2]
    assert re.findall(r"(\w[^|]*): mAP", head) == [
        "Embedded set",
        "Market-1501",
        "Market-1501, published",
        "Market-1501, difference",
    ]
    diamonds = (root / "reports/generated/figures/bdb_table2-market1501-mAP.svg").read_text().count("accent-2")
    assert (
        diamonds > (root / "reports/generated/figures/bdb_table2-synthetic-mAP.svg").read_text().count("accent-2") == 0
    )


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    row = made.trial()
    table = made.experiment("../../evil", [made.plan_row("a", {"synthetic": [row["key"]]}, published=None)])
    root = made.write(tmp_path / "root", [row], made.plan([table]))
    report.run(root)
    assert not (tmp_path / "evil.md").exists()
    assert not list(tmp_path.glob("**/evil.md"))
    assert [name for name in contents(root) if re.fullmatch(r"evil-[0-9a-f]{8}\.md", name)]


def test_a_page_of_a_thousand_trials_stays_small(tmp_path: Path) -> None:
    rows, entries = [], []
    for place in range(334):
        lines = [made.trial(seed=seed, mean_ap=place / 400, model={"rw": place / 1000}) for seed in made.SEEDS]
        rows += lines
        entries.append(made.plan_row(f"row {place}", {"synthetic": [line["key"] for line in lines]}, published=None))
    tables = [made.experiment(f"own_{start}", entries[start : start + 20]) for start in range(0, 334, 20)]
    root = made.write(tmp_path / "root", rows, made.plan(tables))
    report.run(root)
    assert (root / "reports/generated/index.html").stat().st_size < 4e6


# --- what cannot be read ---


def altered(root: Path, **changes: Any) -> None:
    path = root / "results/plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_without_results_the_error_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"plan\.json is not there; the sweep stage writes it"):
        report.run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ["zero"]}, r"seeds\.0: Input should be a valid integer"),
        ({"mlflow_ui": "javascript:alert(1)"}, "expected an address that starts with http"),
        ({"experiments": [{"name": "x"}]}, r"experiments\.0\.kind: Field required"),
    ],
)
def test_a_broken_plan_is_an_error_with_the_path(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    root = made.make_results(tmp_path / "root")
    altered(root, **changes)
    with pytest.raises(ValueError, match=message):
        report.run(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns=["torch"]), "no column torch"),
        (lambda frame: pd.concat([frame, frame[:1]]), "more than one line for"),
        (lambda frame: frame.assign(status="ready"), "unknown status ready; expected done, pruned, failed, missing"),
    ],
)
def test_a_broken_table_of_trials_is_an_error(tmp_path: Path, change: Any, message: str) -> None:
    root = made.make_results(tmp_path / "root")
    path = root / "results/trials.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(ValueError, match=message):
        report.run(root)


def test_a_search_trial_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    root = made.make_results(tmp_path / "root")
    path = root / "results/trials.parquet"
    frame = pd.read_parquet(path)
    frame[frame["evaluate_on"] == "test"].to_parquet(path)
    with pytest.raises(ValueError, match="bdb_block_height, search on synthetic: trial"):
        report.run(root)


# --- in a browser ---


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1440])
def test_the_script_runs_under_the_policy_and_without_network(demo: Path, tmp_path: Path, width: int) -> None:
    """A request, which the policy forbids, or a fault of the script would be on the console."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom", "--enable-logging=stderr"]
    flags += [f"--window-size={width},900"]
    page = demo / "reports/generated/index.html"
    opened = subprocess.run(
        [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path}", "--host-resolver-rules=MAP * ~NOTFOUND", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in opened.stderr
    dump = opened.stdout
    assert dump.count('<button type="button" class="sort">') == page.read_text().count('<span class="sort">') > 10
    assert dump.count('<div class="tools">') == 2  # the third table has two rows
