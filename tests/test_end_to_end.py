"""The whole pipeline in a small checkout, as a person runs it: DVC, Ray, MLflow, tables; kills, additions and edits."""

import json
import os
import shlex
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.storage import locks
from tests.conftest import Project
from tests.test_readme import COMMANDS

pytestmark = pytest.mark.slow

METRICS = ["mAP", "mINP", "Rank-1", "Rank-5", "Rank-10", "num_valid", "num_skipped"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_project: Callable[[Path], Project]) -> Project:
    """A checkout in which `dvc repro` has run undisturbed."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    project.run("dvc", "repro")
    return project


def trials(project: Project) -> pd.DataFrame:
    return pd.read_parquet(project.root / "results" / "trials.parquet").set_index("key").sort_index()


def to_run(project: Project) -> dict[str, int]:
    summary: dict[str, int] = json.loads(project.run("pipeline", "plan", "--json").stdout)
    return summary


def mlflow_runs(project: Project) -> list[tuple[str, str]]:
    with sqlite3.connect(project.root / "mlflow.db") as database:
        return list(database.execute("select name, status from runs order by name"))


def test_every_declared_trial_ends_and_the_tables_are_there(finished: Project) -> None:
    results = trials(finished)
    assert set(results["status"]) <= {"done", "pruned"}
    assert (results["evaluate_on"] == "val").sum() == 6
    assert results.loc[results["status"] == "done", METRICS].notna().all(axis=None)
    generated = finished.root / "reports" / "generated"
    table = (generated / "bdb_table2.md").read_text()
    assert "BDB + Cut" in table
    assert "95.3" in table
    assert "n.c." in table
    assert r"\toprule" in (generated / "bdb_table2.tex").read_text()
    page = (generated / "index.html").read_text()
    assert all(run_id in page for run_id in results.loc[results["evaluate_on"] == "test", "run_id"])


def test_every_printed_number_is_verified_and_says_what_it_rests_on(finished: Project) -> None:
    said = finished.run("pipeline", "verify").stdout
    assert "everything agrees" in said
    assert f"checked: {len(trials(finished))} records of the store" in said
    assert "checked: 1 lists of the queries' identities, against the data" in said
    cell = ("bdb_table2", "BDB + Cut", "mAP")
    why = json.loads(finished.run("pipeline", "why", *cell, "--json").stdout)
    assert [run["value"] for run in why["runs"]] == [trials(finished).loc[run["key"], "mAP"] for run in why["runs"]]
    assert why["untested"] == "it differs from the reference row on fewer than 10 identities"  # of so tiny a set
    costs = trials(finished).query("status == 'done'")[["params_million", "inference_ms_per_image"]]
    assert (costs > 0).all(axis=None)
    page = finished.root / "reports" / "generated" / "bdb_table2.md"
    page.write_text(page.read_text().replace("95.3", "95.4"))
    assert "found '95.4', expected '95.3'" in finished.run("pipeline", "verify", fails=True).stdout
    page.write_text(page.read_text().replace("95.4", "95.3"))


def test_mlflow_has_one_run_per_trial_under_one_parent(finished: Project) -> None:
    runs = mlflow_runs(finished)
    assert sorted(name for name, _ in runs) == sorted(["demo", *trials(finished)["name"]])
    assert {status for _, status in runs} <= {"FINISHED", "KILLED"}
    with sqlite3.connect(finished.root / "mlflow.db") as database:
        parents = list(database.execute("select distinct value from tags where key = 'mlflow.parentRunId'"))
    assert len(parents) == 1


def test_a_second_repro_does_nothing(finished: Project) -> None:
    before = finished.ends()
    assert "Data and pipelines are up to date" in finished.run("dvc", "repro").stdout
    assert finished.ends() == before


def test_dvc_shows_metrics_plots_and_params(finished: Project) -> None:
    (shown,) = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout).values()
    assert "bdb_table2" in shown["data"]["reports/generated/metrics.json"]["data"]
    finished.run("dvc", "plots", "show", "--out", "plots")
    assert (finished.root / "plots" / "index.html").exists()
    assert "seeds" in finished.run("dvc", "params", "diff").stdout


def test_after_a_kill_and_a_ctrl_c_nothing_is_repeated_and_nothing_differs(
    finished: Project, tmp_path: Path, make_project: Callable[[Path], Project]
) -> None:
    project = make_project(tmp_path)
    shutil.copytree(finished.root / "data", project.root / "data")
    shutil.copy(finished.root / "dvc.lock", project.root)
    with project.started("dvc", "repro"):
        _wait_for(project, 2)
    killed = project.ends()
    with project.started("pipeline", "sweep") as process:
        _wait_for(project, len(killed) + 1)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 3
    assert "unfinished: nothing done is lost" in (project.root / "output.txt").read_text()
    interrupted = project.ends()
    project.run("dvc", "repro")
    after = project.ends()
    assert {key: interrupted[key] for key in killed} == killed
    assert {key: after[key] for key in interrupted} == interrupted
    assert len(killed) < len(interrupted) < len(after)
    ours, theirs = trials(project), trials(finished)
    pd.testing.assert_frame_equal(ours[["status", *METRICS]], theirs[["status", *METRICS]])
    assert [name for name, _ in mlflow_runs(project)] == [name for name, _ in mlflow_runs(finished)]


def test_a_second_sweep_is_refused(finished: Project) -> None:
    with locks.alone(finished.root / "results" / "sweep.lock"):
        refused = finished.run("pipeline", "sweep", fails=True)
    assert refused.returncode == 4
    assert f"process {os.getpid()}" in refused.stderr


def test_a_new_seed_trains_only_itself(finished: Project) -> None:
    before = finished.ends()
    finished.edit_params(lambda tree: tree["seeds"].append(7))
    finished.run("dvc", "repro")
    after = finished.ends()
    assert {key: after[key] for key in before} == before
    new = trials(finished).loc[sorted(set(after) - set(before))]
    assert set(new["seed"]) == {7}
    assert set(new["evaluate_on"]) == {"test"}
    assert len(mlflow_runs(finished)) == len(after) + 1


def test_a_new_value_of_a_grid_trains_only_itself(finished: Project) -> None:
    row = "    - {label: BDB higher, method: bdb, overrides: {model.rh: 0.45}, published_method: null}\n"
    text = (finished.root / "pipeline/experiments/bdb.yaml").read_text()
    head, table2, rest = text.partition("bdb_table2:")
    body, marker, tail = rest.partition("  rows:\n")
    (finished.root / "pipeline/experiments/bdb.yaml").write_text(head + table2 + body + marker + row + tail)
    assert to_run(finished)["to_run"] == 2  # one value, two seeds
    (finished.root / "pipeline/experiments/bdb.yaml").write_text(text)


def test_comments_are_free_and_an_edit_re_trains_what_depends_on_it(finished: Project) -> None:
    finished.replace("reid/losses.py", "import ", "# A remark.\nimport ")
    finished.replace("reid/methods/bdb.py", '"""', '"""Another word. ')
    assert to_run(finished)["to_run"] == 0
    finished.replace("reid/methods/bdb.py", "height_ratio=config.rh,", "height_ratio=config.rh / 2,")
    waiting = to_run(finished)
    methods = trials(finished).query("evaluate_on == 'test'")["method"]
    assert waiting["done"] == (methods == "baseline").sum()
    finished.replace("reid/methods/bdb.py", "height_ratio=config.rh / 2,", "height_ratio=config.rh,")


def _wait_for(project: Project, ends: int) -> None:
    deadline = time.monotonic() + 300
    while len(project.ends()) < ends:
        assert time.monotonic() < deadline, "no trial ended in five minutes"
        time.sleep(0.05)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith(("python -m", "dvc"))])
def test_the_readme_s_commands_work(finished: Project, command: str) -> None:
    finished.run(*shlex.split(command.removeprefix("python -m ")))
