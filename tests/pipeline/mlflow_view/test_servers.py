"""Against a real PostgreSQL and a real S3 API, and MLflow's server over both, as deploy/ starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline.commands import reconcile
from pipeline.commands.reconcile import Outcome
from pipeline.mlflow_view import tracking
from tests.pipeline.tracking_bench import Bench, make_trial, sweep
from tests.services import BUCKET, PASSWORD, ROOT, free_port, mlflow_server, postgres, s3, s3_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3(tmp_path_factory.mktemp("s3")):
        yield f"s3://{BUCKET}/mlflow"


def command(bench: Bench, *arguments: str) -> "subprocess.Popen[str]":
    """`python -m pipeline ...` in the bench's root, as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.Popen(
        line, cwd=bench.root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_server_that_was_down_for_a_whole_sweep(database: str, bucket: str, tmp_path: Path) -> None:
    port = free_port()
    bench, trials = Bench(tmp_path), [make_trial(seed) for seed in range(8)]
    bench.uri = f"http://127.0.0.1:{port}"
    bench.params(bench.uri)
    tracker = bench.tracker(bench.uri)
    with tracker.sweep("demo", bench.store):
        tracker.started(trials[0])
        for trial in trials:
            bench.finish(trial)
        tracker.ended(trials[0].key, "done")
    assert len(bench.warnings) == 1
    with mlflow_server(database, bucket, folder=tmp_path, port=port) as url:
        killed = command(bench, "reconcile")
        deadline = time.monotonic() + 240
        while len(trial_runs(url)) < 2:
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert len(trial_runs(url)) < len(trials)
        second = command(bench, "reconcile", "--json")
        while is_free(bench):
            assert second.poll() is None, second.communicate()
            assert time.monotonic() < deadline
        assert reconcile.run(bench.root, as_json=True) == 4  # two writers at once
        assert json.loads(second.communicate(timeout=240)[0])["trials"] == 8
        assert bench.assert_complete() == 8 * (3 * 4 + 8)
        assert {run.info.status for run in bench.all_runs()} == {"FINISHED"}
        assert_kept_in_s3(bench)
        assert reconcile.reconcile(bench.root, bench.params(bench.uri)) == Outcome(trials=8, up_to_date=8)
        assert_guarded(url)


def is_free(bench: Bench) -> bool:
    """As the kernel lists locks: whoever wants it at that moment is not in the way of a look."""
    inode = Path(tracking.writing(bench.store).lock_file).stat().st_ino
    return not any(line.split()[5].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines())


def trial_runs(url: str) -> list[str]:
    client = MlflowClient(url)
    found = client.get_experiment_by_name("reid")
    return [run.info.run_id for run in client.search_runs([found.experiment_id])] if found else []


def assert_kept_in_s3(bench: Bench) -> None:
    """Every specification is in the bucket, and comes back through the server, which alone has the keys."""
    names = s3_names()
    for key, run in bench.runs().items():
        (kept,) = (name for name in names if run.info.run_id in name)
        assert kept.endswith("spec.json")
        with urllib.request.urlopen(f"{bench.uri}/get-artifact?path=spec.json&run_uuid={run.info.run_id}") as answer:
            assert json.loads(answer.read()) == bench.store.spec(key)


def assert_guarded(url: str) -> None:
    """Another host's name is refused, and the password is not among the processes' arguments."""
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.name != "self"]
    assert not [line for line in arguments if PASSWORD.encode() in line]


def test_a_sweep_straight_into_postgresql(database: str, tmp_path: Path) -> None:
    bench, trials = Bench(tmp_path), [make_trial(seed) for seed in range(4)]
    bench.uri = database.replace("/postgres", "/direct")
    create_database(database, "direct")
    for _ in range(2):
        sweep(bench, trials, uri=bench.uri)
    assert bench.assert_complete() == 4 * (3 * 4 + 8)
    assert len(bench.all_runs()) == 5


def create_database(address: str, name: str) -> None:
    import psycopg2

    connection = psycopg2.connect(address.replace("+psycopg2", ""))
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()


# What deploy/ says


COMPOSE = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "compose.yaml")["services"]
SCRIPT = ROOT / "deploy" / "mlflow-server.sh"


def test_nothing_is_published_beyond_loopback() -> None:
    assert "ports" not in COMPOSE["database"]
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["server"]["ports"])
    assert '--host "${HOST:-127.0.0.1}"' in SCRIPT.read_text()


@pytest.mark.parametrize("setting", ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"])
def test_what_nobody_needs_is_off_whatever_the_environment_says(setting: str) -> None:
    assert f"\nexport {setting}=false" in SCRIPT.read_text()
    assert "ENTRYPOINT" in (ROOT / "deploy" / "mlflow.Dockerfile").read_text()  # so that a container has it off, too


def test_secrets_come_from_the_environment() -> None:
    settings = COMPOSE["database"]["environment"] | COMPOSE["server"]["environment"]
    secret = {name for name in settings if re.search("PASSWORD|SECRET|KEY", name)}
    assert len(secret) == 4
    assert all(settings[name].startswith("${") for name in secret)
    assert "@" in settings["MLFLOW_BACKEND_STORE_URI"]
    assert ":" not in settings["MLFLOW_BACKEND_STORE_URI"].partition("//")[2].partition("@")[0]


def test_every_setting_of_the_containers_is_explained() -> None:
    page = (ROOT / "deploy" / "README.md").read_text()
    wanted = set(re.findall(r"\$\{(\w+)", (ROOT / "deploy" / "compose.yaml").read_text()))
    assert wanted == {name for row in re.findall(r"^\| (`.+`) \|", page, re.M) for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("missing", ["MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"])
def test_the_script_names_what_it_lacks(missing: str) -> None:
    settings = {"MLFLOW_BACKEND_STORE_URI": "x", "MLFLOW_ARTIFACTS_DESTINATION": "x"}
    environment = {name: value for name, value in settings.items() if name != missing}
    done = subprocess.run(
        [str(SCRIPT)], env={"PATH": os.environ["PATH"]} | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert missing in done.stderr
