"""The lock of a store at a URL: one holder, whoever dies, comes late or sleeps."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import gc
from pipeline.storage import locks
from pipeline.storage.leases import HeldError, Lease
from pipeline.storage.objects import Objects
from pipeline.storage.remote import RemoteStore
from tests.pipeline.fake_store import trial


@pytest.fixture(params=["memory", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "memory":
        return Objects(f"memory://{tmp_path.name}", patience=0)
    return Objects(request.getfixturevalue("bucket"), patience=0)


def lease(objects: Objects, *, renew: float = 20.0, dead: float = 90.0) -> Lease:
    return Lease(objects, "sweep.lock", renew_seconds=renew, dead_seconds=dead)


def nobody(owner: str) -> None:
    raise AssertionError(f"lost to {owner}")


def wait_for(ready: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_holds_it_and_the_next_is_told_who(objects: Objects) -> None:
    assert lease(objects).holder() == ""
    with lease(objects).alone(nobody):
        assert lease(objects).holder().startswith(f"process {os.getpid()} of ")
        with pytest.raises(HeldError, match=rf"process {os.getpid()} of .*left for dead after 90 s"):
            lease(objects).alone(nobody).__enter__()
    assert lease(objects).holder() == ""
    with lease(objects).alone(nobody):
        assert lease(objects).holder()
    assert len(objects.list()) == 1  # what is past is deleted


def test_it_is_renewed_as_long_as_it_is_held(objects: Objects) -> None:
    with lease(objects, renew=0.05, dead=5.0).alone(nobody):
        before = set(objects.list())
        wait_for(lambda: set(objects.list()).isdisjoint(before))
        with pytest.raises(HeldError):
            lease(objects).alone(nobody).__enter__()


def left_by_the_dead(objects: Objects) -> None:
    assert lease(objects).advance(0, held=True) == 1


def test_of_two_who_take_what_a_dead_one_left_one_succeeds(objects: Objects) -> None:
    left_by_the_dead(objects)
    with pytest.raises(HeldError):
        lease(objects).alone(nobody).__enter__()
    time.sleep(2.1)  # the server tells whole seconds
    outcomes: list[str] = []
    start, end = threading.Barrier(4), threading.Barrier(4)

    def take() -> None:
        start.wait()
        try:
            with lease(objects, dead=1.0).alone(nobody):
                outcomes.append("held")
                end.wait()
        except HeldError:
            outcomes.append("refused")
            end.wait()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]


def test_who_comes_late_with_an_old_state_gives_up(objects: Objects) -> None:
    """A taker that sleeps between looking and taking, while the owner goes on and deletes what it looked at."""
    left_by_the_dead(objects)
    owner = lease(objects)
    assert [owner.advance(number, held=True) for number in (1, 2, 3)] == [2, 3, 4]
    assert lease(objects).advance(1, held=True) is None
    assert list(objects.list()) == ["sweep.lock/00000004"]
    assert owner.advance(4, held=True) == 5
    assert lease(objects).advance(4, held=True) is None


def test_who_has_slept_too_long_is_told_and_leaves_the_lease_to_its_new_owner(objects: Objects) -> None:
    lost: list[str] = []
    with lease(objects, renew=0.3).alone(lost.append):
        number = max(int(name[-8:]) for name in objects.list())
        while lease(objects).advance(number, held=True) is None:  # as one takes it who found it left
            number += 1
        wait_for(lambda: lost)
    assert lost[0].startswith("process ")
    assert lease(objects).holder()  # it is the other's still


class Away(Objects):
    """A server that does not answer."""

    away = False

    def create(self, name: str, content: bytes) -> bool:
        if self.away:
            raise OSError("away")
        return super().create(name, content)


def test_a_server_that_is_away_for_a_while_takes_no_lease(tmp_path: Path) -> None:
    objects = Away(f"memory://{tmp_path.name}", patience=0)
    with lease(objects, renew=0.05).alone(nobody):
        objects.away = True
        time.sleep(0.3)
        before, objects.away = set(objects.list()), False
        wait_for(lambda: set(objects.list()).isdisjoint(before))


def test_an_answer_that_was_lost_is_no_refusal(objects: Objects) -> None:
    assert objects.create("a", b"mine")
    assert objects.create("a", b"mine")  # asked again, for the first answer did not come
    assert not objects.create("a", b"another's")


def test_a_sweep_that_lost_its_lease_writes_nothing_more_and_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("os.kill", lambda *what: told.append(what))
    store = RemoteStore(f"memory://{tmp_path.name}", str(tmp_path))
    monkeypatch.setattr(locks, "_lease", lambda store: lease(store.objects, renew=0.1))
    with locks.alone_at(tmp_path, store):
        assert locks.holder(tmp_path, store).startswith(f"process {os.getpid()} of ")
        store.open(trial(1))
        number = max(int(name[-8:]) for name in store.objects.list() if name.startswith("sweep.lock"))
        while lease(store.objects).advance(number, held=True) is None:
            number += 1
        wait_for(lambda: told)
        assert told == [(os.getpid(), signal.SIGTERM)]
        for write in (
            lambda: store.open(trial(2)),
            lambda: store.fail(trial(1).key, "late"),
            lambda: store.delete(trial(1).key),
            lambda: store.upload(store.state_file(trial(1).key)),
        ):
            with pytest.raises(OSError, match="the lease is lost to process"):
                write()
    assert store.state(trial(1).key) == "running"


def test_commands_leave_a_store_alone_that_a_sweep_elsewhere_is_at(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[3]
    text = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("store: results/trials", f"store: {bucket}"))
    with lease(Objects(bucket)).alone(nobody):
        assert gc.run(tmp_path, yes=True, older_than=0, undeclared=True, as_json=False) == gc.LOCKED
    assert f"a sweep is running: process {os.getpid()} of" in capsys.readouterr().err
