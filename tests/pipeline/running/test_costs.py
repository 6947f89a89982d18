"""What `plan` says of hours and disk, against stores made by hand; and when a sweep asks first."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch

from pipeline import sweep
from pipeline.commands import status
from pipeline.planning import experiments
from pipeline.planning.params import load
from pipeline.planning.plan import Plan, Trial, expand, scored
from pipeline.planning.shares import Machines, Node, Share, Shares
from pipeline.planning.words import counted, duration, size
from pipeline.running import costs, machine, outline
from pipeline.running.agenda import Agenda
from pipeline.running.costs import Estimate, estimate
from pipeline.running.declaration import NOTE, read_note
from pipeline.storage import census, locks
from pipeline.storage.store import TrialStore
from reid.checkpoint import save
from reid.train import build_method
from tests.pipeline.fake_store import done

ROOT = Path(__file__).parents[3]
NUM_IDS = {"synthetic": 100}


def plan(*names: str) -> Plan:
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0, 1), "datasets": ("synthetic",)})
    return expand(params, experiments.load(names), {"synthetic": {"val": "v", "test": "t"}})


@pytest.fixture(scope="module")
def table() -> Plan:
    return plan("bdb_table2")


@pytest.fixture(scope="module")
def searching() -> Plan:
    return plan("bdb_block_height")


def cost(some: Plan, root: Path, *, gpus: float = 0.0, concurrent: int = 2, **own: Share) -> Estimate:
    """With two cores a trial, and other shares for some experiments."""
    shares = Shares(Share(cpus=2, gpus=gpus, processes=1), own)
    machines = Machines([Node(8, 2)], concurrent)
    return estimate(Agenda(some, TrialStore(root)), shares=shares, machines=machines, num_ids=NUM_IDS)


def finish(store: TrialStore, trial: Trial, seconds: float) -> None:
    store.open(trial)
    done(store, trial, seconds=seconds, epochs=40)


def test_the_pace_is_the_median_of_what_was_measured(table: Plan, tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    trials = [trial for trial in table.trials.values() if trial.config.method == "bdb"]
    for trial, seconds in zip(trials, (40.0, 400.0, 80.0), strict=False):
        finish(store, trial, seconds)
    found = cost(table, tmp_path)
    left = [trial for trial in table.trials.values() if store.state(trial.key) != "done"]
    bdb = sum(trial.epochs for trial in left if trial.config.method == "bdb")
    others = [trial for trial in left if trial.config.method != "bdb"]
    assert found.hours == pytest.approx(bdb * 2.0 / 3600)  # of 1, 2 and 10 s an epoch
    assert found.unmeasured == {
        census.kind(trial.spec, gpus=0): sum(one.epochs for one in others if one.config.method == trial.config.method)
        for trial in others
    }
    pixels = 100 * 4 * 128 * 64 / (751 * 17 * 384 * 128)  # of an epoch here, to one of Market-1501
    guessed = sum(trial.epochs for trial in others) * 60 * pixels
    assert found.ask_hours == pytest.approx((bdb * 2.0 + guessed) / 3600)
    assert found.cpu_hours == pytest.approx(2 * found.ask_hours)
    assert found.gpu_hours == found.search_hours == 0.0


def test_what_was_measured_on_a_cpu_says_nothing_of_a_gpu(table: Plan, tmp_path: Path) -> None:
    for trial in table.trials.values():
        finish(TrialStore(tmp_path), trial, 40.0)
    one = next(iter(table.trials.values()))
    assert census.paces(TrialStore(tmp_path))[census.kind(one.spec, gpus=0)] == 1.0
    assert census.kind(one.spec, gpus=0.25) not in census.paces(TrialStore(tmp_path))
    assert census.kind(one.spec, gpus=0) == f"{one.config.method} on synthetic, 128x64, resnet10_w16, CPU"
    assert cost(table, tmp_path).ask_hours == 0.0  # all is done


def test_a_search_counts_at_its_most(searching: Plan, tmp_path: Path) -> None:
    (item,) = searching.searches
    agenda = Agenda(searching, TrialStore(tmp_path))
    finals, declared = item.search.top * len(item.seeds), len(agenda.declared)
    assert agenda.to_come() > 1
    assert sum(cost(searching, tmp_path).unmeasured.values()) == 40 * (declared + agenda.to_come() + finals)
    share = 2 * 40 * costs.guess(item.base, 100) / 3600  # of two cores, for 40 epochs
    for hours, trials in ((0.9, 1), (1.1, 2)):
        rules = item.search.model_copy(update={"gpu_hours": hours * share})
        short = replace(searching, searches=(replace(item, search=rules),))
        assert sum(cost(short, tmp_path).unmeasured.values()) == 40 * (declared + trials + finals)


def test_a_network_is_as_large_as_its_file(table: Plan, tmp_path: Path) -> None:
    """Oracle: the file itself."""
    config = next(iter(table.trials.values())).config
    before = torch.get_rng_state()
    said = costs.network_bytes(config, 100)
    assert torch.equal(torch.get_rng_state(), before)
    method = build_method(replace(config, recipe=replace(config.recipe, weights=None)), num_ids=100)
    save(tmp_path / "weights.safetensors", dict(method.state_dict()), {})
    file = (tmp_path / "weights.safetensors").stat().st_size
    assert said <= file <= said * 1.1 + 20_000


def test_networks_are_kept_for_those_that_wait_and_of_each_table_s_best(table: Plan, tmp_path: Path) -> None:
    first = next(iter(table.trials.values()))
    digests = {"val": "v", "test": "t"}
    again = scored(first, replace(first.config.recipe.protocol, rerank=True), "synthetic", digests)
    network = costs.network_bytes(first.config, 100)
    of_table = max(costs.network_bytes(trial.config, 100) for trial in table.trials.values())
    assert cost(replace(table, experiments=()), tmp_path).weights_bytes == 0
    assert cost(table, tmp_path).weights_bytes == of_table
    found = cost(replace(table, trials={**table.trials, again.key: again}), tmp_path)
    assert found.weights_bytes == of_table + network
    assert found.unmeasured[f"{census.kind(first.spec, gpus=0)}, scored on synthetic"] == 1
    alone = replace(table, trials={first.key: first})
    assert cost(alone, tmp_path).states_bytes == 3 * network  # Adam's two moments
    assert cost(table, tmp_path).states_bytes == 2 * cost(table, tmp_path, concurrent=1).states_bytes


def test_an_epoch_that_was_never_measured_is_guessed_by_its_pixels(table: Plan) -> None:
    config = next(iter(table.trials.values())).config
    large = replace(config.recipe, image_size=(384, 128), sampler=replace(config.recipe.sampler, epoch="images_once"))
    assert costs.guess(replace(config, recipe=large), 751) == pytest.approx(60)
    assert costs.guess(config, 100) < 1


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_is_longer_says_its_numbers(table: Plan, tmp_path: Path) -> None:
    found = cost(table, tmp_path, gpus=0.5)
    assert costs.refusal(found, found.ask_hours) == ""
    said = costs.refusal(found, found.ask_hours * 0.99)
    assert len(said.splitlines()) == 1
    for part in (duration(found.ask_hours * 3600), f"{found.gpu_hours:.1f} GPU-hours", "--yes", "REID_YES=1"):
        assert part in said


@pytest.fixture
def checkout(tmp_path: Path, table: Plan, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parameters and a plan without data."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(outline, "declared", lambda root, params: table)
    info = type("Info", (), {"counts": {"train": {"identities": 100}}})
    monkeypatch.setattr("pipeline.running.outline.PackInfo.load", lambda folder: info)
    return tmp_path


def limit(root: Path, hours: float) -> None:
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("ask_above_hours: 24", f"ask_above_hours: {hours}"))


def outlook(root: Path) -> outline.Outlook:
    params = load(root / "params.yaml")
    return outline.look(root, params, TrialStore(root / params.sweep.store), None)


def test_a_refused_sweep_starts_nothing(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit(checkout, 0.01)
    assert sweep.run(checkout, yes=False) == sweep.REFUSED
    assert "sweep.ask_above_hours is 0.01" in capsys.readouterr().err
    assert read_note(checkout) is None
    assert not status.read(checkout).owner
    assert status.read(checkout).declared == 0


def test_a_sweep_leaves_a_note_for_status(checkout: Path, table: Plan) -> None:
    outline.note(checkout, outlook(checkout))
    note = read_note(checkout)
    assert note is not None
    assert {key: entry["name"] for key, entry in note.trials.items()} == {
        trial.key: trial.name for trial in table.trials.values()
    }
    assert status.read(checkout).waiting == len(table.trials)
    assert not status.read(checkout).stale


def test_beside_a_running_sweep_none_looks_and_its_note_stays(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline.note(checkout, outlook(checkout))
    before = os.stat(checkout / NOTE).st_mtime_ns
    monkeypatch.setattr(outline, "look", None)
    with filelock.FileLock(checkout / locks.LOCK):
        assert sweep.run(checkout, yes=True) == sweep.LOCKED
    assert os.stat(checkout / NOTE).st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_told_to_stop_while_it_looks_is_unfinished(
    number: signal.Signals, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(outline, "look", look)
    assert sweep.run(checkout, yes=False) == sweep.UNFINISHED
    assert "the same command goes on from here" in capsys.readouterr().err
    assert not status.read(checkout).owner


def test_plan_for_people_and_for_machines(
    checkout: Path, table: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "node", lambda: Node(2, 0))
    store = TrialStore(checkout / "results" / "trials")
    trial = next(one for one in table.trials.values() if one.config.method == "bdb")
    finish(store, trial, 40.0)
    outline.run(checkout, as_json=True)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["declared"], summary["done"]) == (len(table.trials), 1)
    assert summary["to_run"] == len(table.trials) - 1
    assert summary["cost"]["hours"] > 0
    outline.run(checkout, as_json=False)
    said = capsys.readouterr().out
    assert f"{len(table.trials)} trials for" in said
    assert "with up to 2 at a time" in said
    for kind, number in summary["cost"]["unmeasured"].items():
        assert f"time unknown, never measured here: {number:,} x {kind}" in said
    assert "disk: " in said


def test_trials_of_several_shares_are_summed_by_what_each_gets(searching: Plan, table: Plan, tmp_path: Path) -> None:
    """Oracle: the estimates of the two alone."""
    (experiment,) = (found.name for found, _ in table.experiments)
    both = replace(table, searches=searching.searches)
    own = {experiment: Share(cpus=1, gpus=1, processes=2)}
    first, second = cost(table, tmp_path, **own), cost(replace(searching, trials={}), tmp_path)
    found = cost(both, tmp_path, **own)
    assert (first.cpu_hours, first.gpu_hours) == pytest.approx((2 * first.ask_hours, 2 * first.ask_hours))
    assert (second.cpu_hours, second.gpu_hours) == pytest.approx((2 * second.ask_hours, 0))
    assert found.cpu_hours == pytest.approx(first.cpu_hours + second.cpu_hours)
    assert found.gpu_hours == pytest.approx(first.gpu_hours)
    assert (first.concurrent, second.concurrent, found.concurrent) == (1, 2, 2)
    assert {kind.rpartition(", ")[2] for kind in found.unmeasured} == {"2 GPUs", "CPU"}


def test_the_wall_time_counts_those_that_run_side_by_side(table: Plan, tmp_path: Path) -> None:
    for trial in list(table.trials.values())[::2]:
        finish(TrialStore(tmp_path), trial, 40.0)
    for concurrent in (1, 2, 4):
        found = cost(table, tmp_path, concurrent=concurrent)
        assert found.hours > 0
        assert found.wall_hours == pytest.approx(found.hours / concurrent)


def test_what_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert machine.node() == Node(8, 2)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (duration(44.6), "45 s"),
        (duration(185), "3 min 05 s"),
        (duration(7800), "2 h 10 min"),
        (duration(3_600_000), "1,000 h"),
        (size(12_000), "12 kB"),
        (size(3_400_000), "3.4 MB"),
        (size(1.25e9), "1.2 GB"),
        (counted(1, "trial"), "1 trial"),
        (counted(2000, "trial"), "2,000 trials"),
    ],
)
def test_words(said: str, expected: str) -> None:
    assert said == expected
