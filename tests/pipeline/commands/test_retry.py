"""`retry`: forgets failures, all or those named, and nothing else."""

import json
from pathlib import Path

import filelock
import pytest

from pipeline.commands import retry, status
from pipeline.planning.strict import ParamsError
from pipeline.storage.store import TrialStore
from tests.pipeline.fake_store import done, key, trial

ROWS = {"Global Branch": [0, 1], "BDB": [2]}


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    """Trials 0 to 2 have failed, 3 is done, 4 was interrupted; the rows of a table have 0 and 1, and 2."""
    (tmp_path / "params.yaml").write_text("sweep:\n  store: results/trials\n  cache: cache\n")
    found = TrialStore(tmp_path / "results" / "trials")
    for seed in range(5):
        found.open(trial(seed))
    for seed in range(3):
        found.append_epoch(key(seed), {"epoch": 1, "loss": 1.0, "seconds": 1.0})
        found.fail(key(seed), reason=f"timeout: number {seed}", detail="long")
    done(found, trial(3))
    rows = [{"label": label, "keys": {"synthetic": [key(seed) for seed in seeds]}} for label, seeds in ROWS.items()]
    content = {"experiments": [{"name": "bdb_table2", "rows": rows}]}
    (tmp_path / "results" / "plan.json").write_text(json.dumps(content))
    return found


def states(store: TrialStore) -> list[str]:
    return [store.state(key(seed)) for seed in range(5)]


def files(store: TrialStore) -> dict[str, bytes]:
    every = (path for path in store.root.rglob("*") if path.is_file() and not path.name.startswith("sweep."))
    return {str(path.relative_to(store.root)): path.read_bytes() for path in every}


def test_all_failures_are_forgotten_and_nothing_else_changes(
    store: TrialStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(store)
    assert retry.run(tmp_path, (), as_json=False) == 0
    assert states(store) == ["running", "running", "running", "done", "running"]
    gone = {f"{key(seed)}/failure.json" for seed in range(3)}
    assert files(store) == {name: content for name, content in before.items() if name not in gone}
    said = capsys.readouterr().out
    assert f"forgot: bdb-synthetic-s1-{key(1)[:8]}: timeout: number 1" in said
    assert said.splitlines()[-1].startswith("3 failures forgotten: the next sweep tries them")
    assert retry.run(tmp_path, (), as_json=False) == 0
    assert capsys.readouterr().out == "nothing in the store has failed\n"


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        (key(1), {1}),
        (key(1)[:7], {1}),
        (f"bdb-synthetic-s2-{key(2)[:8]}", {2}),
        ("Global Branch", {0, 1}),
        ("bdb_table2: BDB", {2}),
    ],
)
def test_a_name_is_a_key_its_beginning_a_trial_or_a_row(
    store: TrialStore, tmp_path: Path, name: str, chosen: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert retry.run(tmp_path, (name,), as_json=True) == 0
    assert [seed for seed, state in enumerate(states(store)) if state == "failed"] == sorted({0, 1, 2} - chosen)
    content = json.loads(capsys.readouterr().out)
    assert {one["key"] for one in content["forgotten"]} == {key(seed) for seed in chosen}
    assert content["left"] == 3 - len(chosen)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Global Brunch", "did you mean Global Branch?"),
        (key(3), "no trial of this key, name or row has failed"),
        (key(1)[:3], "3 trials have failed"),
        ("", "no trial of this key"),
    ],
)
def test_a_name_of_nothing_that_failed_changes_nothing(store: TrialStore, tmp_path: Path, name: str, said: str) -> None:
    before = files(store)
    with pytest.raises(ParamsError) as caught:
        retry.run(tmp_path, (key(1), name), as_json=False)
    assert len(caught.value.problems) == 1
    assert said in str(caught.value)
    assert files(store) == before


@pytest.mark.parametrize("lock", ["results/sweep.lock", "results/trials/sweep.lock"])
def test_a_sweep_is_left_alone(
    store: TrialStore, tmp_path: Path, lock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with filelock.FileLock(tmp_path / lock):
        assert retry.run(tmp_path, (), as_json=False) == 4
    assert states(store)[:3] == ["failed"] * 3
    assert "a sweep is running" in capsys.readouterr().err


def test_without_a_store_nothing_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text("sweep:\n  store: elsewhere/trials\n  cache: cache\n")
    assert retry.run(tmp_path, (), as_json=False) == 0
    assert capsys.readouterr().out == "nothing in the store has failed\n"
    assert status.read(tmp_path).declared == 0


def test_a_damaged_record_of_a_failure_is_forgotten_like_any(store: TrialStore, tmp_path: Path) -> None:
    (store.folder(key(0)) / "failure.json").write_bytes(b"{")
    (store.folder(key(1)) / "spec.json").write_bytes(b"{")
    assert retry.run(tmp_path, (), as_json=True) == 0
    assert "failed" not in states(store)
