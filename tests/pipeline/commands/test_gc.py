"""`gc`: what nothing needs goes when told to, what the parameters declare never does. Nothing is trained."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from pipeline.commands import gc
from pipeline.planning import experiments, keys
from pipeline.planning.params import load
from pipeline.planning.plan import Plan, Trial, expand, make_trial, scored
from pipeline.running import outline
from pipeline.storage.store import TrialStore
from tests.pipeline.fake_store import done

ROOT = Path(__file__).parents[3]
DIGESTS = {"val": "v", "test": "t"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A table of one seed, whose first trial is scored by a second protocol, too."""
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0,), "datasets": ("synthetic",)})
    found = expand(params, experiments.load(("bdb_table2",)), {"synthetic": DIGESTS})
    first = next(iter(found.trials.values()))
    again = scored(first, replace(first.config.recipe.protocol, rerank=True), "synthetic", DIGESTS)
    return replace(found, trials={**found.trials, again.key: again})


@pytest.fixture
def checkout(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(outline, "declared", lambda root, params: plan)
    monkeypatch.setattr(
        "pipeline.commands.gc.ReidData.load",
        lambda folder: type("Data", (), {"digest_for": lambda self, split: DIGESTS[split]})(),
    )
    return tmp_path


def store_of(root: Path) -> TrialStore:
    return TrialStore(root / "results" / "trials")


def finish(store: TrialStore, trial: Trial) -> None:
    store.open(trial)
    done(store, trial)


def leave(store: TrialStore, trial: Trial, *names: str) -> None:
    for name in names:
        (store.folder(trial.key) / name).write_bytes(b"x" * 1000)


def other(plan: Plan, **changes: Any) -> Trial:
    """A trial like the first one, of another specification."""
    first = next(iter(plan.trials.values()))
    spec = first.spec | changes
    return replace(first, key=keys.trial_key(spec), spec=spec)


def whys(root: Path) -> dict[str, str]:
    store = store_of(root)
    return {item.path: item.why for item in gc.find(root, store)}


def run(root: Path, **changes: Any) -> int:
    return gc.run(root, **{"yes": False, "older_than": 0.0, "undeclared": False, "as_json": False, **changes})


def tree(root: Path) -> set[str]:
    skipped = ("sweep.lock", "sweep.owner")
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.name not in skipped}


def test_trials_of_other_code_or_data_go_and_those_of_other_parameters_stay(checkout: Path, plan: Plan) -> None:
    store = store_of(checkout)
    first = next(iter(plan.trials.values()))
    code, data = other(plan, code_digest="old"), other(plan, data_digest="old")
    gone_method = other(plan, config={**first.spec["config"], "method": "nobodys"})
    seed = make_trial(replace(first.config, seed=99), "synthetic", DIGESTS)
    for trial in (first, code, data, gone_method, seed):
        finish(store, trial)
    assert whys(checkout) == {
        code.key: gc.CODE,
        data.key: gc.DATA,
        gone_method.key: gc.CODE,
        seed.key: gc.UNDECLARED,
    }
    assert run(checkout, yes=True) == 0
    assert store.keys() == sorted([first.key, seed.key])
    assert store.state(first.key) == store.state(seed.key) == "done"
    assert run(checkout, yes=True, undeclared=True) == 0
    assert store.keys() == [first.key]


def test_a_scoring_of_other_data_goes(checkout: Path, plan: Plan) -> None:
    trial = other(plan, scored_on={"dataset": "synthetic", "data_digest": "old"}, source="a" * 20)
    finish(store_of(checkout), trial)
    assert whys(checkout) == {trial.key: gc.DATA}


def test_of_finished_trials_states_go_and_networks_that_nothing_waits_for(checkout: Path, plan: Plan) -> None:
    store = store_of(checkout)
    source, plain, running, *_ = [trial for trial in plan.trials.values() if trial.source is None]
    scoring = next(trial for trial in plan.trials.values() if trial.source)
    for trial in (source, plain):
        finish(store, trial)
        leave(store, trial, "state.safetensors", "weights.safetensors")
    store.open(running)
    leave(store, running, "state.safetensors", ".spec.json.0a.tmp", "state.damaged.safetensors")
    assert whys(checkout) == {
        f"{plain.key}/state.safetensors": gc.STATES,
        f"{plain.key}/weights.safetensors": gc.NETWORKS,
        f"{running.key}/.spec.json.0a.tmp": gc.SCRATCH,
        f"{running.key}/state.damaged.safetensors": gc.ASIDE,
    }
    assert scoring.source == source
    store.open(scoring)
    store.fail(scoring.key, reason="timeout: y")  # the next sweep tries it
    assert f"{source.key}/weights.safetensors" not in whys(checkout)
    finish(store, scoring)
    assert whys(checkout)[f"{source.key}/weights.safetensors"] == gc.NETWORKS
    assert run(checkout, yes=True) == 0
    assert not store.has_weights(source.key)
    assert store.state(source.key) == store.state(plain.key) == "done"
    assert (store.folder(running.key) / "state.safetensors").exists()
    assert whys(checkout) == {}


def test_scratch_and_folders_without_a_record_go_and_what_is_not_ours_stays(checkout: Path) -> None:
    store = store_of(checkout)
    for name in (".tune/abc", ".gone-" + "b" * 20, "a" * 20, "notes", ".mine"):
        (store.root / name).mkdir(parents=True)
    (store.root / "readme.txt").write_text("mine")
    (store.root / ("c" * 20)).symlink_to(checkout)
    assert whys(checkout) == {
        ".tune": gc.SCRATCH,
        ".gone-" + "b" * 20: gc.SCRATCH,
        "a" * 20: gc.DAMAGED_SPEC,
    }
    assert run(checkout, yes=True) == 0
    assert {path.name for path in store.root.iterdir()} >= {"notes", ".mine", "readme.txt", "c" * 20}
    assert (checkout / "params.yaml").exists()
    assert whys(checkout) == {}


def test_nothing_is_deleted_without_yes_and_what_is_new_stays(
    checkout: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(checkout)
    new, old = other(plan, code_digest="new"), other(plan, code_digest="old")
    for trial in (new, old):
        finish(store, trial)
    then = time.time() - 10 * 86400
    for path in store.folder(old.key).iterdir():
        os.utime(path, (then, then))
    before = tree(checkout)
    assert run(checkout) == 0
    assert tree(checkout) == before
    said = capsys.readouterr().out
    assert "--yes deletes them" in said
    assert "trials of other code: 2 items" in said
    assert run(checkout, yes=True, older_than=9.0, as_json=True) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["deleted"]
    assert [Path(item["path"]).name for item in content["items"]] == [old.key]
    assert content["items"][0]["days"] == pytest.approx(10, abs=0.1)
    assert store.keys() == [new.key]


def test_sizes_are_those_of_the_files(checkout: Path, plan: Plan) -> None:
    store, trial = store_of(checkout), other(plan, code_digest="old")
    finish(store, trial)
    leave(store, trial, "state.safetensors")
    (item,) = gc.find(checkout, store)
    assert item.bytes == sum(path.stat().st_size for path in store.folder(trial.key).iterdir())


@pytest.mark.parametrize("lock", ["results/sweep.lock", "results/trials/sweep.lock"])
def test_a_sweep_is_left_alone(checkout: Path, plan: Plan, lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    store, trial = store_of(checkout), other(plan, code_digest="old")
    finish(store, trial)
    with filelock.FileLock(checkout / lock):
        assert run(checkout, yes=True) == 4
    assert store.state(trial.key) == "done"
    assert "a sweep is running" in capsys.readouterr().err


def test_a_kill_between_two_steps_leaves_scratch(checkout: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    store, trial = store_of(checkout), other(plan, code_digest="old")
    finish(store, trial)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run(checkout, yes=True)
    assert store.keys() == []
    assert whys(checkout) == {f".gone-{trial.key}": gc.SCRATCH}
    assert run(checkout, yes=True) == 0
    assert whys(checkout) == {}
