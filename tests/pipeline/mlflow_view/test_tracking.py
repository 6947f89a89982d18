"""MLflow against the trial store: what runs look like, and what kills, repeats and dead servers leave behind."""

import contextlib
import dataclasses
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.entities import Metric

from pipeline.mlflow_view import addresses, background, tracking
from pipeline.mlflow_view.addresses import ui_command
from pipeline.mlflow_view.tracking import Mirror
from pipeline.planning.keys import scoring_spec, trial_key
from reid.config import flatten, to_dict
from reid.data.dataset import ReidData
from tests.pipeline.tracking_bench import METRICS, START, Bench, line, make_trial, result, sweep
from tests.services import free_port


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Bench:
    root = tmp_path / "a checkout"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    return Bench(root)


# What a run looks like


def test_a_finished_trial(bench: Bench) -> None:
    trial = make_trial(seed=3)
    tracker = sweep(bench, [trial])
    run, parent = bench.runs()[trial.key], bench.parent()
    assert tracker.run_ids() == {trial.key: run.info.run_id}
    assert tracker.experiment_id == run.info.experiment_id
    assert (run.info.run_name, run.info.status) == (trial.name, "FINISHED")
    assert (parent.info.run_name, parent.info.status) == ("smoke", "FINISHED")
    assert {name: run.data.metrics[f"test/{name}"] for name in METRICS} == METRICS
    assert run.data.metrics["cost/seconds"] == 12.5
    assert not {"epoch", "time"} & set(run.data.metrics)
    for name in ("loss", "loss/identity", "lr", "seconds"):
        assert bench.history(trial.key, name) == [(epoch, line(epoch)[name]) for epoch in (1, 2, 3)]


def test_tags_say_what_a_trial_is_and_where_it_ran(bench: Bench) -> None:
    trial = make_trial(seed=3)
    sweep(bench, [trial])
    tags = bench.runs()[trial.key].data.tags
    expected = {
        "trial.key": trial.key,
        "trial.setting": trial.setting,
        "trial.verdict": "done",
        "method": "baseline",
        "dataset": "synthetic",
        "seed": "3",
        "evaluate_on": "test",
        "data.digest": "d" * 64,
        "code.digest": "e" * 64,
        "git.commit": "c" * 40,  # the worker's, from the record of the trial
        "git.dirty": "true",
        "host": "gpu-box",
        "device": "cpu",
        "mlflow.parentRunId": bench.parent().info.run_id,
    }
    assert {name: tags[name] for name in expected} == expected
    assert json.loads(tags["protocol"]) == trial.spec["config"]["recipe"]["protocol"]


def test_parameters_and_specification(bench: Bench) -> None:
    trial = make_trial()
    sweep(bench, [trial])
    run = bench.runs()[trial.key]
    assert run.data.params["recipe.schedule.epochs"] == str(trial.config.recipe.schedule.epochs)
    assert set(run.data.params) == {name for name, _ in flatten(to_dict(trial.config))}
    (folder,) = (bench.root / "mlartifacts").rglob("spec.json")
    assert run.info.run_id in folder.parts
    assert json.loads(folder.read_text()) == trial.spec


def test_what_a_trial_cost(bench: Bench) -> None:
    trial = make_trial()
    bench.train(trial, range(1, 4))
    cost = {"seconds": 7200.0, "device": "cpu", "cpus": 4, "gpus": 0.25, "peak_memory_mb": 512.5, "cpu_seconds": 9000}
    bench.store.finish(trial.key, result() | {"cost": cost})
    tracker = bench.tracker()
    with tracker.sweep("smoke", bench.store):
        tracker.sync([trial])
    run = bench.runs()[trial.key]
    assert {name: float(run.data.tags[f"cost.{name}"]) for name in ("gpu_hours", "cpu_hours")} == {
        "gpu_hours": 0.5,
        "cpu_hours": 8.0,
    }
    costs = {name: value for name, value in run.data.metrics.items() if name.startswith("cost/")}
    assert costs == {"cost/seconds": 7200.0, "cost/peak_memory_mb": 512.5, "cost/cpu_seconds": 9000.0}


def test_the_data_set_of_a_trial(bench: Bench) -> None:
    trial = make_trial()
    sweep(bench, [trial])
    assert bench.inputs(trial.key) == [("synthetic", "d" * 36, "training, test", {})]


def test_both_data_sets_of_a_transfer(bench: Bench) -> None:
    trained = make_trial()
    target = {"dataset": "market1501", "data_digest": "f" * 64}
    spec = scoring_spec(trained.spec, trained.config, source=trained.key, target=target)
    trial = dataclasses.replace(trained, key=trial_key(spec), spec=spec, name="to-market")
    sweep(bench, [trained, trial])
    assert bench.inputs(trial.key) == [
        ("market1501", "f" * 36, "test", {}),
        ("synthetic", "d" * 36, "training", {}),
    ]
    assert bench.runs()[trial.key].data.tags["dataset"] == "synthetic->market1501"


@pytest.mark.parametrize("evaluate_on", ["test", "val"])
def test_counts_are_those_of_the_data_that_was_used(
    bench: Bench, evaluate_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"test": "a" * 64, "val": "b" * 64}
    data = SimpleNamespace(images=range(9), digest_for=digests.__getitem__)
    monkeypatch.setattr(ReidData, "load", lambda folder: data)
    folder = bench.root / "data" / "synthetic"
    folder.mkdir(parents=True)
    (folder / "info.json").write_text(json.dumps({"counts": {"train": {"images": 5}}}))
    used = make_trial(data_digest=digests[evaluate_on], evaluate_on=evaluate_on)
    sweep(bench, [used, make_trial()])
    expected = {"num_rows": 9, "train": {"images": 5}}
    digest = digests[evaluate_on][:36]
    assert bench.inputs(used.key) == [("synthetic", digest, f"training, {evaluate_on}", expected)]
    assert bench.inputs(make_trial().key) == [("synthetic", "d" * 36, "training, test", {})]  # of other data


def test_a_pruned_trial_is_killed_and_its_last_scores_count_once(bench: Bench) -> None:
    trial = make_trial(evaluate_on="val")
    bench.store.open(trial)
    for epoch in (1, 2):
        bench.store.append_epoch(trial.key, line(epoch) | {"val/mAP": epoch / 10})
    bench.store.finish(trial.key, result("pruned", 2) | {"metrics": {"mAP": 0.2}})
    tracker = bench.tracker()
    with tracker.sweep("smoke", bench.store):
        tracker.sync([trial])
    run = bench.runs()[trial.key]
    assert (run.info.status, run.data.tags["trial.verdict"]) == ("KILLED", "pruned")
    assert bench.history(trial.key, "val/mAP") == [(1, 0.1), (2, 0.2)]


def test_a_failed_trial_keeps_its_reason_until_it_does_better(bench: Bench) -> None:
    trial = make_trial()
    bench.fail(trial, reason="no route to postgresql://me:hunter2@db/x")
    tracker = bench.tracker()
    with tracker.sweep("smoke", bench.store):
        tracker.sync([trial])
    run = bench.runs()[trial.key]
    assert (run.info.status, run.data.tags["trial.verdict"]) == ("FAILED", "failed")
    assert run.data.tags["trial.reason"] == "no route to postgresql://***@db/x"
    assert [step for step, _ in bench.history(trial.key, "loss")] == [1, 2]
    sweep(bench, [trial])
    run = bench.runs()[trial.key]
    assert (run.info.status, run.data.tags["trial.verdict"], run.data.tags["trial.reason"]) == ("FINISHED", "done", "")
    assert [step for step, _ in bench.history(trial.key, "loss")] == [1, 2, 3]


# MLflow's limits


def test_thousands_of_points(bench: Bench) -> None:
    trial = make_trial()
    bench.store.open(trial)
    for epoch in range(1, 26):
        bench.store.append_epoch(trial.key, line(epoch) | {f"loss/part{i}": float(i) for i in range(100)})
    bench.store.finish(trial.key, result(epochs=25))
    sweep(bench, [trial])
    assert len(bench.runs()[trial.key].data.metrics) == 100 + 4 + len(METRICS) + 1
    for name in ("loss/part0", "loss/part99", "seconds"):
        assert [step for step, _ in bench.history(trial.key, name)] == list(range(1, 26))


def test_many_and_long_parameters(bench: Bench) -> None:
    plain = make_trial()
    model = {f"width{i}": i for i in range(250)} | {"text": "x" * 7000}
    trial = dataclasses.replace(plain, spec=plain.spec | {"config": plain.spec["config"] | {"model": model}})
    sweep(bench, [trial])
    params = bench.runs()[trial.key].data.params
    assert {params[f"model.width{i}"] for i in range(250)} == {str(i) for i in range(250)}
    assert params["model.text"] == "x" * 5999 + "…"


# Again, and after a kill


def test_the_same_sweep_again_adds_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [make_trial(seed) for seed in range(3)]
    sweep(bench, trials)
    before = {run.info.run_id: run.to_dictionary() for run in bench.runs().values()}
    monkeypatch.delattr(Mirror, "_open")  # nothing is so much as touched
    tracker = sweep(bench, trials)
    assert {run.info.run_id: run.to_dictionary() for run in bench.runs().values()} == before
    assert len(bench.all_runs()) == 4
    assert tracker.run_ids() == {key: run.info.run_id for key, run in bench.runs().items()}


def test_another_sweep_has_its_own_parent_and_shares_finished_trials(bench: Bench) -> None:
    sweep(bench, [make_trial(0)])
    tracker = bench.tracker()
    with tracker.sweep("full", bench.store):
        tracker.sync([make_trial(0)])
    assert sorted(run.info.run_name for run in bench.all_runs()) == sorted(["smoke", "full", make_trial(0).name])


def test_killed_while_training_then_resumed_from_an_earlier_epoch(bench: Bench) -> None:
    trial = make_trial()
    dead = bench.mirror()
    dead.start(trial)
    bench.train(trial, range(1, 5))
    dead.touch(trial.key)
    dead.flush()
    assert bench.runs()[trial.key].info.status == "RUNNING"
    tracker = bench.tracker()
    with tracker.sweep("smoke", bench.store):
        assert bench.runs()[trial.key].data.tags["trial.verdict"] == "interrupted"
        tracker.started(trial)
        bench.train(trial, range(3, 7), later=100.0)  # its last state was epoch 2's: epochs 3 and 4 run once more
        bench.store.finish(trial.key, result(epochs=6))
        tracker.ended(trial.key, "done")
    assert not bench.warnings
    assert bench.runs()[trial.key].info.status == "FINISHED"
    assert bench.history(trial.key, "loss") == [(epoch, 1 / epoch) for epoch in range(1, 7)]


def test_killed_between_the_store_and_mlflow(bench: Bench) -> None:
    trial = make_trial()
    dead = bench.mirror()
    dead.start(trial)
    bench.finish(trial)
    with bench.tracker().sweep("smoke", bench.store):
        pass  # not declared any more, and still it must not look as if it ran
    run = bench.runs()[trial.key]
    assert (run.info.status, run.data.tags["trial.verdict"], run.data.metrics["test/mAP"]) == ("FINISHED", "done", 0.5)


def test_killed_in_the_middle_of_the_last_points(bench: Bench) -> None:
    trial = make_trial()
    dead = bench.mirror()
    dead.start(trial)
    bench.finish(trial)
    some = [Metric("loss", 1.0, 1, 1), Metric("loss", 0.5, 2, 2), Metric("test/mAP", 0.5, 3, 3)]
    bench.client.log_batch(bench.runs()[trial.key].info.run_id, metrics=some)
    sweep(bench, [trial])
    for name in ("loss", "seconds"):
        assert bench.history(trial.key, name) == [(epoch, line(epoch)[name]) for epoch in (1, 2, 3)]
    assert bench.history(trial.key, "test/mAP") == [(3, 0.5)]


def test_a_lost_database_is_written_anew(bench: Bench, empty_database: Path) -> None:
    done, failed, pruned, absent = (make_trial(seed) for seed in range(4))
    bench.finish(done)
    bench.fail(failed)
    bench.finish(pruned, "pruned")
    tracker = bench.tracker()
    with tracker.sweep("smoke", bench.store):
        tracker.sync([done, failed, pruned, absent])
    runs = bench.runs()
    statuses = {key: run.info.status for key, run in runs.items()}
    assert statuses == {done.key: "FINISHED", failed.key: "FAILED", pruned.key: "KILLED"}
    assert set(tracker.run_ids()) == set(runs)
    assert runs[done.key].info.start_time == START * 1000
    assert runs[done.key].info.end_time == (START + 60) * 1000
    assert runs[failed.key].info.start_time == (START + 1) * 1000
    assert all(run.data.tags["mlflow.parentRunId"] == bench.parent().info.run_id for run in runs.values())


def test_runs_of_another_store_are_left_alone(bench: Bench, tmp_path: Path) -> None:
    theirs = make_trial()
    bench.mirror().start(theirs)  # never opened in this store
    sweep(bench, [make_trial(1)])
    assert bench.runs()[theirs.key].info.status == "RUNNING"


@pytest.mark.parametrize(
    ("error", "parent"), [(None, "KILLED"), (KeyboardInterrupt, "KILLED"), (ZeroDivisionError, "FAILED")]
)
def test_an_interrupted_sweep_leaves_nothing_running(
    bench: Bench, error: type[BaseException] | None, parent: str
) -> None:
    trial = make_trial()
    for _ in range(2):  # the second time it goes on in the run that the first one closed
        tracker = bench.tracker()
        with pytest.raises(error) if error else contextlib.nullcontext(), tracker.sweep("smoke", bench.store):
            tracker.started(trial)
            bench.train(trial, range(1, 3))
            tracker.epoch(trial.key, line(2))
            if error:
                raise error
            tracker.sync([trial])  # as after Ctrl-C, when Tune returns as if all were well
    run = bench.runs()[trial.key]
    assert (run.info.status, run.data.tags["trial.verdict"]) == ("KILLED", "interrupted")
    assert [step for step, _ in bench.history(trial.key, "loss")] == [1, 2]
    assert bench.parent().info.status == parent


def test_epochs_are_seen_while_the_trial_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_IDLE_SECONDS", 0.05)
    trial, tracker = make_trial(), bench.tracker()
    with tracker.sweep("smoke", bench.store):
        tracker.started(trial)
        bench.train(trial, range(1, 3))
        tracker.epoch(trial.key, line(2))
        deadline = time.monotonic() + 10
        while trial.key not in bench.runs() or "loss" not in bench.runs()[trial.key].data.metrics:
            assert time.monotonic() < deadline, "no epoch arrived"
            time.sleep(0.1)
        assert bench.runs()[trial.key].info.status == "RUNNING"


# MLflow's own failures


def test_a_dead_server_costs_seconds_and_one_warning(bench: Bench) -> None:
    trial, tracker = make_trial(), bench.tracker(f"http://me:hunter2@127.0.0.1:{free_port()}")
    started = time.monotonic()
    with tracker.sweep("smoke", bench.store):
        tracker.started(trial)
        bench.finish(trial)
        tracker.epoch(trial.key, line(3))
        tracker.ended(trial.key, "done")
        tracker.sync([trial])
    assert time.monotonic() - started < 10
    (warning,) = bench.warnings
    assert "MLflow at http://***@127.0.0.1" in warning
    assert "hunter2" not in warning
    assert (tracker.run_ids(), tracker.experiment_id) == ({}, "")


def test_a_hung_server_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(background, "_JOB_SECONDS", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()  # takes connections, and never says a word
        tracker, started = bench.tracker(f"http://127.0.0.1:{server.getsockname()[1]}"), time.monotonic()
        with tracker.sweep("smoke", bench.store):
            tracker.started(make_trial())
        assert time.monotonic() - started < 4
    assert len(bench.warnings) == 1


def test_what_breaks_midway_is_told_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = trials = [make_trial(seed) for seed in range(3)]
    tracker = bench.tracker()
    with tracker.sweep("smoke", bench.store):
        with monkeypatch.context() as patch:

            def full(*_: Any) -> None:
                raise OSError("database or disk is full, see https://me:hunter2@disks")

            patch.setattr(Mirror, "end", full)
            for trial in (first, second):
                tracker.started(trial)
                bench.train(trial, range(1, 3))
                tracker.epoch(trial.key, line(2))
            bench.finish(first)
            tracker.ended(first.key, "done")
            wait_for(lambda: bool(bench.warnings))
        monkeypatch.setattr(tracking, "_AGAIN_SECONDS", 0.0)
        tracker._again = 0.0
        tracker.started(third)  # a minute later
        wait_for(lambda: third.key in bench.runs())
        assert bench.runs()[first.key].info.status == "FINISHED"
        assert [step for step, _ in bench.history(second.key, "loss")] == [1, 2]
        assert bench.runs()[second.key].info.status == "RUNNING"
        for trial in (second, third):
            bench.finish(trial)
            tracker.ended(trial.key, "done")
        tracker.sync(trials)
    (warning,) = bench.warnings
    assert "OSError: database or disk is full, see https://***@disks" in warning
    assert "python -m pipeline reconcile" in warning
    assert set(tracker.run_ids()) == {trial.key for trial in trials}
    bench.assert_complete()
    assert {run.info.status for run in bench.all_runs()} == {"FINISHED"}


def test_the_end_of_a_sweep_is_a_last_chance(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, tracker = make_trial(), bench.tracker()
    with tracker.sweep("smoke", bench.store):
        with monkeypatch.context() as patch:
            patch.delattr(Mirror, "start")
            tracker.started(trial)
            wait_for(lambda: bool(bench.warnings))
        bench.finish(trial)
        tracker.ended(trial.key, "done")  # within the minute: not tried
        assert not bench.runs()
        tracker.sync([trial])
    assert len(bench.warnings) == 1
    bench.assert_complete()


def test_another_writer_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_CONNECT_SECONDS", 0.1)
    trial, tracker = make_trial(), bench.tracker()
    reconciling = tracking.writing(bench.store)
    reconciling.acquire()
    with tracker.sweep("smoke", bench.store):
        tracker.started(trial)
        bench.finish(trial)
        tracker.ended(trial.key, "done")
        assert bench.client.get_experiment_by_name("reid") is None
        reconciling.release()
    assert not bench.warnings
    bench.assert_complete()


def test_another_writer_that_does_not_end_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_OTHER_SECONDS", 0.1)
    with tracking.writing(bench.store), bench.tracker().sweep("smoke", bench.store):
        pass
    assert "another process writes this trial store to MLflow" in bench.warnings[0]


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_warning_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    tracking.warn("no news")
    assert capsys.readouterr() == ("", "warning: no news\n")


# Where MLflow is, and its pages


def test_addresses_do_not_depend_on_the_working_directory(tmp_path: Path) -> None:
    assert addresses.store_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert addresses.store_uri("sqlite:///runs/x.db", tmp_path) == f"sqlite:///{tmp_path}/runs/x.db"
    assert addresses.store_uri("sqlite:////var/x.db", tmp_path) == "sqlite:////var/x.db"
    for other in ("http://mlflow:5000", "postgresql://db/mlflow"):
        assert addresses.store_uri(other, tmp_path) == other


def test_the_pages_are_served_on_loopback_with_few_processes(tmp_path: Path) -> None:
    command, environment = ui_command(None, tmp_path, port=5001)
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert command[1:4] == ["-m", "mlflow", "server"]
    assert options == {
        "--host": "127.0.0.1",
        "--port": "5001",
        "--workers": "1",
        "--artifacts-destination": (tmp_path / "mlartifacts").as_uri(),
    }
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_database_s_password_is_not_among_the_arguments(tmp_path: Path) -> None:
    command, environment = ui_command("postgresql://me:hunter2@db/mlflow", tmp_path)
    assert not any("hunter2" in argument for argument in command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:hunter2@db/mlflow"


def test_a_server_has_its_own_pages(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"server already; open https://\*\*\*@mlflow\.lab") as error:
        ui_command("https://me:hunter2@mlflow.lab", tmp_path)
    assert "hunter2" not in str(error.value)
