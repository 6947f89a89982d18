"""A store whose files are cut short, zeroed, flipped or replaced: what is not believed runs again, and nothing else."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.running import trial
from pipeline.storage.store import TrialStore
from tests.chaos import fake
from tests.chaos.sweep import assignment

OFFSETS = 50
DONE_FILES = ("spec.json", "metrics.jsonl", "attempts.jsonl", "per_query.npz", "result.json", "DONE")
RUNNING_FILES = ("spec.json", "metrics.jsonl", "attempts.jsonl", "state.safetensors")
RECORD = set(DONE_FILES) - {"attempts.jsonl"}  # who ran where is told, but no result rests on it

FINISHED, RUNNING = fake.trials(2)


@pytest.fixture(autouse=True)
def real_training_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "_dataset"):
        monkeypatch.setattr(trial, name, vars(trial)[name])


class KilledError(Exception):
    pass


def attempt(store: TrialStore, key: str, *, dies_after: int = 0) -> None:
    """An attempt in this process; it ends after an epoch if it is told to."""

    def publish(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == dies_after:
            raise KilledError

    store.open(FINISHED if key == FINISHED.key else RUNNING)
    with contextlib.suppress(KilledError):
        fake.work(assignment(store.root, key), publish)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrialStore:
    """A trial that is done and one that was interrupted, and how that one would have ended."""
    store = TrialStore(tmp_path_factory.mktemp("whole"))
    fake.write_acts(store.root, {}, seconds=0)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train", "_dataset"):
            patch.setattr(trial, name, vars(trial)[name])
        attempt(store, FINISHED.key)
        attempt(store, RUNNING.key, dies_after=3)
        shutil.copytree(store.root, store.root / "finished")
        (store.root / "finished" / "chaos.json").write_bytes((store.root / "chaos.json").read_bytes())
        attempt(TrialStore(store.root / "finished"), RUNNING.key)
    assert [store.state(one.key) for one in (FINISHED, RUNNING)] == ["done", "running"]
    return store


@pytest.fixture
def damaged(whole: TrialStore, tmp_path: Path) -> Callable[[], TrialStore]:
    """A fresh copy each time."""

    def make() -> TrialStore:
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        shutil.copytree(whole.root, tmp_path / "store")
        return TrialStore(tmp_path / "store")

    return make


def cut(content: bytes, offset: int) -> bytes:
    return content[:offset]


def zero(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes(len(content) - offset)


def flip(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ (1 << offset % 8)]) + content[offset + 1 :]


def damages(name: str) -> list[tuple[Callable[[bytes, int], bytes], float]]:
    """Kinds of damage and places, as shares of a file's length."""
    generator = np.random.default_rng(sum(name.encode()))
    return [((cut, zero, flip)[number % 3], generator.random()) for number in range(OFFSETS)]


def damage(path: Path, kind: Callable[[bytes, int], bytes], share: float) -> bool:
    """Whether that made a difference."""
    content = path.read_bytes()
    harmed = kind(content, int(share * len(content)))
    path.write_bytes(harmed)
    return harmed != content


def look_at_everything(store: TrialStore, key: str) -> None:
    """Whoever reads a damaged record gets an answer, or an error that names the trial's folder or the trial."""
    for read in (store.epochs, store.attempts, store.result, store.per_query, store.failure, store.spec):
        try:
            read(key)
        except (LookupError, ValueError) as error:
            assert key in str(error)  # noqa: PT017 - that it raises is no must
            assert not isinstance(error, ValueError) or "remove it" in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", DONE_FILES)
def test_of_a_damaged_record_nothing_is_believed_and_that_trial_alone_runs_again(
    whole: TrialStore, damaged: Callable[[], TrialStore], name: str
) -> None:
    expected = fake.metrics(whole, [FINISHED.key])
    for number, (kind, share) in enumerate(damages(name)):
        store = damaged()
        if not damage(store.folder(FINISHED.key) / name, kind, share):
            continue
        assert store.state(FINISHED.key) == ("running" if name in RECORD else "done")
        assert store.state(RUNNING.key) == "running"
        look_at_everything(store, FINISHED.key)
        if number % 5 == 0:
            attempt(store, FINISHED.key)
            assert store.state(FINISHED.key) == "done"
        if store.state(FINISHED.key) == "done":
            assert fake.metrics(store, [FINISHED.key]) == expected


@pytest.mark.parametrize("name", RUNNING_FILES)
def test_an_interrupted_trial_with_a_damaged_file_ends_as_it_would_have(
    whole: TrialStore, damaged: Callable[[], TrialStore], name: str
) -> None:
    expected = fake.metrics(TrialStore(whole.root / "finished"), [RUNNING.key])
    done = (whole.folder(FINISHED.key) / "DONE").stat().st_mtime_ns
    for kind, share in damages(name):
        store = damaged()
        harmed = damage(store.folder(RUNNING.key) / name, kind, share)
        look_at_everything(store, RUNNING.key)
        attempt(store, RUNNING.key)
        assert fake.metrics(store, [RUNNING.key]) == expected
        assert (store.folder(FINISHED.key) / "DONE").stat().st_mtime_ns == done
        last = store.attempts(RUNNING.key)[-1]
        if harmed and name == "state.safetensors":
            assert last["from_epoch"] == 0
            assert "state.safetensors is damaged" in last["note"]
            assert (store.folder(RUNNING.key) / "state.damaged.safetensors").exists()


def test_a_damaged_failure_is_still_a_failure(damaged: Callable[[], TrialStore]) -> None:
    for kind, share in damages("failure.json"):
        store = damaged()
        store.fail(RUNNING.key, reason="diverged: the loss is nan in epoch 3")
        damage(store.folder(RUNNING.key) / "failure.json", kind, share)
        assert store.state(RUNNING.key) == "failed"
        assert store.failure(RUNNING.key)["reason"]
        look_at_everything(store, RUNNING.key)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", sorted({*DONE_FILES, *RUNNING_FILES, "failure.json", "weights.safetensors"}))
def test_a_planted_pickle_is_never_executed(damaged: Callable[[], TrialStore], tmp_path: Path, name: str) -> None:
    store, trap = damaged(), tmp_path / "executed"
    np.savez(tmp_path / "evil.npz", evil=np.array([Evil(trap)], dtype=object))
    plain = f"cos\nmkdir\n(S'{trap}'\ntR.".encode()
    for content in (plain, (tmp_path / "evil.npz").read_bytes()):
        for key in (FINISHED.key, RUNNING.key):
            (store.folder(key) / name).write_bytes(content)
            look_at_everything(store, key)
            attempt(store, key)
            look_at_everything(store, key)
            assert store.state(key) == "done"
    assert not trap.exists()
    with np.load(tmp_path / "evil.npz", allow_pickle=True) as arrays:
        arrays["evil"]  # the trap works
    assert trap.exists()
