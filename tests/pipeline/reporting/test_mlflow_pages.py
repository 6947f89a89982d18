"""MLflow's server over our runs, as `make ui` starts it: written through it, and its pages opened by our links."""

import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.mlflow_view.addresses import ui_command
from pipeline.mlflow_view.tracking import Tracker
from pipeline.reporting import links
from tests.pipeline.tracking_bench import Bench, make_trial
from tests.services import answers, free_port, running

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """MLflow's server over a root's runs, as `make ui` starts it."""
    port = free_port()
    command, environment = ui_command(None, root, port=port)
    url = f"http://127.0.0.1:{port}"
    with running(command, lambda: answers(f"{url}/health"), cwd=root, environment=environment):
        yield url


def page(url: str, profile: Path) -> str:
    """A page's text once its scripts have run; chromium without a profile of its own would touch the user's."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={profile}"]
    command = ["chromium", *flags, "--virtual-time-budget=20000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout


Served = tuple[Bench, str, Tracker]


@pytest.fixture(scope="module")
def through_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two trials of one setting, written through a server in two sweeps."""
    root = tmp_path_factory.mktemp("served")
    bench, trials = Bench(root), [make_trial(seed) for seed in range(2)]
    with served(root) as url:
        for _ in range(2):
            tracker = bench.tracker(url)
            with tracker.sweep("smoke", bench.store):
                for trial in trials:
                    if bench.store.state(trial.key) == "absent":
                        tracker.started(trial)
                        bench.finish(trial)
                        tracker.ended(trial.key, "done")
                tracker.sync(trials)
        yield bench, url, tracker


def test_a_server_gets_the_same_runs(through_server: Served) -> None:
    bench, url, tracker = through_server
    assert not bench.warnings
    assert len(bench.all_runs()) == 3
    assert {run.info.status for run in bench.all_runs()} == {"FINISHED"}
    for key, run_id in tracker.run_ids().items():
        assert bench.history(key, "loss") == [(epoch, 1 / epoch) for epoch in (1, 2, 3)]
        with urllib.request.urlopen(f"{url}/get-artifact?path=spec.json&run_uuid={run_id}", timeout=10) as answer:
            assert json.loads(answer.read()) == bench.store.spec(key)


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: MLflow's pages are not opened")
def test_links_open_the_pages_they_name(through_server: Served, tmp_path: Path) -> None:
    _, url, tracker = through_server
    ids = list(tracker.run_ids().values())
    one = links.run_url(url, tracker.experiment_id, tracker.run_ids()[make_trial(0).key])
    assert make_trial(0).name in page(one, tmp_path)
    assert "Comparing 2 Runs from 1 Experiment" in page(links.runs_url(url, tracker.experiment_id, ids), tmp_path)
