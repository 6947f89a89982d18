"""A sweep on a Ray cluster: machines that are started as a person starts them, some of them unfit; jobs; tokens."""

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.storage.store import TrialStore
from tests.chaos import fake
from tests.chaos.nodes import BIN, Machines, machines
from tests.conftest import FULL, ROOT, Project, takes_minutes

pytestmark = pytest.mark.slow

COUNT = 6


@pytest.fixture(scope="module")
def two() -> Iterator[Machines]:
    """Two machines with the code that is tested; one where no trial runs."""
    with machines() as found:
        found.start_head(ROOT)
        if FULL:
            found.join(3, ROOT)
        yield found
    wait_for(lambda: not found.processes(), seconds=20)


@pytest.fixture(scope="module")
def other_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which something else is trained."""
    folder = tmp_path_factory.mktemp("other")
    for name in ("pipeline", "reid", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "reid" / "train.py").open("a") as file:
        file.write("\n\ndef _added() -> None:\n    return None\n")
    return folder


@contextlib.contextmanager
def sweep(two: Machines, store: Path) -> Iterator["subprocess.Popen[str]"]:
    """Fake trials on the cluster, as a process of its own.

    Not in the checkout: Ray has workers look for code in the driver's folder first, where there is one of this name.
    """
    command = [sys.executable, str(ROOT / "tests/chaos/sweep.py"), str(store), str(COUNT), two.head]
    with (store / "said.txt").open("a") as said:
        process = subprocess.Popen(command, env=two.environment(ROOT), stdout=said, stderr=said, text=True, cwd=store)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], *, seconds: float = 300) -> float:
    """How long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - started


def at_work(store: TrialStore) -> list[int]:
    """The processes of the attempts that nobody has seen end."""
    attempts = [attempt for key in store.keys() for attempt in store.attempts(key)]  # noqa: SIM118
    return [attempt["pid"] for attempt in attempts if "ended" not in attempt]


def refusals(store: TrialStore) -> list[str]:
    """Why a machine did not take a trial."""
    reasons = [attempt.get("reason", "") for key in store.keys() for attempt in store.attempts(key)]  # noqa: SIM118
    return [reason for reason in reasons if reason.startswith("unfit machine")]


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# The command line


@pytest.fixture(scope="module")
def project(make_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with tiny data, packed and split."""
    made = make_project(tmp_path_factory.mktemp("checkout"))
    made.edit_params(lambda tree: tree.update(experiments=["bdb_table2"]))
    for stage in ("prepare", "split"):
        made.run("pipeline", stage, "synthetic")
    return made


def command(two: Machines, project: Project, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    """`python -m pipeline ...` in the checkout, on a machine of the cluster, with other variables."""
    line = [sys.executable, "-m", "pipeline", *arguments]
    environment = two.environment(ROOT) | changes
    return subprocess.run(
        line, cwd=project.root, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """Something that listens and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.2", 0))
        server.listen()
        yield f"127.0.0.2:{server.getsockname()[1]}"


def test_what_keeps_a_sweep_from_a_cluster_is_one_line_and_nothing_starts(
    two: Machines, project: Project, silent: str, tmp_path: Path
) -> None:
    cases = [
        (two.head, {"RAY_AUTH_TOKEN": "0" * 64}, "does not accept this machine's token"),
        (two.head, {"HOME": str(tmp_path)}, "this machine has no token of the cluster"),
        ("127.0.0.2:9", {}, "nobody answers at 127.0.0.2:9 ("),
        (silent, {}, "does not answer as the head of a Ray cluster"),
        ("ray://127.0.0.2:10001", {}, "ray job submit --address ray://127.0.0.2:10001"),
        ("nonsense", {}, "nonsense: no address of a Ray cluster; allowed: auto, or host:port of its head"),
    ]
    for address, changes, said in cases:
        started = time.monotonic()
        done = command(two, project, "sweep", "--address", address, **changes)
        took = time.monotonic() - started
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert said in line
        assert done.stdout == ""
        print(f"{took:.1f} s: {line}")
        assert took < 60  # a third of it on a machine that does nothing else
    assert not (project.root / "results").exists()


OTHER_PYTHON = """
import json, sys, ray
from ray.experimental.internal_kv import _internal_kv_get as get, _internal_kv_put as put
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
found = get(b"CLUSTER_METADATA", namespace=b"cluster")
other = json.dumps(json.loads(found) | {"python_version": "3.9.1"}).encode()
put(b"CLUSTER_METADATA", other, overwrite=True, namespace=b"cluster")
print("changed", flush=True)
sys.stdin.read()
put(b"CLUSTER_METADATA", found, overwrite=True, namespace=b"cluster")
"""


def test_another_version_of_python_is_one_line(two: Machines, project: Project) -> None:
    """The cluster says of itself that it runs one; a second of those is not needed for that."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    line = [sys.executable, "-c", OTHER_PYTHON, two.head]
    with subprocess.Popen(line, env=two.environment(ROOT), text=True, **pipes) as changed:  # type: ignore[call-overload]
        assert changed.stdout.readline() == "changed\n"
        done = command(two, project, "sweep", "--address", two.head)
        changed.stdin.close()
        assert changed.wait(30) == 0
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    here = re.escape(platform.python_version())
    assert re.search(rf"runs Ray \S+, Python 3\.9\.1, and this is Ray \S+, Python {here}: install", said)
    assert command(two, project, "plan", "--address", two.head).returncode == 0


@takes_minutes
def test_a_job_trains_on_the_cluster_and_stops_within_20_seconds(two: Machines, project: Project) -> None:
    planned = json.loads(command(two, project, "plan", "--json", "--address", two.head).stdout)
    assert (planned["to_run"], planned["concurrent"]) == (5, 2)
    page = f"http://127.0.0.1:{two.dashboard}"
    line = f"cd {project.root} && exec {sys.executable} -m pipeline sweep"
    submit = [str(BIN / "ray"), "job", "submit", "--address", page, "--runtime-env-json"]
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "20"}})
    ours = two.environment(ROOT)
    listing = [str(BIN / "ray"), "job", "list", "--address", page]
    wait_for(lambda: subprocess.run(listing, env=ours, capture_output=True, check=False).returncode == 0)
    first = subprocess.run(
        [*submit, patience, "--no-wait", "--submission-id", "first", "--", "bash", "-c", line],
        env=ours,
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert "first" in first.stdout
    store = TrialStore(project.root / "results" / "trials")
    wait_for(lambda: list(store.root.glob("*/metrics.jsonl")), seconds=180)
    stop = [str(BIN / "ray"), "job", "stop", "--address", page, "first"]
    started = time.monotonic()
    subprocess.run(stop, env=ours, check=True, capture_output=True)
    assert time.monotonic() - started < 40
    logs = subprocess.run(
        [str(BIN / "ray"), "job", "logs", "--address", page, "first"],
        env=ours,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "SIGTERM: stopping now" in logs
    assert re.search(r"5 declared = \d done \+ 0 failed \+ [1-5] unfinished", logs)

    whole = subprocess.run(
        [*submit, patience, "--", "bash", "-c", line],
        env=ours,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "looking at 2 machines" in whole.stdout
    assert "5 declared = 5 done + 0 failed + 0 unfinished" in whole.stdout
    assert not list(store.root.glob(".cluster-*"))


@takes_minutes
def test_a_killed_driver_unfit_machines_and_one_that_joins_late(
    two: Machines, other_code: Path, tmp_path: Path
) -> None:
    store = TrialStore(tmp_path)
    held = {"do": "freeze", "attempt": 0, "epoch": 2, "step": 2}
    fake.write_acts(store.root, {fake.trials(COUNT)[3].key: [held]}, seconds=0.15)
    with sweep(two, store.root) as driver:
        wait_for(lambda: (list(store.root.glob("*/DONE")) and at_work(store)) or driver.poll() is not None)
        workers = at_work(store)
        assert workers, (store.root / "said.txt").read_text()
    assert wait_for(lambda: not any(map(is_there, workers)), seconds=20) < 10
    before = {path: path.stat().st_mtime_ns for path in store.root.glob("*/DONE")}

    two.stop(3)
    two.join(4, other_code)
    with sweep(two, store.root) as driver:
        assert driver.wait(timeout=300) == 2
    said = (store.root / "said.txt").read_text().splitlines()
    assert re.match(r"127\.0\.0\.4 \(.+\): other code of reid and pipeline \(commit .+\): bring the checkout", said[-1])
    assert before.keys() == set(store.root.glob("*/DONE"))

    two.stop(4)
    with sweep(two, store.root) as driver:
        wait_for(lambda: at_work(store)[len(workers) :] or driver.poll() is not None)
        two.join(4, other_code)
        wait_for(lambda: refusals(store))  # the other machine is held up, so that a trial comes to this one
        for process in filter(is_there, at_work(store)):
            os.kill(process, signal.SIGCONT)
        assert driver.wait(timeout=300) == 0
    two.stop(4)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(refusals(store)) <= 2  # it is avoided from then on; one trial may have been on its way
    assert f"the code in {other_code} is not the one that the sweep was started with" in refusals(store)[0]
    assert [store.state(trial.key) for trial in fake.trials(COUNT)] == ["done"] * COUNT
