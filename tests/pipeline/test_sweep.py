"""What a sweep looks at before it starts, and what it says when it ends."""

import os
from pathlib import Path

import pytest

from pipeline import sweep
from pipeline.planning import experiments
from pipeline.planning.params import load
from pipeline.planning.plan import Plan, expand
from pipeline.planning.strict import ParamsError
from pipeline.running import outline
from pipeline.running.agenda import Agenda
from pipeline.storage import locks
from pipeline.storage.store import TrialStore
from reid.data.decode import Fit
from reid.data.pack import PackInfo
from tests.pipeline.running.test_agenda import Endless

ROOT = Path(__file__).parent.parent.parent


def comparison(store: Path) -> Agenda:
    """All methods in the demo profile, without the stripes that make HAN fit."""
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0, 1)})
    demo = params.profiles["demo"]
    methods = {**demo.methods, "han": {**demo.methods["han"], "model.stripes": 6}}
    profiles = {**params.profiles, "demo": demo.model_copy(update={"methods": methods})}
    data = {"synthetic": {"val": "v", "test": "t"}}
    plan = expand(params.model_copy(update={"profiles": profiles}), experiments.load(("comparison",)), data)
    return Agenda(plan, TrialStore(store))


def test_a_misfit_is_refused_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        sweep._check(comparison(tmp_path))
    (problem,) = caught.value.problems  # once, not for every seed; and the other methods fit
    assert problem.startswith("han-")
    assert "8 rows, which cannot be cut into 6 equal stripes: set model.stripes to one of 1, 2, 4, 8" in problem


def packed(name: str, size: tuple[int, int], fit: Fit, *, resized: bool = True) -> PackInfo:
    shape = (10, *size, 3)
    return PackInfo(
        dataset=name, name=name, digest="d", shape=shape, fit=fit, resized=resized, counts={}, warnings=(), skipped=()
    )


def test_images_that_would_lose_their_shape_are_refused_and_enlarged_ones_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = load(ROOT / "params.yaml").model_copy(update={"datasets": ("cub200", "market1501"), "seeds": (0,)})
    data = {name: {"val": "v", "test": "t"} for name in params.datasets}
    plan = expand(params, experiments.load(("comparison",)), data)
    small = packed("market1501", (64, 32), "stretch")
    outline._check_sizes(plan, {"cub200": packed("cub200", (256, 256), "pad"), "market1501": small})
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the images of market1501 are packed at 64 x 32: they are enlarged" in warning
    with pytest.raises(ParamsError, match=r"image_size is 128 x 128, and the images of cub200 are padded to 256 x 128"):
        outline._check_sizes(plan, {"cub200": packed("cub200", (256, 128), "pad"), "market1501": small})


def test_the_count_at_the_end_is_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = list(comparison(tmp_path).declared.values())[:5]
    plan = Plan(experiments=(), trials={trial.key: trial for trial in trials}, searches=())
    agenda = Agenda(plan, TrialStore(tmp_path))
    done, harmed, *failed, _ = (agenda.next(Endless()) for _ in trials)
    for trial in (done, harmed, *failed):
        assert trial is not None
        agenda.store.open(trial)
    for trial in (done, harmed):
        agenda.store.finish(trial.key, {"status": "done", "metrics": {}})
        agenda.ended(trial.key)
    for trial, reason in zip(failed, ("diverged: nan in epoch 3", "timeout: an attempt may take 1 min"), strict=True):
        agenda.store.fail(trial.key, reason=reason)
        agenda.ended(trial.key)
    assert sweep._verdict(agenda) == sweep.UNFINISHED
    assert "5 declared = 2 done + 2 failed (1 diverged, 1 timeout) + 1 unfinished\n" in capsys.readouterr().out
    (agenda.store.folder(harmed.key) / "result.json").write_text("{}")
    assert sweep._verdict(agenda) == sweep.UNFINISHED
    said = capsys.readouterr()
    assert "5 declared = 1 done + 2 failed (1 diverged, 1 timeout) + 1 unfinished\n" in said.out
    assert "1 of them have lost their record since it was written" in said.err


def test_the_lock_tells_who_holds_it_and_a_dead_owner_s_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "store" / "sweep.lock"
    with locks.alone(lock):
        with pytest.raises(locks.HeldError, match=f"process {os.getpid()} of "), locks.alone(lock):
            pass
        assert locks.owner_of(lock).startswith(f"process {os.getpid()} of ")
        lock.with_suffix(".owner").write_text('{"pid"')
        assert locks.owner_of(lock) == f"an unknown process holds {lock}"
    with locks.alone(lock):  # whatever an owner that is gone has left there
        assert locks.owner_of(lock).startswith(f"process {os.getpid()} of ")
