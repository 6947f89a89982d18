"""MLflow brought up to the store: after a dead server, a lost database, a kill, and with two writers at once."""

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline import cli
from pipeline.commands import reconcile
from pipeline.commands.reconcile import Outcome
from pipeline.mlflow_view import tracking, view
from pipeline.mlflow_view.tracking import Mirror
from tests.pipeline.tracking_bench import Bench, line, make_trial, result, sweep
from tests.services import free_port


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Bench:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Bench(tmp_path)


def call(bench: Bench) -> Outcome:
    return reconcile.reconcile(bench.root, bench.params())


def snapshot(bench: Bench) -> list[dict[str, Any]]:
    return sorted((run.to_dictionary() for run in bench.all_runs()), key=lambda run: str(run["info"]["run_id"]))


# What it does


def test_a_server_that_was_down_for_a_whole_sweep(bench: Bench) -> None:
    done, failed, pruned, killed = (make_trial(seed) for seed in range(4))
    tracker = bench.tracker(f"http://127.0.0.1:{free_port()}")
    with tracker.sweep("demo", bench.store):
        for trial in (done, failed, pruned, killed):
            tracker.started(trial)
        bench.finish(done)
        bench.fail(failed)
        bench.finish(pruned, "pruned")
        bench.train(killed, range(1, 3))
    assert len(bench.warnings) == 1
    outcome = call(bench)
    assert outcome == Outcome(trials=4, written=4, points=bench.assert_complete())
    assert outcome.points == 2 * (3 * 4 + 8) + 2 * (2 * 4)
    statuses = {key: (run.info.status, run.data.tags["trial.verdict"]) for key, run in bench.runs().items()}
    assert statuses == {
        done.key: ("FINISHED", "done"),
        failed.key: ("FAILED", "failed"),
        pruned.key: ("KILLED", "pruned"),
        killed.key: ("KILLED", "interrupted"),
    }


def test_again_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        bench.finish(make_trial(seed))
    call(bench)
    before = snapshot(bench)
    monkeypatch.delattr(Mirror, "_open")  # nothing is so much as touched
    assert call(bench) == Outcome(trials=3, up_to_date=3)
    assert snapshot(bench) == before


def test_a_sweep_and_a_reconcile_write_the_same(bench: Bench) -> None:
    trials = [make_trial(seed) for seed in range(2)]
    sweep(bench, trials)
    assert call(bench) == Outcome(trials=2, up_to_date=2)
    bench.assert_complete()


def test_epochs_of_a_later_attempt_are_missed_by_nobody(bench: Bench) -> None:
    trial = make_trial()
    bench.fail(trial)
    call(bench)
    bench.train(trial, range(3, 6))
    bench.store.fail(trial.key, "diverged")  # as before, but later
    assert call(bench).points == 3 * 4
    bench.assert_complete()
    bench.train(trial, range(6, 8))
    assert call(bench).points == 2 * 4
    assert bench.runs()[trial.key].data.tags["trial.verdict"] == "interrupted"
    bench.train(trial, range(8, 9))
    assert call(bench).points == 4
    bench.assert_complete()


def test_runs_of_a_dead_sweep_are_closed(bench: Bench) -> None:
    done, killed = make_trial(0), make_trial(1)
    dead = bench.mirror()
    for trial in (done, killed):
        dead.start(trial)
    bench.finish(done)
    bench.train(killed, range(1, 3))
    outcome = call(bench)
    assert (outcome.written, outcome.tidied) == (2, 1)
    assert {run.info.status for run in bench.all_runs()} == {"FINISHED", "KILLED"}
    assert bench.parent().info.status == "KILLED"
    assert bench.runs()[done.key].data.tags["mlflow.parentRunId"] == bench.parent().info.run_id
    bench.assert_complete()


def test_a_running_sweep_is_not_disturbed(bench: Bench) -> None:
    done, training = make_trial(0), make_trial(1)
    lost = bench.mirror()  # its MLflow failed, and its sweep goes on
    lost.start(training)
    bench.train(training, range(1, 3))
    bench.finish(done)
    with filelock.FileLock(bench.store.root / "sweep.lock"):
        outcome = call(bench)
    assert (outcome.written, outcome.training, outcome.tidied) == (1, 1, 0)
    assert bench.runs()[training.key].info.status == "RUNNING"
    assert bench.parent().info.status == "RUNNING"


def test_a_damaged_record_is_named_and_the_rest_written(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    good, damaged = make_trial(0), make_trial(1)
    for trial in (good, damaged):
        bench.finish(trial)
    path = bench.store.folder(damaged.key) / "spec.json"
    path.write_text(path.read_text()[:50])
    bench.params()
    assert reconcile.run(bench.root, as_json=False) == 2
    printed = capsys.readouterr()
    assert "2 trials in the store = 1 written (20 points of metrics) + 0 up to date + 0 training now + 1 left out" in (
        printed.out
    )
    assert f"left out: trial {damaged.key}: {path} is damaged" in printed.err
    assert set(bench.runs()) == {good.key}


def test_names_are_those_of_the_last_export_or_plain(bench: Bench) -> None:
    named, plain, told = (make_trial(seed) for seed in range(3))
    sweep(bench, [told])
    for trial in (named, plain):
        bench.finish(trial)
    bench.train(told, range(4, 5))
    table = pd.DataFrame({"key": [named.key], "name": ["saadb_search-7"]})
    table.to_parquet(bench.root / "results" / "trials.parquet")
    call(bench)
    names = {key: run.info.run_name for key, run in bench.runs().items()}
    assert names == {
        named.key: "saadb_search-7",
        plain.key: f"baseline-synthetic-s1-{plain.key[:8]}",
        told.key: told.name,
    }


# Kills, and two writers


class Killed(BaseException):
    """A SIGKILL, as far as the process itself can play one."""


def kill_at(moment: int, patch: pytest.MonkeyPatch) -> None:
    """Have the call to MLflow of this number not take place, nor any later one."""
    calls = itertools.count()

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) >= moment:
                raise Killed
            return original(*arguments, **options)

        return call

    for place in ("create_experiment", "create_run", "update_run", "log_batch", "log_inputs", "log_dict"):
        patch.setattr(MlflowClient, place, mortal(getattr(MlflowClient, place)))
    patch.setattr(MlflowClient, "set_terminated", mortal(MlflowClient.set_terminated))


def test_killed_before_every_call_in_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.finish(make_trial())
    kills = 0
    for moment in itertools.count():
        with monkeypatch.context() as patch:
            kill_at(moment, patch)
            try:
                call(bench)
                break
            except Killed:
                kills += 1
    assert kills >= 7
    assert call(bench) == Outcome(trials=1, up_to_date=1)
    bench.assert_complete()
    assert {run.info.status for run in bench.all_runs()} == {"FINISHED"}


def test_a_second_writer_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.finish(make_trial())
    bench.params()
    with bench.tracker().sweep("demo", bench.store):
        assert reconcile.run(bench.root, as_json=False) == 4
    assert "another process writes this trial store to MLflow" in capsys.readouterr().err
    assert reconcile.run(bench.root, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 1


def test_several_at_once(bench: Bench) -> None:
    for seed in range(6):
        bench.finish(make_trial(seed))
    bench.params()
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(reconcile.run(bench.root, as_json=True))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 in codes
    assert set(codes) <= {0, 4}
    bench.assert_complete()


def test_two_runs_of_one_trial_become_one(bench: Bench) -> None:
    """Two machines whose file system has no locks between them."""
    trial = make_trial()
    bench.finish(trial)
    for mirror in [Mirror(bench.uri, "reid", bench.root, bench.store) for _ in range(2)]:
        assert mirror.sync(trial)
    assert len(bench.all_runs()) == 2
    assert call(bench) == Outcome(trials=1, up_to_date=1, tidied=1)
    bench.assert_complete()


def test_48_trials_at_once_on_sqlite(bench: Bench) -> None:
    """One batched writer behind 48 trials that end together, while MLflow's pages read the same file."""
    trials = [make_trial(seed) for seed in range(48)]
    tracker, together, stop = bench.tracker(), threading.Barrier(len(trials)), threading.Event()
    problems: list[Exception] = []

    def train(trial: Any) -> None:
        tracker.started(trial)
        bench.store.open(trial)
        for epoch in range(1, 6):
            bench.store.append_epoch(trial.key, line(epoch))
            tracker.epoch(trial.key, line(epoch))
        together.wait()
        bench.store.finish(trial.key, result(epochs=5))
        tracker.ended(trial.key, "done")

    def read() -> None:
        try:
            while not stop.wait(0.2):
                bench.all_runs()
        except Exception as error:
            problems.append(error)

    with tracker.sweep("demo", bench.store):
        reader = threading.Thread(target=read)
        workers = [threading.Thread(target=train, args=(trial,)) for trial in trials]
        for thread in (reader, *workers):
            thread.start()
        for thread in workers:
            thread.join()
    stop.set()
    reader.join()
    assert not problems
    assert not bench.warnings
    assert bench.assert_complete() == 48 * (5 * 4 + 8)
    assert {run.info.status for run in bench.all_runs()} == {"FINISHED"}


# The command


def test_the_command(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bench.finish(make_trial())
    bench.params()
    monkeypatch.chdir(bench.root)
    for expected in ((1, 0), (0, 1)):
        monkeypatch.setattr("sys.argv", ["pipeline", "reconcile", "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        outcome = json.loads(capsys.readouterr().out)
        assert (outcome["written"], outcome["up_to_date"]) == expected


def test_no_trials_yet(bench: Bench) -> None:
    assert call(bench) == Outcome()


def test_a_dead_server_is_one_line_without_its_password(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.finish(make_trial())
    bench.params(f"http://me:hunter2@127.0.0.1:{free_port()}")
    started = time.monotonic()
    assert reconcile.run(bench.root, as_json=True) == 2
    assert time.monotonic() - started < 10
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert "the same command goes on from here" in printed.err
    assert "hunter2" not in printed.err


def test_a_mark_moves_with_the_points_and_the_verdict_alone(bench: Bench) -> None:
    trial = make_trial()
    bench.train(trial, range(1, 3))
    first = view.ending(bench.store, trial.key).mark
    bench.train(trial, range(1, 3), later=5.0)  # the same epochs once more
    assert view.ending(bench.store, trial.key).mark == first
    bench.train(trial, range(3, 4))
    second = view.ending(bench.store, trial.key).mark
    bench.store.fail(trial.key, "diverged")
    assert len({first, second, view.ending(bench.store, trial.key).mark}) == 3


def test_the_lock_goes_with_its_process(bench: Bench) -> None:
    path = tracking.writing(bench.store).lock_file
    hold = f"import filelock, time\nwith filelock.FileLock({path!r}): time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold]) as process:
        deadline = time.monotonic() + 30
        while _free(bench):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    assert _free(bench)


def _free(bench: Bench) -> bool:
    try:
        with tracking.writing(bench.store).acquire(timeout=0):
            return True
    except filelock.Timeout:
        return False
