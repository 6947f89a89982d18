"""The desk hands out trials of several shares: as many as fit, none that would keep an earlier one waiting. No Ray."""

from pathlib import Path

import pytest

from pipeline.planning.experiments import Experiment, Row
from pipeline.planning.plan import Plan, PlannedRow, Trial
from pipeline.planning.shares import Machines, Node, Share, Shares
from pipeline.planning.strict import ParamsError
from pipeline.running.agenda import Agenda
from pipeline.running.desk import Desk, Resources
from pipeline.running.supervision import Interrupts
from pipeline.running.trial import Terms
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from tests.pipeline import fake_store

ONE = Share(cpus=1, gpus=0.0, processes=1)
HALF, WHOLE = Share(cpus=1, gpus=0.5, processes=1), Share(cpus=1, gpus=1.0, processes=1)


def desk(folder: Path, counts: dict[str, int], own: dict[str, Share], nodes: list[Node], **limit: int) -> Desk:
    """Tables of so many trials each, in this order, and what the trials of some of them get.

    `limit`: to so many `concurrent` trials; of `trial_seconds` and `silent_seconds`.
    """
    tables: dict[str, tuple[Trial, ...]] = {}
    for name, count in counts.items():
        first = sum(map(len, tables.values()))
        tables[name] = tuple(fake_store.trial(seed) for seed in range(first, first + count))
    planned = []
    for name, trials in tables.items():
        row = Row(label=name, method="bdb")
        shown = (PlannedRow(row=row, trials={"synthetic": trials}),)
        planned.append((Experiment(name=name, title=name, metrics=("mAP",), rows=(row,)), shown))
    every = {trial.key: trial for trials in tables.values() for trial in trials}
    agenda = Agenda(Plan(experiments=tuple(planned), trials=every, searches=()), TrialStore(folder))
    resources = Resources(
        terms=Terms(
            store=TrialStore(folder),
            data=InPlace(folder),
            state_epochs=1,
            trial_seconds=limit.get("trial_seconds"),
            silent_seconds=limit.get("silent_seconds"),
        ),
        shares=Shares(ONE, own),
        machines=Machines(nodes, limit.get("concurrent")),
        max_failures=0,
    )
    return Desk(agenda, resources, [], Interrupts(exit_code=3))


def started(desk: Desk) -> list[Trial]:
    return list(iter(desk.start, None))


def shares(desk: Desk, trials: list[Trial]) -> list[Share]:
    return [desk.assignment(trial).share for trial in trials]


def end(desk: Desk, trial: Trial) -> None:
    desk.has_worker(trial.key)
    fake_store.done(desk.agenda.store, trial)
    desk.completed(trial.key)


def test_as_many_start_as_fit(tmp_path: Path) -> None:
    some = desk(tmp_path, {"halves": 5}, {"halves": HALF}, [Node(4, 1)])
    first = started(some)
    assert len(first) == 2  # on one GPU, and two cores stay free
    end(some, first[0])
    assert len(started(some)) == 1
    assert some.assignment(first[1]).share == HALF


def test_for_what_waits_room_is_kept_and_the_rest_is_used(tmp_path: Path) -> None:
    some = desk(tmp_path, {"halves": 3, "cores": 4, "whole": 1}, {"whole": WHOLE, "halves": HALF}, [Node(4, 1)])
    first = started(some)
    assert shares(some, first) == [WHOLE, ONE, ONE]  # of three cores that are left, one is kept for half a GPU
    end(some, first[1])
    assert shares(some, started(some)) == [ONE]
    end(some, first[0])
    assert shares(some, started(some)) == [HALF, HALF]


def test_trials_of_one_share_follow_each_other(tmp_path: Path) -> None:
    wide = Share(cpus=2, gpus=0.0, processes=1)
    some = desk(tmp_path, {"a": 1, "b": 1, "c": 1, "d": 1}, {"b": wide, "d": wide}, [Node(2, 0)])
    seen = []
    while running := started(some):
        seen.append(shares(some, running))
        for trial in running:
            end(some, trial)
    assert seen == [[wide], [wide], [ONE, ONE]]


def test_no_more_run_than_was_asked_for(tmp_path: Path) -> None:
    some = desk(tmp_path, {"cores": 5}, {}, [Node(8, 0)], concurrent=3)
    assert len(started(some)) == 3


def test_a_trial_that_waits_for_nothing_is_refused_before_the_start(tmp_path: Path) -> None:
    counts = {"cores": 1, "whole": 2, "pairs": 1}
    own = {"whole": WHOLE, "pairs": Share(cpus=2, gpus=0.0, processes=2)}
    some = desk(tmp_path, counts, own, [Node(3, 0), Node(1, 0)])
    with pytest.raises(ParamsError) as caught:
        some.check_room()
    names = [trial.name for trial in some.agenda.declared.values()]
    have = "(resources in params.yaml): there is 3 cores and 0 GPUs, 1 core and 0 GPUs"
    assert caught.value.problems == (
        f"no machine has room for {names[3]}, which asks for cpus: 2, gpus: 0, processes: 2 {have}",
        f"no machine has room for {names[1]}, which asks for cpus: 1, gpus: 1 {have}",
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("cores", [1, 2, 3, 7])
def test_everything_is_run_whatever_the_shares(cores: int, tmp_path: Path) -> None:
    """Oracle: at every moment the sum of what runs fits the machine; and it comes to an end."""
    counts = {"a": 6, "b": 4, "c": 5, "d": 3}
    own = {"b": HALF, "c": WHOLE, "d": Share(cpus=min(cores, 2), gpus=0.3, processes=1)}
    some = desk(tmp_path, counts, own, [Node(cores, 2)])
    running: list[Trial] = []
    for step in range(100):
        running += started(some)
        if not running:
            break
        have = shares(some, running)
        assert sum(share.cpus for share in have) <= cores
        assert sum(share.gpus for share in have) <= 2
        end(some, running.pop(step % len(running)))
    assert some.agenda.complete()


@pytest.mark.parametrize("kind", ["trial_seconds", "silent_seconds"])
def test_a_limit_counts_from_where_a_worker_begins(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before that it imports, which takes minutes where a disk is slow; then it has a moment to end itself."""
    now = 1000.0
    monkeypatch.setattr("pipeline.running.desk.time.monotonic", lambda: now)
    some = desk(tmp_path, {"cores": 2}, {}, [Node(2, 0)], **{kind: 60})
    slow, hung = (trial.key for trial in started(some))
    some.has_worker(slow)
    some.has_worker(hung)
    now += 60 + 100
    assert not some.overdue(slow)
    some.reported(slow, {"ready": True})
    now += 60 + 4
    assert not some.overdue(slow)
    assert some.overdue(hung)  # it has never begun
    now += 2
    assert some.overdue(slow)
