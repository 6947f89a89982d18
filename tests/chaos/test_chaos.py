"""What befalls a sweep: killed drivers and workers, hung trials, full disks, signals. The path through Tune is real.

`REID_CHAOS=full` kills the driver at twenty points instead of one, and two trials three times each; some ten minutes.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.planning.plan import Plan, Trial
from pipeline.running.agenda import Agenda
from pipeline.running.supervision import Interrupts
from pipeline.storage.store import TrialStore
from tests.chaos import fake
from tests.chaos.sweep import resources
from tests.conftest import FULL, takes_minutes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
KILLS = 20 if FULL else 1
COUNT = 24 if FULL else 12

Act = dict[str, Any]


def act(do: str, *, attempt: int = 1, epoch: int = 2, step: int = 2) -> Act:
    return {"do": do, "attempt": attempt, "epoch": epoch, "step": step}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrialStore:
    """All trials as they come out when nothing happens; no Ray is needed for that."""
    store = TrialStore(tmp_path_factory.mktemp("undisturbed"))
    run_here(fake.trials(COUNT), store)
    return store


def run_here(trials: list[Trial], store: TrialStore) -> None:
    """Run trials in a process of its own, one by one."""
    fake.write_acts(store.root, {}, seconds=0)
    code = (
        "import sys; from pathlib import Path; from pipeline.storage.store import TrialStore\n"
        "from tests.chaos import fake\n"
        "from tests.chaos.sweep import assignment\n"
        "store = TrialStore(Path(sys.argv[1]))\n"
        "for trial in fake.trials(int(sys.argv[2])):\n"
        "    store.open(trial); fake.work(assignment(store.root, trial.key), lambda metrics: None)\n"
    )
    subprocess.run([sys.executable, "-c", code, store.root, str(len(trials))], check=True, env=environment(), cwd=ROOT)


def environment() -> dict[str, str]:
    """A mark that every descendant inherits, so that none goes unnoticed."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "CHAOS": str(os.getpid())}


@contextlib.contextmanager
def driver(store: TrialStore, count: int = COUNT) -> Iterator["subprocess.Popen[str]"]:
    """A sweep as a process of its own; what it says goes to `said.txt` in the store."""
    command = [sys.executable, str(ROOT / "tests/chaos/sweep.py"), str(store.root), str(count)]
    with (store.root / "said.txt").open("a") as said:
        process = subprocess.Popen(command, env=environment(), stdout=said, stderr=said, text=True, cwd=ROOT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def descendants() -> list[int]:
    """The processes of drivers of ours, whoever their parent is by now."""
    mark, found = f"CHAOS={os.getpid()}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def wait_for(condition: Callable[[], bool], *, seconds: float = 300) -> float:
    """How long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - started


def done(store: TrialStore) -> dict[str, int]:
    """When each trial that is done was finished: one that is run again changes its own."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.root.glob("*/DONE")}


# --- the driver ------------------------------------------------------------------------------------------------------


def test_a_sweep_whose_driver_is_killed_over_and_over_loses_nothing(tmp_path: Path, undisturbed: TrialStore) -> None:
    store, generator = TrialStore(tmp_path), np.random.default_rng(0)
    fake.write_acts(store.root, {}, seconds=0.01)
    for _ in range(KILLS):
        before = done(store)
        with driver(store) as process:
            further = min(len(before) + int(generator.integers(1, 4)), COUNT - 1)
            wait_for(lambda: len(done(store)) >= further or process.poll() is not None)  # noqa: B023 - at once
            time.sleep(generator.uniform(0, 0.4))
            process.kill()
            process.wait()
        wait_for(lambda: not descendants(), seconds=60)
        assert {key: when for key, when in done(store).items() if key in before} == before
        if len(before) >= COUNT - 1:
            break
    before = done(store)
    assert 0 < len(before) < COUNT
    with driver(store) as process:
        assert process.wait(timeout=240) == 0
    assert {key: when for key, when in done(store).items() if key in before} == before
    keys = [trial.key for trial in fake.trials(COUNT)]
    assert fake.metrics(store, keys) == fake.metrics(undisturbed, keys)
    wait_for(lambda: not descendants(), seconds=60)


@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("Ctrl-C twice", marks=takes_minutes)])
def test_a_sweep_that_is_told_to_stop_does_so_within_20_seconds(tmp_path: Path, how: str) -> None:
    store = TrialStore(tmp_path)
    fake.write_acts(store.root, {trial.key: [act("hold", attempt=0)] for trial in fake.trials(3)})
    with driver(store, 3) as process:
        wait_for(lambda: len(list(store.root.glob("*/last_words.txt"))) == 2)
        if how == "SIGTERM":
            process.terminate()
        else:
            process.send_signal(signal.SIGINT)
            wait_for(lambda: "let finish" in (store.root / "said.txt").read_text(), seconds=5)
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 3
    said = (store.root / "said.txt").read_text()
    assert "stopping now; trials that run go on from their last checkpoint next time" in said
    assert said.count("preempted  bdb-") == 2
    assert "3 declared = 0 done + 0 failed + 3 unfinished" in said
    assert "failed:" not in said
    assert sorted(map(store.state, store.keys())) == ["running", "running"]
    assert [attempts[-1]["outcome"] for attempts in map(store.attempts, store.keys())] == ["preempted"] * 2
    wait_for(lambda: not descendants(), seconds=60)


@takes_minutes  # tests/test_end_to_end.py does it to a whole sweep
def test_after_one_ctrl_c_the_running_trials_finish_and_no_other_starts(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    fake.write_acts(store.root, {}, seconds=0.2)
    with driver(store, 6) as process:
        wait_for(lambda: len(list(store.root.glob("*/metrics.jsonl"))) == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 3
    said = (store.root / "said.txt").read_text()
    assert "no further trial starts, and those that run are let finish. Ctrl-C again stops them now" in said
    assert "6 declared = 2 done + 0 failed + 4 unfinished" in said
    assert list(map(store.state, store.keys())) == ["done", "done"]


# --- the workers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(ray_session: None, tmp_path: Path) -> Callable[..., tuple[Agenda, TrialStore]]:
    """Run fake trials in this process's session, with what is to befall them."""
    from ray import cloudpickle

    from pipeline.running import execute

    cloudpickle.register_pickle_by_value(fake)  # a worker cannot import it
    store = TrialStore(tmp_path / "trials")

    def run(
        trials: list[Trial], acts: dict[str, list[Act]], *, silent_seconds: float = 30.0, max_failures: int = 2
    ) -> tuple[Agenda, TrialStore]:
        fake.write_acts(store.root, acts)
        agenda = Agenda(Plan(experiments=(), trials={one.key: one for one in trials}, searches=()), store)
        usual = resources(store.root)
        terms = replace(usual.terms, silent_seconds=silent_seconds)
        with Interrupts(exit_code=3) as interrupts:
            asked = replace(usual, terms=terms, max_failures=max_failures)
            execute.execute(agenda, asked, [], interrupts, fake.work)
        return agenda, store

    return run


def outcomes(store: TrialStore, trial: Trial) -> list[str]:
    return [attempt["outcome"] for attempt in store.attempts(trial.key)]


def kills(generator: np.random.Generator) -> list[Act]:
    """Of a worker's first three attempts, each at a moment of its own."""
    epochs, steps = sorted(generator.integers(1, fake.EPOCHS + 1, 3)), generator.integers(0, fake.STEPS + 1, 3)
    places = zip((1, 2, 3), epochs, steps, strict=True)
    return [act("kill", attempt=attempt, epoch=int(epoch), step=int(step)) for attempt, epoch, step in places]


def test_what_comes_from_outside_is_tried_again_and_what_a_trial_does_itself_is_not(
    sweep: Callable[..., tuple[Agenda, TrialStore]], undisturbed: TrialStore
) -> None:
    """A worker that is killed loses the epoch it was in, and no other, each time."""
    trials, generator = fake.trials(8), np.random.default_rng(1)
    acts = [
        kills(generator),
        [act("terminate")],
        [act("run out of memory")],
        [act("run out of memory", attempt=0)],
        [act("lose the network", attempt=attempt) for attempt in (1, 2, 3, 4)],
        [act("raise")],
        [act("diverge")],
        kills(generator) if FULL else [],
    ]
    agenda, store = sweep(trials, dict(zip([trial.key for trial in trials], acts, strict=True)), max_failures=3)
    assert agenda.complete()
    assert [outcomes(store, trial) for trial in trials] == [
        ["again", "again", "again", "done"],
        ["again", "done"],
        ["again", "done"],
        ["again", "failed"],
        ["again", "again", "again", "failed"],
        ["failed"],
        ["failed"],
        [*(["again"] * len(acts[7])), "done"],
    ]
    reasons = {number: store.failure(trials[number].key)["reason"] for number in (3, 4, 5, 6)}
    assert reasons == {
        3: "out of memory: a tensor too many",
        4: "file or network error: the file server went away",
        5: "ZeroDivisionError: a mistake",
        6: "diverged: the loss is nan in epoch 2",
    }
    first = [store.attempts(trial.key)[0] for trial in trials]
    assert first[0]["reason"].startswith("worker lost")
    assert first[1]["reason"].startswith("preempted")
    assert "fake.py" in store.failure(trials[5].key)["detail"]
    assert all(store.attempts(trial.key)[1]["from_epoch"] == 1 for trial in trials[1:5])
    for number in (0, 7):
        starts = [attempt["from_epoch"] for attempt in store.attempts(trials[number].key)]
        assert starts == [0, *(one["epoch"] - 1 for one in acts[number])]
    keys = [trials[number].key for number in (0, 1, 2, 7)]
    assert fake.metrics(store, keys) == fake.metrics(undisturbed, keys)


def test_trials_that_hang_are_ended_within_10_seconds_of_their_limit(
    sweep: Callable[..., tuple[Agenda, TrialStore]],
) -> None:
    sleeper, holder, frozen, *others = fake.trials(6)
    acts = {
        sleeper.key: [act("hang", attempt=0)],
        holder.key: [act("hold", attempt=0)],
        frozen.key: [act("freeze", attempt=0)],
    }
    agenda, store = sweep([sleeper, holder, frozen, *others], acts, silent_seconds=9.0, max_failures=0)
    assert agenda.failed == {sleeper.key, holder.key, frozen.key}
    for trial in others:
        assert outcomes(store, trial) == ["done"]
    for trial in (sleeper, holder, frozen):
        (attempt,) = store.attempts(trial.key)
        assert attempt["reason"].startswith("timeout: ")
        took = datetime.fromisoformat(attempt["ended"]) - datetime.fromisoformat(attempt["started"])
        assert took.total_seconds() <= 9 + 10 + 1  # both are whole seconds
    for trial in (sleeper, holder):
        assert store.failure(trial.key)["reason"] == "timeout: no epoch ended within 0.15 min"
        assert re.search(r"fake\.py", store.failure(trial.key)["detail"])  # where it hung


@pytest.mark.parametrize(
    ("epoch", "step"),
    [
        pytest.param(2, 2, id="epoch", marks=takes_minutes),
        pytest.param(2, 5, id="checkpoint"),
        pytest.param(0, 0, id="result"),
    ],
)
def test_a_full_disk_stops_the_sweep_and_not_its_record(
    sweep: Callable[..., tuple[Agenda, TrialStore]], undisturbed: TrialStore, epoch: int, step: int
) -> None:
    from pipeline.running.execute import HaltedError

    (trial,) = fake.trials(1)
    with pytest.raises(HaltedError, match=r"^disk full: .*(File too large|No space)"):
        sweep([trial], {trial.key: [act("fill disk", epoch=epoch, step=step)]})
    agenda, store = sweep([trial], {})
    assert agenda.complete()
    first, second = store.attempts(trial.key)
    assert (first["outcome"], second["outcome"]) == ("preempted", "done")
    assert second["from_epoch"] == (4 if epoch == 0 else 1)
    assert not list(store.folder(trial.key).glob("*.tmp"))
    assert fake.metrics(store, [trial.key]) == fake.metrics(undisturbed, [trial.key])


# --- a machine -------------------------------------------------------------------------------------------------------


def test_a_machine_that_dies_takes_no_trial_with_it(tmp_path: Path, undisturbed: TrialStore) -> None:
    store = TrialStore(tmp_path)
    fake.write_acts(store.root, {}, seconds=0.1)
    command = [sys.executable, str(ROOT / "tests/chaos/cluster.py"), str(store.root), "6"]
    subprocess.run(command, check=True, env=environment(), cwd=ROOT, timeout=300, capture_output=True)
    keys = [trial.key for trial in fake.trials(6)]
    assert fake.metrics(store, keys) == fake.metrics(undisturbed, keys)
    ends = [attempt["outcome"] for key in keys for attempt in store.attempts(key)]
    assert ends.count("done") == 6
    assert set(ends) == {"again", "done"}
    wait_for(lambda: not descendants(), seconds=90)


# --- the store -------------------------------------------------------------------------------------------------------


def test_six_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from pipeline.storage.store import TrialStore\n"
        "store = TrialStore(Path(sys.argv[1]))\n"
        "for number in range(30):\n"
        "    trial = SimpleNamespace(key=f'{number:020x}', spec={'number': number})\n"
        "    store.open(trial); store.attempt(trial.key, {'event': 'started'})\n"
        "print(len(store.keys()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new" / "trials")]
    processes = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(6)
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["30\n"] * 6
    store = TrialStore(tmp_path / "new" / "trials")
    assert [store.spec(key) for key in store.keys()] == [{"number": number} for number in range(30)]  # noqa: SIM118
    assert list(map(len, map(store.attempts, store.keys()))) == [6] * 30
