"""The trial store at a URL: two machines on one store, every kill between two uploads, an outage, a worker too many."""

import copy
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.commands import gc, retry, status
from pipeline.planning.plan import Plan, Trial
from pipeline.planning.shares import Machines, Node, Share, Shares
from pipeline.running import outline
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Desk, Resources
from pipeline.running.supervision import Cause, Interrupts
from pipeline.running.trial import Assignment, Terms, failure
from pipeline.storage import locks
from pipeline.storage.objects import Objects, Version
from pipeline.storage.remote import RemoteStore, TakenOverError, store_at
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from tests.chaos import fake
from tests.pipeline.fake_store import done, trial
from tests.services import ROOT, Switch, switched

RESULT = {"status": "done", "metrics": {"mAP": 0.1 + 0.2}, "epochs": 1}
PER_QUERY = {"average_precision": np.array([0.25, np.nan])}


class Killed(BaseException):
    pass


class CountedObjects(Objects):
    """Counts requests, and dies at one that writes: before it or after it."""

    dies_at: int | None = None
    after = False

    def __init__(self, url: str) -> None:
        super().__init__(url, patience=0)
        self.calls: list[str] = []
        self.bytes = 0

    def list(self, folder: str = "") -> dict[str, Version]:
        self.calls.append("list")
        return super().list(folder)

    def get(self, name: str) -> bytes:
        self.calls.append("get")
        content = super().get(name)
        self.bytes += len(content)
        return content

    def put(self, name: str, content: bytes) -> str:
        self.bytes += len(content)
        return self._changing("put", lambda: super(CountedObjects, self).put(name, content))

    def put_file(self, name: str, path: Path) -> None:
        self._changing("put", lambda: super(CountedObjects, self).put_file(name, path))

    def delete(self, names: Any) -> None:
        for name in names:
            self._changing("delete", lambda name=name: super(CountedObjects, self).delete([name]))  # type: ignore[misc]

    def _changing(self, kind: str, call: Callable[[], Any]) -> Any:
        last = sum(one in ("put", "delete") for one in self.calls) == self.dies_at
        self.calls.append(kind)
        if last and not self.after:
            raise Killed
        found = call()
        if last:
            raise Killed
        return found


def machine(url: str, folder: Path) -> RemoteStore:
    """A store as a machine with a cache of its own has it."""
    return RemoteStore(url, str(folder), objects=CountedObjects(url))


def calls(store: RemoteStore) -> list[str]:
    """The requests since the last time."""
    objects = store.objects
    assert isinstance(objects, CountedObjects)
    found, objects.calls = objects.calls, []
    return found


def test_what_one_machine_writes_another_sees_when_it_looks(bucket: str, tmp_path: Path) -> None:
    here, there, one = machine(bucket, tmp_path / "here"), machine(bucket, tmp_path / "there"), trial(1)
    here.open(one)
    here.append_epoch(one.key, {"epoch": 1.0})
    assert there.state(one.key) == "absent"
    there.refresh()
    assert (there.state(one.key), there.epochs(one.key), there.spec(one.key)) == ("running", [{"epoch": 1.0}], one.spec)
    there.finish(one.key, RESULT, PER_QUERY)
    here.refresh(one.key)
    assert here.result(one.key) == RESULT
    np.testing.assert_array_equal((here.per_query(one.key) or {})["average_precision"], PER_QUERY["average_precision"])
    there.delete(one.key)
    here.refresh()
    assert (here.state(one.key), here.keys(), here.files()) == ("absent", [], {})
    assert not here.folder(one.key).exists()


def test_only_what_has_changed_is_brought(bucket: str, tmp_path: Path) -> None:
    here, there = machine(bucket, tmp_path / "here"), machine(bucket, tmp_path / "there")
    for seed in range(3):
        here.open(trial(seed))
        here.finish(trial(seed).key, RESULT)
    there.refresh()
    assert sorted(calls(there)) == sorted(["list", *["get"] * 9])  # spec, result and DONE of each
    there.refresh()
    assert calls(there) == ["list"]
    calls(here)
    here.refresh()  # it has written all that itself
    assert calls(here) == ["list"]
    here.fail(trial(0).key, "late")
    again = machine(bucket, tmp_path / "there")  # another process of that machine
    again.refresh()
    assert calls(again) == ["list", "get"]
    assert again.failure(trial(0).key)["reason"] == "late"
    here.remove(here.folder(trial(0).key) / "failure.json")
    again.refresh()
    with pytest.raises(LookupError):
        again.failure(trial(0).key)


def test_an_epoch_takes_a_listing_and_a_write(bucket: str, tmp_path: Path) -> None:
    store, one = machine(bucket, tmp_path), trial(1)
    store.open(one)
    store.attempt(one.key, {"event": "started"})
    calls(store)
    store.append_epoch(one.key, {"epoch": 1.0, "loss": 0.5})
    store.append_epoch(one.key, {"epoch": 2.0, "loss": 0.25})
    assert calls(store) == ["list", "put"] * 2


def test_a_mirror_that_was_harmed_is_brought_again(bucket: str, tmp_path: Path) -> None:
    store, one = machine(bucket, tmp_path), trial(1)
    store.open(one)
    store.finish(one.key, RESULT)
    (store.folder(one.key) / "result.json").write_bytes(b"")
    assert store.state(one.key) == "running"
    store.refresh()
    assert store.result(one.key) == RESULT
    (store.folder(one.key) / ".versions.json").write_bytes(b"{")
    store.refresh(one.key)
    assert store.result(one.key) == RESULT


def work_of(store: TrialStore, one: Trial) -> None:
    """Everything that a sweep and its worker write of a trial that is tried twice."""
    store.open(one)
    store.fail(one.key, "timeout")
    store.open(one)
    store.attempt(one.key, {"event": "started"})
    store.append_epoch(one.key, {"epoch": 1.0, "loss": 0.5})
    store.state_file(one.key).write_bytes(b"state")
    store.upload(store.state_file(one.key))
    store.finish(one.key, RESULT, PER_QUERY)
    store.remove(store.state_file(one.key))
    store.attempt(one.key, {"event": "ended", "outcome": "done"})


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_between_any_two_writes_claims_nothing_and_loses_nothing(tmp_path: Path, after: bool) -> None:
    bucket, one = f"memory://{tmp_path.name}", trial(1)
    rehearsal = machine(f"{bucket}/rehearsal", tmp_path / "rehearsal")
    work_of(rehearsal, one)
    moments = sum(call in ("put", "delete") for call in calls(rehearsal))
    assert moments == 12
    states = []
    for moment in range(moments):
        url = f"{bucket}/{moment}"
        store = machine(url, tmp_path / f"{moment}-a")
        store.objects.dies_at, store.objects.after = moment, after  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            work_of(store, one)
        for other in (machine(url, tmp_path / f"{moment}-b"), machine(url, tmp_path / f"{moment}-a")):
            other.refresh()
            states.append(other.state(one.key))
            if states[-1] == "done":
                assert other.result(one.key) == RESULT
                assert other.per_query(one.key) is not None
                assert other.epochs(one.key) == [{"epoch": 1.0, "loss": 0.5}]
        work_of(other, one)  # the next attempt, on the machine of the first
        third = machine(url, tmp_path / f"{moment}-c")
        third.refresh()
        assert third.result(one.key) == RESULT
        assert third.epochs(one.key) == [{"epoch": 1.0, "loss": 0.5}]
    assert {"running", "done", "failed"} <= set(states)
    assert states.count("done") == 2 * (3 if after else 2)  # from DONE on


def test_an_attempt_that_another_one_follows_writes_nothing_more(bucket: str, tmp_path: Path) -> None:
    lost, found, one = machine(bucket, tmp_path / "lost"), machine(bucket, tmp_path / "found"), trial(1)
    lost.open(one)
    lost.attempt(one.key, {"event": "started", "host": "lost"})
    lost.append_epoch(one.key, {"epoch": 1.0})
    lost.state_file(one.key).write_bytes(b"of the lost one")
    found.attempt(one.key, {"event": "started", "host": "found"})
    for attempt in (
        lambda: lost.append_epoch(one.key, {"epoch": 2.0}),
        lambda: lost.upload(lost.state_file(one.key)),
        lambda: lost.finish(one.key, RESULT | {"epochs": 7}),
    ):
        with pytest.raises(TakenOverError, match="another worker has begun with this trial") as raised:
            attempt()
    assert failure(raised.value).cause is Cause.READ_WRITE
    found.append_epoch(one.key, {"epoch": 2.0})
    found.finish(one.key, RESULT)
    lost.append_epoch(one.key, {"epoch": 3.0})  # it is done, and stays as it is
    lost.upload(lost.state_file(one.key))
    lost.finish(one.key, RESULT | {"epochs": 7})
    assert lost.result(one.key) == found.result(one.key) == RESULT
    assert [line["epoch"] for line in lost.epochs(one.key)] == [1.0, 2.0]
    assert "state.safetensors" not in found.files()[one.key]


def test_a_state_comes_when_it_is_fetched_and_only_if_it_is_another(bucket: str, tmp_path: Path) -> None:
    here, there, one = machine(bucket, tmp_path / "here"), machine(bucket, tmp_path / "there"), trial(1)
    here.open(one)
    state, mirrored = here.state_file(one.key), there.state_file(one.key)
    for content in (b"epoch 5", b"epoch 10"):
        state.write_bytes(content)
        here.upload(state)
        there.refresh()
        there.fetch(mirrored)
        assert mirrored.read_bytes() == content
        before = mirrored.stat().st_mtime_ns
        there.fetch(mirrored)
        assert mirrored.stat().st_mtime_ns == before
    state.write_bytes(b"epoch 15")  # and killed before it was taken in: what is here is further
    machine(bucket, tmp_path / "here").fetch(state)
    assert state.read_bytes() == b"epoch 15"
    here.remove(state)
    there.refresh()
    there.fetch(mirrored)
    assert not mirrored.exists()


def test_a_store_travels_to_a_worker_whose_home_is_another(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "driver"))
    store = store_at(bucket, tmp_path, cache="~/cache")
    assert isinstance(store, RemoteStore)
    assert (store.place, store.root.is_relative_to(tmp_path / "driver" / "cache")) == (bucket, True)
    monkeypatch.setenv("HOME", str(tmp_path / "worker"))
    moved = copy.copy(store)  # as it is pickled
    assert (moved.place, moved.root.is_relative_to(tmp_path / "worker" / "cache")) == (bucket, True)
    assert store_at("results/trials", tmp_path, cache="~").root == tmp_path / "results" / "trials"


# Machines that train


SHARE = Share(cpus=1, gpus=0.0, processes=1)


def assignment(store: TrialStore, key: str) -> Assignment:
    return Assignment(
        key=key,
        store=store,
        data=InPlace(store.root),
        share=SHARE,
        state_epochs=2,
        trial_seconds=None,
        silent_seconds=None,
        keep_weights=True,
    )


def train(store: TrialStore, one: Trial, *, publish: Callable[[dict[str, float]], None] = lambda metrics: None) -> None:
    fake.write_acts(store.root, {}, seconds=0)
    store.open(one)
    fake.work(assignment(store, one.key), publish)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fake trials replace is put back at the end."""
    from pipeline.running import trial as module

    for name in ("train", "_dataset"):
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.fixture
def undisturbed(tmp_path: Path, faked: None) -> TrialStore:
    """Four trials that nothing happened to, in a folder."""
    store = TrialStore(tmp_path / "undisturbed")
    for one in fake.trials(4):
        train(store, one)
    return store


def test_a_trial_goes_on_where_it_was_on_another_machine(bucket: str, tmp_path: Path, undisturbed: TrialStore) -> None:
    def killed(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 3:
            raise Killed

    (one, *_), seen = fake.trials(1), []
    with pytest.raises(Killed):
        train(machine(bucket, tmp_path / "a"), one, publish=killed)
    there = machine(bucket, tmp_path / "b")
    train(there, one, publish=lambda metrics: seen.append(metrics["epoch"]))
    assert seen == [3.0, 4.0]
    assert [attempt["from_epoch"] for attempt in there.attempts(one.key)] == [0, 2]
    assert fake.metrics(there, [one.key]) == fake.metrics(undisturbed, [one.key])
    assert set(there.files()[one.key]) == {
        *("spec.json", "metrics.jsonl", "attempts.jsonl", "per_query.npz", "result.json", "DONE"),
        "weights.safetensors",
    }
    assert machine(bucket, tmp_path / "c").files() == there.files()


WORKER = """
import os, sys
from pipeline.storage.remote import RemoteStore
from tests.chaos import fake
from tests.pipeline.storage import test_remote
url, cache, seeds, dies = sys.argv[1], sys.argv[2], [int(seed) for seed in sys.argv[3].split(",")], sys.argv[4]
store = RemoteStore(url, cache)
for number, one in enumerate(fake.trials(24)):
    if number in seeds:
        def publish(metrics):
            if dies == f"{number}@{metrics['epoch']:g}":
                os.kill(os.getpid(), 9)
        test_remote.train(store, one, publish=publish)
"""


@pytest.mark.slow
def test_two_machines_share_24_trials_and_one_of_them_dies(bucket: str, tmp_path: Path, faked: None) -> None:
    def start(cache: str, seeds: list[int], dies: str = "") -> "subprocess.Popen[bytes]":
        arguments = [bucket, str(tmp_path / cache), ",".join(map(str, seeds)), dies]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=ROOT, env=environment)

    with start("a", [*range(12)], dies="7@3") as dying, start("b", [*range(12, 24)]) as other:
        assert (dying.wait(), other.wait()) == (-signal.SIGKILL, 0)
    driver, local = machine(bucket, tmp_path / "driver"), TrialStore(tmp_path / "local")
    trials = fake.trials(24)
    driver.refresh()
    states = [driver.state(one.key) for one in trials]
    assert states == ["done"] * 7 + ["running"] + ["absent"] * 4 + ["done"] * 12
    with start("b", [*range(7, 12)]) as rest:
        assert rest.wait() == 0
    for one in trials:
        train(local, one)
    driver.refresh()
    keys = [one.key for one in trials]
    assert fake.metrics(driver, keys) == fake.metrics(local, keys)
    assert [len(driver.attempts(key)) for key in keys] == [1] * 7 + [2] + [1] * 16
    assert driver.attempts(keys[7])[-1]["from_epoch"] == 2


# A server that goes away


@pytest.fixture
def switch(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Switch]:
    """The way to the server, which can be cut."""
    import s3fs

    with switched(s3_server) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", found.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield found
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_an_outage_in_the_middle_of_a_trial_loses_nothing(
    bucket: str, tmp_path: Path, undisturbed: TrialStore, switch: Switch
) -> None:
    def cut(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 3:
            switch.off()

    (one, *_) = fake.trials(1)
    store = machine(bucket, tmp_path / "a")
    with pytest.raises(OSError, match=rf"{bucket}.*see whether the server answers|see whether.*{bucket}") as raised:
        train(store, one, publish=cut)
    assert failure(raised.value).cause is Cause.READ_WRITE
    with pytest.raises(OSError, match="see whether the server answers"):
        store.refresh()
    switch.on()
    train(store, one)
    other = machine(bucket, tmp_path / "b")
    other.refresh()
    assert fake.metrics(other, [one.key]) == fake.metrics(undisturbed, [one.key])
    assert [attempt["from_epoch"] for attempt in other.attempts(one.key)] == [0, 2]


@pytest.mark.slow
def test_a_short_outage_is_waited_for(bucket: str, tmp_path: Path, switch: Switch) -> None:
    (one, *_) = fake.trials(1)
    store = RemoteStore(bucket, str(tmp_path))
    store.open(one)
    switch.off()
    switch.on_in(8.0)
    store.append_epoch(one.key, {"epoch": 1.0})
    assert machine(bucket, tmp_path / "other").files()[one.key]["metrics.jsonl"].bytes > 0


def test_what_cannot_be_reached_says_what_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OSError, match=r"see the keys.*s3://nowhere/at-all") as raised:
        RemoteStore("s3://nowhere/at-all", str(tmp_path)).refresh()  # at once: without keys patience is of no use
    assert failure(raised.value).cause is Cause.READ_WRITE
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket_that_is_not_there_is_an_error_when_it_is_written(s3_server: str, tmp_path: Path) -> None:
    store = RemoteStore("s3://misspelt/trials", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        store.open(trial(1))


def test_the_keys_of_a_store_are_in_any_order(bucket: str, tmp_path: Path) -> None:
    store, seeds = machine(bucket, tmp_path), itertools.chain(range(3), range(2))
    for seed in seeds:
        store.open(trial(seed))
    assert store.keys() == sorted(trial(seed).key for seed in range(3))


# A sweep and the commands


SWEEP = """
import sys
from pathlib import Path
from pipeline import sweep
from pipeline.running import execute
from pipeline.storage import locks
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Resources
from pipeline.planning.plan import Plan
from pipeline.storage.remote import RemoteStore
from pipeline.storage.staging import InPlace
from pipeline.running.supervision import Interrupts
from tests.chaos import fake
from tests.chaos.sweep import resources
import dataclasses
url, folder = sys.argv[1], Path(sys.argv[2])
store, trials = RemoteStore(url, str(folder / "cache")), fake.trials(4)
act = {"do": "kill", "attempt": 1, "epoch": 3, "step": 2}
fake.write_acts(store.root, {trials[1].key: [act]}, seconds=0.01)
with Interrupts(sweep.UNFINISHED) as interrupts, locks.alone_at(folder, store):
    agenda = Agenda(Plan(experiments=(), trials={one.key: one for one in trials}, searches=()), store)
    with execute.session(cpus=2):
        usual = resources(folder)
        asked = dataclasses.replace(usual, terms=dataclasses.replace(usual.terms, store=store))
        execute.execute(agenda, asked, [], interrupts, fake.work)
    sys.exit(sweep._verdict(agenda))
"""


@pytest.mark.slow
def test_a_sweep_on_a_store_at_a_url(bucket: str, tmp_path: Path, undisturbed: TrialStore) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", SWEEP, bucket, str(tmp_path / "driver")]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "4 declared = 4 done + 0 failed + 0 unfinished"), (
        ran.stderr
    )
    keys, other = [one.key for one in fake.trials(4)], machine(bucket, tmp_path / "other")
    other.refresh()
    assert fake.metrics(other, keys) == fake.metrics(undisturbed, keys)
    assert [[attempt["outcome"] for attempt in other.attempts(key)] for key in keys] == [
        ["done"],
        ["again", "done"],
        ["done"],
        ["done"],
    ]
    assert not any("state.safetensors" in files for files in other.files().values())


@pytest.fixture
def checkout(bucket: str, tmp_path: Path) -> Path:
    text = (ROOT / "params.yaml").read_text().replace("store: results/trials", f"store: {bucket}")
    (tmp_path / "params.yaml").write_text(text.replace("cache: ~/.cache/reid", f"cache: {tmp_path / 'cache'}"))
    return tmp_path


def test_status_and_retry_look_at_the_url(
    checkout: Path, bucket: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    elsewhere = machine(bucket, tmp_path / "elsewhere")
    for seed in range(3):
        elsewhere.open(trial(seed))
    done(elsewhere, trial(0))
    elsewhere.fail(trial(1).key, "timeout: no epoch ended within 2 min")
    found = status.read(checkout)
    assert (found.store, found.declared, found.done, found.failed, found.waiting) == (bucket, 3, 1, 1, 1)
    assert found.owner == ""
    with locks.alone_at(tmp_path / "elsewhere", elsewhere):
        assert status.read(checkout).owner.startswith(f"process {os.getpid()} of ")
        assert retry.run(checkout, (), as_json=False) == retry.LOCKED
    assert retry.run(checkout, (), as_json=False) == 0
    assert "1 failure forgotten" in capsys.readouterr().out
    elsewhere.refresh()
    assert elsewhere.state(trial(1).key) == "running"
    assert status.read(checkout).failed == 0


def test_gc_deletes_at_the_url(checkout: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gone = trial(1), trial(2)
    plan = Plan(experiments=(), trials={kept.key: kept}, searches=())
    monkeypatch.setattr(outline, "declared", lambda root, params: plan)
    elsewhere = machine(bucket, tmp_path / "elsewhere")
    for one in (kept, gone):
        elsewhere.open(one)
        done(elsewhere, one)
        for path in (elsewhere.state_file(one.key), elsewhere.weights(one.key)):
            path.write_bytes(b"x" * 1000)
            elsewhere.upload(path)
    elsewhere.objects.put("notes/mine.txt", b"")
    assert gc.run(checkout, yes=True, older_than=0, undeclared=True, as_json=False) == 0
    assert set(elsewhere.files()) - {"sweep.lock"} == {"notes", kept.key}
    assert set(elsewhere.files()[kept.key]) == {"spec.json", "result.json", "DONE"}
    elsewhere.refresh()
    assert (elsewhere.keys(), elsewhere.state(kept.key)) == ([kept.key], "done")


def test_of_the_deletion_of_a_trial_a_kill_leaves_what_is_found_again(tmp_path: Path) -> None:
    one, url = trial(1), f"memory://{tmp_path.name}"
    work_of(machine(url, tmp_path / "a"), one)
    for moment in range(5):
        store = machine(url, tmp_path / "b")
        store.objects.dies_at = 1  # type: ignore[attr-defined]
        with pytest.raises(Killed):
            store.delete(one.key)
        found = machine(url, tmp_path / "c")
        found.refresh()
        assert found.state(one.key) == "running"
        assert "spec.json" in found.files()[one.key], moment


@dataclass
class _Clock:
    now: float = 0.0


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (119.0, "timeout: no epoch ended within 2 min, and its worker has ended"),
        (60.0, "worker lost: its process or its machine died"),
    ],
)
def test_a_worker_that_ended_at_its_limit_on_another_machine_had_run_out_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, reason: str
) -> None:
    one, clock, store = trial(1), _Clock(), machine(f"memory://{tmp_path.name}", tmp_path)
    monkeypatch.setattr("pipeline.running.desk.time.monotonic", lambda: clock.now)
    agenda = Agenda(Plan(experiments=(), trials={one.key: one}, searches=()), store)
    terms = Terms(store=store, data=InPlace(tmp_path), state_epochs=1, trial_seconds=None, silent_seconds=120.0)
    machines = Machines([Node(1, 0)], concurrent=1)
    resources = Resources(terms=terms, shares=Shares(SHARE, {}), machines=machines, max_failures=0)
    desk = Desk(agenda, resources, [], Interrupts(exit_code=3))
    assert desk.start() is one
    desk.reported(one.key, {"ready": True})
    clock.now = seconds
    desk.broke(one.key, "")
    assert store.failure(one.key)["reason"] == reason
