"""The store under every kill we can stage, torn files, damaged files and foreign files."""

import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.storage.objects import Objects
from pipeline.storage.remote import RemoteStore
from pipeline.storage.store import TrialStore, _seals

KEY = "0123456789abcdef0123"
RESULT = {"status": "done", "metrics": {"mAP": 0.1 + 0.2, "Rank-1": 1 / 3}, "epochs": 3}
PER_QUERY = {"average_precision": np.array([0.25, np.nan, 1.0]), "first_match_rank": np.array([4, 0, 1])}


@dataclass(frozen=True)
class FakeTrial:
    key: str = KEY
    spec: dict[str, Any] = field(default_factory=lambda: {"config": {"seed": 0}, "dataset": "synthetic"})


DISK_CALLS = ("replace", "fsync", "unlink", "mkdir")


class Killed(BaseException):
    """Not an Exception, so that no handler of ours tidies up after it: as after a kill, what is there is there."""


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TrialStore:
    """A store in a folder, and one at a URL: they keep the same promises."""
    if request.param == "folder":
        return TrialStore(tmp_path / "trials")
    url = request.getfixturevalue("bucket")
    return RemoteStore(url, str(tmp_path / "cache"), objects=Objects(url, patience=0))


def changed(store: TrialStore, path: Path, content: bytes | None) -> None:
    """Replace a file of the store, or delete it, behind its back, where it is kept."""
    if isinstance(store, RemoteStore):
        name = path.relative_to(store.root).as_posix()
        store.objects.delete([name]) if content is None else store.objects.put(name, content)
        store.refresh()
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def opened(store: TrialStore) -> Path:
    return store.open(FakeTrial())  # type: ignore[arg-type]


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: int, *, after: bool) -> None:
    """Die at the moment-th call that changes the disk, before or after it has taken effect."""
    calls = itertools.count()

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            last = next(calls) == moment
            if last and not after:
                raise Killed
            try:
                return real(*args, **kwargs)
            finally:
                if last:
                    raise Killed

        return call

    for name in DISK_CALLS:
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


def count_moments(action: Callable[[], object]) -> int:
    """How many calls of `action` change the disk."""
    seen: list[str] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(real.__name__)
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in DISK_CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        action()
    return len(seen)


def test_a_trial_goes_through_its_states(store: TrialStore) -> None:
    assert store.state(KEY) == "absent"
    assert store.keys() == []
    folder = opened(store)
    assert folder == store.folder(KEY)
    assert store.state(KEY) == "running"
    assert store.keys() == [KEY]
    store.finish(KEY, RESULT, PER_QUERY)
    assert store.state(KEY) == "done"
    assert store.result(KEY) == RESULT
    assert store.spec(KEY) == FakeTrial().spec
    found = store.per_query(KEY)
    assert found is not None
    for name, expected in PER_QUERY.items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == expected.dtype


def test_another_process_sees_the_same(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    opened(store)
    store.append_epoch(KEY, {"epoch": 1.0, "loss": 0.5})
    store.finish(KEY, RESULT)
    code = (
        "import sys; from pathlib import Path; from pipeline.storage.store import TrialStore; "
        f"s = TrialStore(Path(sys.argv[1])); k = {KEY!r}; "
        f"print(s.state(k), s.result(k) == {RESULT!r}, s.epochs(k), 'torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, store.root], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["done", "True", "[{'epoch':", "1.0,", "'loss':", "0.5}]", "False"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_moment_of_finish_loses_nothing_and_claims_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    rehearsal = TrialStore(tmp_path / "rehearsal")
    opened(rehearsal)
    moments = count_moments(lambda: rehearsal.finish(KEY, RESULT, PER_QUERY))
    assert moments >= 9  # three files, each: fsync, replace, fsync of the folder
    states = []
    for moment in range(moments):
        store = TrialStore(tmp_path / f"{moment}-{after}")
        opened(store)
        store.append_epoch(KEY, {"epoch": 1, "loss": 0.5})
        with monkeypatch.context() as patch:
            kill_at(patch, moment, after=after)
            with pytest.raises(Killed):
                store.finish(KEY, RESULT, PER_QUERY)
        states.append(store.state(KEY))
        assert states[-1] in ("running", "done")
        if states[-1] == "done":
            assert store.result(KEY) == RESULT
            assert store.per_query(KEY) is not None
        assert store.epochs(KEY) == [{"epoch": 1, "loss": 0.5}]
        opened(store)  # the next attempt
        store.finish(KEY, RESULT, PER_QUERY)
        assert store.state(KEY) == "done"
        assert store.result(KEY) == RESULT
        assert store.keys() == [KEY]
    assert states.count("running") >= moments - 2  # done only once DONE has its name


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_moment_of_open_leaves_a_trial_that_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    moments = count_moments(lambda: opened(TrialStore(tmp_path / "rehearsal")))
    for moment in range(moments):
        store = TrialStore(tmp_path / f"{moment}-{after}")
        with monkeypatch.context() as patch:
            kill_at(patch, moment, after=after)
            with pytest.raises(Killed):
                opened(store)
        assert store.state(KEY) in ("absent", "running")
        assert store.keys() == ([KEY] if store.state(KEY) == "running" else [])
        opened(store)
        assert store.spec(KEY) == FakeTrial().spec


def test_a_kill_during_the_retry_of_a_failed_trial_keeps_a_terminal_or_running_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(name: str) -> TrialStore:
        store = TrialStore(tmp_path / name)
        opened(store)
        store.fail(KEY, "diverged")
        return store

    rehearsal = failed("rehearsal")
    for moment in range(count_moments(lambda: opened(rehearsal))):
        store = failed(str(moment))
        with monkeypatch.context() as patch:
            kill_at(patch, moment, after=True)
            with pytest.raises(Killed):
                opened(store)
        assert store.state(KEY) in ("failed", "running")


def test_a_real_kill_in_another_process(tmp_path: Path) -> None:
    """os._exit in the middle of finish, so that not even `finally` blocks run."""
    store = TrialStore(tmp_path)
    opened(store)
    code = (
        "import os, sys; from pathlib import Path; from pipeline.storage.store import TrialStore; real = os.replace\n"
        "def replace(*paths):\n"
        "    os._exit(9) if str(paths[1]).endswith('DONE') else real(*paths)\n"
        "os.replace = replace\n"
        f"TrialStore(Path(sys.argv[1])).finish({KEY!r}, {RESULT!r})"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    assert store.state(KEY) == "running"
    assert (store.folder(KEY) / "result.json").exists()  # it was written, and it is not believed
    with pytest.raises(LookupError, match="running"):
        store.result(KEY)


def test_a_full_disk_keeps_the_old_files_and_leaves_no_scrap(
    store: TrialStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = opened(store)
    store.fail(KEY, "first")
    before = sorted(path.name for path in folder.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.fail(KEY, "second")
    assert store.failure(KEY)["reason"] == "first"
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    "damage",
    [
        ("result.json", lambda content: b'{"status": "done", "metrics": {"mAP": 0.99}}'),
        ("result.json", lambda content: content[:-5]),
        ("result.json", None),
        ("DONE", lambda content: b""),
        ("DONE", None),
        ("per_query.npz", None),
        ("spec.json", lambda content: b"{}"),
        ("metrics.jsonl", lambda content: b'{"epoch": 1}\n'),
    ],
)
def test_a_damaged_result_is_not_believed_and_can_be_redone(
    store: TrialStore, damage: tuple[str, Callable[[bytes], bytes] | None]
) -> None:
    folder = opened(store)
    store.append_epoch(KEY, {"epoch": 1.0, "loss": 0.5})
    store.finish(KEY, RESULT, PER_QUERY)
    path, harm = folder / damage[0], damage[1]
    changed(store, path, harm(path.read_bytes()) if harm else None)
    assert store.state(KEY) == "running"
    with pytest.raises(LookupError):
        store.result(KEY)
    with pytest.raises(LookupError):
        store.per_query(KEY)
    store.finish(KEY, RESULT)
    assert store.result(KEY) == RESULT
    assert store.per_query(KEY) is None  # those of the lost result are gone with it


def test_opening_again_keeps_everything(store: TrialStore) -> None:
    opened(store)
    store.append_epoch(KEY, {"epoch": 1, "loss": 2.0})
    store.state_file(KEY).write_bytes(b"resumable")
    store.upload(store.state_file(KEY))
    opened(store)
    store.fetch(store.state_file(KEY))
    assert store.epochs(KEY) == [{"epoch": 1, "loss": 2.0}]
    assert (store.folder(KEY) / "state.safetensors").read_bytes() == b"resumable"
    store.finish(KEY, RESULT)
    opened(store)
    assert store.state(KEY) == "done"


def test_a_failure_is_recorded_and_cleared_by_the_next_attempt(store: TrialStore) -> None:
    opened(store)
    store.fail(KEY, "diverged", "the loss is nan in epoch 3")
    assert store.state(KEY) == "failed"
    failure = store.failure(KEY)
    assert (failure["reason"], failure["detail"]) == ("diverged", "the loss is nan in epoch 3")
    assert failure["when"].endswith("+00:00")
    opened(store)
    assert store.state(KEY) == "running"
    with pytest.raises(LookupError, match=r"failure\.json"):
        store.failure(KEY)


def test_a_failure_that_is_forgotten_leaves_the_rest(store: TrialStore) -> None:
    opened(store)
    store.append_epoch(KEY, {"epoch": 1, "loss": 1.0})
    store.fail(KEY, reason="timeout: no epoch")
    for _ in range(2):  # a second time there is nothing to forget
        store.forget(KEY)
        assert store.state(KEY) == "running"
    assert len(store.epochs(KEY)) == 1
    with pytest.raises(LookupError):
        store.failure(KEY)


def test_done_is_final(store: TrialStore) -> None:
    opened(store)
    store.finish(KEY, RESULT, PER_QUERY)
    store.fail(KEY, "late", "")
    store.finish(KEY, RESULT | {"status": "pruned"})
    assert store.state(KEY) == "done"
    assert store.result(KEY) == RESULT
    assert store.per_query(KEY) is not None


def test_only_the_two_final_states_finish_a_trial(store: TrialStore) -> None:
    opened(store)
    with pytest.raises(ValueError, match="allowed: done, pruned"):
        store.finish(KEY, {"status": "failed"})
    assert store.state(KEY) == "running"


@pytest.mark.parametrize(
    "key", ["", "..", "../../etc", "0" * 19, "0" * 21, "g" * 20, "A" * 20, "0" * 20 + "\n", "a/" * 10]
)
def test_nothing_but_a_key_becomes_a_path(store: TrialStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a trial key"):
        store.folder(key)


def test_foreign_files_in_the_root_are_no_trials(store: TrialStore) -> None:
    opened(store)
    for name in ("notes/spec.json", "f" * 20 + "/attempts.jsonl"):  # opened, and killed before its spec was there
        if not isinstance(store, RemoteStore):
            (store.root / name).parent.mkdir()
        changed(store, store.root / name, b"{}")
    changed(store, store.root / "sweep.lock", b"")
    assert store.keys() == [KEY]
    assert store.state("f" * 20) == "absent"
    assert set(store.files()) == {"notes", "f" * 20, KEY}


def test_object_arrays_are_refused(store: TrialStore) -> None:
    opened(store)
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        store.finish(KEY, RESULT, {"evil": np.array([{"a": 1}], dtype=object)})
    assert store.state(KEY) == "running"


def test_a_pickle_planted_in_the_store_is_not_read(store: TrialStore) -> None:
    folder = opened(store)
    store.finish(KEY, RESULT, PER_QUERY)
    evil = io.BytesIO()
    np.savez(evil, evil=np.array([{"a": 1}], dtype=object))
    changed(store, folder / "per_query.npz", evil.getvalue())
    with pytest.raises(LookupError, match="running"):
        store.per_query(KEY)
    changed(store, folder / "DONE", _seals(folder))  # by somebody who knows how
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.per_query(KEY)


def test_a_relative_root_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = TrialStore(Path("trials"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened(store)
    assert (tmp_path / "trials" / KEY / "spec.json").exists()


NUMBERS = st.floats(width=64) | st.integers(-(2**53), 2**53)
LINES = st.lists(
    st.fixed_dictionaries({"epoch": st.integers(1, 6)}, optional={"loss": NUMBERS, "lr": NUMBERS}), max_size=12
)


@given(lines=LINES, cut=st.integers(1, 60), resumed=LINES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_epochs_are_the_last_line_of_each_whatever_a_kill_tore(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, float]], cut: int, resumed: list[dict[str, float]]
) -> None:
    """Oracle: a dictionary that forgets the line a kill cut off, and is then filled on."""
    store = TrialStore(tmp_path_factory.mktemp("store"))
    path = opened(store) / "metrics.jsonl"
    for line in lines:
        store.append_epoch(KEY, line)
    expected = lines
    if lines:
        whole = path.read_bytes()
        last = len(whole.splitlines(keepends=True)[-1])
        removed = min(cut, last)
        os.truncate(path, len(whole) - removed)
        expected = lines if removed == 1 else lines[:-1]  # without its newline a line is still whole
    for line in resumed:
        store.append_epoch(KEY, line)
    by_epoch = {line["epoch"]: line for line in [*expected, *resumed]}
    found = store.epochs(KEY)
    assert json.dumps(found) == json.dumps([by_epoch[epoch] for epoch in sorted(by_epoch)])


def test_the_epochs_of_a_trial_that_is_done_stay_as_they_are(store: TrialStore) -> None:
    opened(store)
    store.append_epoch(KEY, {"epoch": 1, "loss": 0.5})
    store.finish(KEY, RESULT)
    store.append_epoch(KEY, {"epoch": 1, "loss": 0.25})  # trained once more, for its weights
    assert store.epochs(KEY) == [{"epoch": 1, "loss": 0.5}]
    assert store.state(KEY) == "done"


def test_a_line_that_was_changed_does_not_count(store: TrialStore) -> None:
    path = opened(store) / "metrics.jsonl"
    store.append_epoch(KEY, {"epoch": 1, "loss": 0.5})
    store.append_epoch(KEY, {"epoch": 2, "loss": 0.25})
    changed(store, path, path.read_bytes().replace(b"0.5", b"0.6"))
    assert store.epochs(KEY) == [{"epoch": 2, "loss": 0.25}]


def test_attempts_are_told_with_their_ends(store: TrialStore) -> None:
    opened(store)
    assert store.attempts(KEY) == []
    store.attempt(KEY, {"event": "started", "host": "a", "from_epoch": 0})
    store.attempt(KEY, {"event": "started", "host": "b", "from_epoch": 2})  # of the first nobody saw the end
    store.attempt(KEY, {"event": "ended", "outcome": "again", "reason": "worker lost"})
    store.attempt(KEY, {"event": "ended", "outcome": "preempted"})  # before it could say that it began
    first, second, third = store.attempts(KEY)
    assert set(first) == {"started", "host", "from_epoch"}
    assert (second["host"], second["from_epoch"], second["outcome"], second["reason"]) == (
        "b",
        2,
        "again",
        "worker lost",
    )
    assert set(second) == {"started", "host", "from_epoch", "ended", "outcome", "reason"}
    assert (third["outcome"], set(third)) == ("preempted", {"ended", "outcome"})


def test_a_damaged_file_names_itself_and_what_to_do(store: TrialStore) -> None:
    folder = opened(store)
    changed(store, folder / "spec.json", b'{"config')
    with pytest.raises(ValueError, match=rf"{folder}/spec\.json is damaged \(.*\); remove it: the next sweep runs"):
        store.spec(KEY)


def test_what_is_set_aside_is_kept_under_another_name(store: TrialStore) -> None:
    opened(store)
    state = store.state_file(KEY)
    state.write_bytes(b"harmed")
    store.upload(state)
    assert store.set_aside(state).read_bytes() == b"harmed"
    assert not store.has(state)
    assert {name for name in store.files()[KEY] if "state" in name} == {"state.damaged.safetensors"}


def test_what_is_deleted_is_gone(store: TrialStore) -> None:
    opened(store)
    store.finish(KEY, RESULT, PER_QUERY)
    store.weights(KEY).write_bytes(b"network")
    store.upload(store.weights(KEY))
    assert store.has_weights(KEY)
    store.remove(store.weights(KEY))
    store.remove(store.weights(KEY))  # which is no error
    assert not store.has_weights(KEY)
    assert set(store.files()[KEY]) >= {"DONE", "result.json"}
    store.delete(KEY)
    store.refresh()
    assert (store.keys(), store.files(), store.state(KEY)) == ([], {}, "absent")


def test_epochs_of_a_trial_that_never_trained_are_none(store: TrialStore) -> None:
    assert store.epochs(KEY) == []
