"""`status` and its numbers, from stores made by hand: nothing is trained, and what is counted adds up."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commands import status
from pipeline.planning.plan import Trial
from pipeline.planning.strict import ParamsError
from pipeline.running.declaration import NOTE, Note, fingerprint
from pipeline.storage import census, locks
from pipeline.storage.store import TrialStore
from tests.pipeline.fake_store import SPEC, done, key, trial

PARAMS = "profile: demo\nseeds: [0]\nsweep:\n  store: results/trials\n  cache: cache\n"
ROOT = Path(__file__).parents[3]


def store_at(root: Path) -> TrialStore:
    (root / "params.yaml").write_text(PARAMS)
    return TrialStore(root / "results" / "trials")


def note(root: Path, trials: list[Trial], *, later: int = 0, ago: float = 1000.0, **changes: Any) -> Note:
    entries = {one.key: {"name": one.name, "kind": census.kind(one.spec, gpus=0), "epochs": 10} for one in trials}
    made = Note(started=time.time() - ago, params=fingerprint(root), later=later, trials=entries)
    made = Note(**(asdict(made) | changes))
    made.write(root)
    return made


@contextmanager
def sweeping(root: Path) -> Iterator[None]:
    """A process holds the sweep's lock; a lock of this one's own counts as held, too, for it is another file."""
    path = root / locks.LOCK
    path.parent.mkdir(exist_ok=True)
    owner = {"pid": 4321, "host": "far", "user": "ann", "since": "Monday"}
    with filelock.FileLock(path, timeout=0):
        path.with_suffix(".owner").write_text(json.dumps(owner))
        yield


def epochs(store: TrialStore, one: Trial, number: int, *, seconds: float = 2.0) -> None:
    for epoch in range(1, number + 1):
        store.append_epoch(one.key, {"epoch": epoch, "loss": 1.0, "seconds": seconds})


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_is_declared_is_the_sum(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    trials = [trial(seed) for seed in range(7)]
    note(tmp_path, trials, later=3)
    for one in trials[:6]:
        store.open(one)
    done(store, trials[0], seconds=20.0)
    done(store, trials[1], seconds=30.0, state="pruned")
    store.fail(trials[2].key, reason="diverged: the loss is nan in epoch 4", detail="Traceback\nDivergedError: nan\n")
    epochs(store, trials[3], 4)
    store.attempt(trials[3].key, {"event": "started", "from_epoch": 0})
    store.attempt(trials[4].key, {"event": "started", "from_epoch": 0})
    store.attempt(trials[4].key, {"event": "ended", "outcome": "preempted"})
    age(store.folder(trials[4].key) / "spec.json", 500)  # opened in this sweep, and since handed back
    age(store.folder(trials[5].key) / "spec.json", 5000)  # opened by an earlier one
    with sweeping(tmp_path):
        found = status.read(tmp_path)
    assert (found.declared, found.done, found.pruned, found.failed, found.waiting) == (7, 1, 1, 1, 3)
    assert found.failed_by == {"diverged": 1}
    (at,) = found.running
    assert (at.key, at.name, at.epoch, at.epochs, at.epoch_seconds) == (trials[3].key, trials[3].name, 4, 10, 2.0)
    assert at.silent_seconds < 60
    assert (found.later, found.stale, found.noted) == (3, False, True)
    assert found.owner == "process 4321 of ann on far, since Monday"
    assert found.cpu_hours == pytest.approx(50 * 2 / 3600)
    assert found.gpu_hours == 0.0
    assert (found.failures[0].last_line, found.failures[0].attempts) == ("DivergedError: nan", 0)
    assert "lower recipe.schedule.peak_lr" in found.failures[0].remedy
    # the running one has 6 epochs of 2 s before it, the three that wait 10 of the median of 2, 3 and four times 2 s
    assert found.eta_seconds == pytest.approx(6 * 2.0 + 30 * 2.0)
    first, *_ = status.describe(found).splitlines()
    assert first == (
        "7 trials declared = 1 done + 1 pruned + 1 failed (1 diverged) + 1 running + 3 waiting; "
        "searches may ask for up to 3 more"
    )


def test_without_a_sweep_nothing_runs_and_nothing_is_promised(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    item = trial(0)
    note(tmp_path, [item])
    store.open(item)
    epochs(store, item, 3)
    found = status.read(tmp_path)
    assert (found.running, found.waiting, found.eta_seconds, found.owner) == ([], 1, None, "")
    assert "sweep: none is running" in status.describe(found)


def test_an_older_failure_waits_once_a_sweep_runs(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    item = trial(0)
    store.open(item)
    store.fail(item.key, reason="timeout: no epoch ended within 1 min", detail="")
    age(store.folder(item.key) / "failure.json", 5000)
    note(tmp_path, [item])
    assert status.read(tmp_path).failed_by == {"timeout": 1}
    with sweeping(tmp_path):
        found = status.read(tmp_path)
    assert (found.failed, found.waiting) == (0, 1)


def test_what_a_search_has_declared_since_counts(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    known, asked, old = trial(0), trial(1), trial(2)
    note(tmp_path, [known], later=5)
    for one in (asked, old):
        store.open(one)
    age(store.folder(old.key) / "spec.json", 5000)
    with sweeping(tmp_path):
        found = status.read(tmp_path)
    assert (found.declared, found.later, found.waiting) == (2, 4, 1)
    assert [one.name for one in found.running] == [f"bdb-synthetic-s1-{asked.key[:8]}"]
    assert found.running[0].epochs is None


def test_without_a_note_the_store_is_what_there_is(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for seed in range(3):
        store.open(trial(seed))
    done(store, trial(0))
    found = status.read(tmp_path)
    assert (found.declared, found.done, found.waiting, found.noted) == (3, 1, 2, False)
    assert "no sweep has left a note here" in status.describe(found)


def test_an_empty_checkout_has_nothing(tmp_path: Path) -> None:
    store_at(tmp_path)
    assert status.read(tmp_path).declared == 0
    assert not (tmp_path / "results").exists()  # nothing is written


def test_changed_parameters_are_told(tmp_path: Path) -> None:
    store_at(tmp_path)
    note(tmp_path, [trial(0)])
    with (tmp_path / "params.yaml").open("a") as file:
        file.write("datasets: [market1501]\n")
    assert status.read(tmp_path).stale
    (tmp_path / "params.yaml").write_text(PARAMS + "tracking:\n  uri: null\n")
    assert not status.read(tmp_path).stale  # nothing there declares a trial


def test_a_damaged_result_is_not_done(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    item = trial(0)
    store.open(item)
    done(store, item)
    note(tmp_path, [item])
    path = store.folder(item.key) / "result.json"
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.9"))
    found = status.read(tmp_path)
    assert (found.done, found.waiting) == (0, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [("seeds: [0]\n", r"params\.yaml: sweep\.store is missing"), ("sweep: {store: 3}\n", "sweep.store is missing, or")],
)
def test_params_without_a_store_are_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ParamsError, match=said):
        status.read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"started": 1}'])
def test_a_damaged_note_names_itself_and_what_to_do(tmp_path: Path, content: str) -> None:
    store_at(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / NOTE).write_text(content)
    with pytest.raises(ValueError, match=r"declared\.json is damaged .*; remove it"):
        status.read(tmp_path)


@given(states=st.lists(st.sampled_from(["absent", "running", "done", "pruned", "failed"]), max_size=8))
@settings(max_examples=25, deadline=None)
def test_it_adds_up_and_agrees_with_the_store(tmp_path_factory: pytest.TempPathFactory, states: list[str]) -> None:
    """Oracle: the store's own word on every trial."""
    root = tmp_path_factory.mktemp("any")
    store = store_at(root)
    trials = [trial(seed) for seed in range(len(states))]
    note(root, trials)
    for one, state in zip(trials, states, strict=True):
        if state != "absent":
            store.open(one)
        if state in ("done", "pruned"):
            done(store, one, state=state)
        if state == "failed":
            store.fail(one.key, reason="KeyError: x")
    found = status.read(root)
    assert found.declared == found.done + found.pruned + found.failed + len(found.running) + found.waiting
    said = [store.state(one.key) for one in trials]
    assert (found.done + found.pruned, found.failed) == (said.count("done"), said.count("failed"))
    assert found.waiting == said.count("absent") + said.count("running")
    assert {one.key for one in found.failures} == {
        one.key for one, state in zip(trials, said, strict=True) if state == "failed"
    }


def test_many_failures_are_summed_and_the_rest_named(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for seed in range(20):
        store.open(trial(seed))
        store.fail(key(seed), reason=f"out of memory: {'x' * 300}" if seed % 2 else "KeyError: y", detail="")
    text = status.describe(status.read(tmp_path))
    assert "20 failed (10 KeyError, 10 out of memory)" in text
    assert "and 12 more that failed: python -m pipeline status --json" in text
    assert max(map(len, text.splitlines())) <= 160


def test_the_command_needs_neither_torch_nor_ray_nor_pandas(tmp_path: Path) -> None:
    store_at(tmp_path)
    code = (
        "import sys\nfrom pipeline import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'ray', 'mlflow', 'pandas', 'optuna'} & set(sys.modules)\n"
        "    sys.exit(f'{end.code} {heavy}' if end.code or heavy else 0)\n"
    )
    command = [sys.executable, "-c", code, "status", "--json", "--root", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["declared"] == 0


def test_watching_ends_with_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(tmp_path)
    item = trial(0)
    note(tmp_path, [item])
    store.open(item)
    lock = filelock.FileLock(tmp_path / locks.LOCK)
    lock.acquire()

    def later(_: float) -> None:
        done(store, item)
        lock.release()

    monkeypatch.setattr("time.sleep", later)
    status.run(tmp_path, as_json=False, watch=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 trial declared = 0 done + 0 pruned + 0 failed + 1 running")
    assert lines[-1].startswith("1 trial declared = 1 done")


def test_the_quick_look_agrees_with_the_store_on_every_torn_record(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    generator = np.random.default_rng(0)
    for seed in range(30):
        item = trial(seed)
        store.open(item)
        done(store, item)
        path = store.folder(item.key) / ("DONE" if seed % 2 else "result.json")
        content = path.read_bytes()
        path.write_bytes(content[: int(generator.integers(0, len(content) - 1))])
        assert census.look(str(store.folder(item.key))).state == store.state(item.key) == "running"
    assert SPEC["dataset"] == "synthetic"
