"""What MLflow is given after a report: its files, and the best network of each table, loadable without unpickling."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.commands import publish
from pipeline.commands.publish import Outcome, Shelf
from pipeline.mlflow_view import network, tracking
from pipeline.planning.experiments import Experiment, Row
from pipeline.planning.params import load
from pipeline.planning.plan import Plan, Trial, expand
from pipeline.report import GENERATED
from pipeline.running.agenda import Agenda
from pipeline.running.networks import Networks
from pipeline.storage.store import TrialStore
from reid.data.dataset import ReidData
from reid.data.split import make_split
from reid.methods.base import OWN
from reid.train import build_method, embed, train
from tests.conftest import ROOT
from tests.pipeline.running.test_agenda import Endless
from tests.pipeline.tracking_bench import Bench, line, result
from tests.services import free_port

TINY = {
    "recipe.image_size": [64, 32],
    "recipe.sampler.identities": 2,
    "recipe.sampler.images": 2,
    "recipe.schedule.epochs": 1,
}


def planned(*tables: Experiment, seeds: int = 2) -> Plan:
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": tuple(range(seeds))})
    return expand(params, tables, {"synthetic": {"val": "v", "test": "t"}})


def table(name: str, *labels: str, metric: str = "mAP") -> Experiment:
    """Rows of BDB that differ in the height of the block, each named after it."""
    rows = [Row(label=label, method="bdb", overrides=TINY | {"model.rh": float(label)}) for label in labels]
    return Experiment(name=name, title=name, metrics=(metric,), rows=tuple(rows))  # type: ignore[arg-type]


def end(agenda: Agenda, trial: Trial, mean_ap: float, rank1: float = 0.5) -> None:
    agenda.running.add(trial.key)
    agenda.store.open(trial)
    agenda.store.weights(trial.key).write_bytes(b"trained")
    agenda.store.finish(trial.key, {"status": "done", "metrics": {"mAP": mean_ap, "Rank-1": rank1}})
    agenda.ended(trial.key)


# --- which are kept ---


def test_of_every_table_the_best_network_is_kept_and_no_other(tmp_path: Path) -> None:
    """Oracle: after each end, the best of each table among those that have ended, written out."""
    plan = planned(table("one", "0.1", "0.2", "0.3"), table("two", "0.3", "0.4", metric="Rank-1"))
    agenda = Agenda(plan, TrialStore(tmp_path))
    members = {
        experiment.name: [trial for row in rows for trial in row.trials["synthetic"]]
        for experiment, rows in plan.experiments
    }
    draws = np.random.default_rng(0)
    scores: dict[str, tuple[float, float]] = {}
    while trial := agenda.next(Endless()):
        assert agenda.keeps_weights(trial.key)
        scores[trial.key] = (float(draws.random()), float(draws.random()))
        end(agenda, trial, *scores[trial.key])
        done = {name: [one for one in trials if one.key in scores] for name, trials in members.items()}
        best = {
            max(found, key=lambda one: scores[one.key][place]).key for place, found in enumerate(done.values()) if found
        }
        assert {key for key in scores if agenda.store.has_weights(key)} == best
    assert len(scores) == 8
    found = agenda.networks.best(agenda.store)
    assert {place for place, _ in found.items()} == {("one", "synthetic"), ("two", "synthetic")}
    assert agenda.networks.kept(agenda.store) == {trial.key for trial in found.values()}


def test_a_network_that_another_scoring_waits_for_stays(tmp_path: Path) -> None:
    again = Row(label="re-ranked", method="bdb", overrides=TINY | {"model.rh": 0.1, "recipe.protocol.rerank": True})
    other = Experiment(name="again", title="Again", metrics=("mAP",), rows=(again,))
    agenda = Agenda(planned(table("one", "0.1", "0.2"), other, seeds=1), TrialStore(tmp_path))
    first, second = (
        next(trial for trial in agenda.declared.values() if not trial.source and trial.config.model.rh == height)  # type: ignore[attr-defined]
        for height in (0.1, 0.2)
    )
    assert {agenda.next(Endless()), agenda.next(Endless())} == {first, second}
    end(agenda, first, 0.4)
    end(agenda, second, 0.6)
    assert agenda.store.has_weights(first.key)  # its re-ranking has not run
    assert agenda.store.has_weights(second.key)


def test_rows_of_a_branch_or_of_another_scoring_have_no_network() -> None:
    branch = Row(label="branch", method="bdb", overrides=TINY, embedding="global")
    again = Row(label="re-ranked", method="bdb", overrides=TINY | {"recipe.protocol.rerank": True})
    found = Networks(planned(Experiment(name="t", title="T", metrics=("mAP",), rows=(branch, again))))
    assert found.trials == {}


# --- a network as a folder ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: ReidData) -> tuple[Path, Trial]:
    """A store with one trained trial."""
    store = TrialStore(tmp_path_factory.mktemp("trained") / "trials")
    (trial,) = planned(table("heights", "0.3"), seeds=1).trials.values()
    folder = store.open(trial)
    train(trial.config, tiny, lambda _: None, weights=folder / "weights.safetensors")
    store.append_epoch(trial.key, line(1))
    store.finish(trial.key, result(epochs=1))
    return store.root, trial


@pytest.fixture(scope="module")
def tiny() -> ReidData:
    parts = [("train", 1), ("train", 2), ("train", 3), ("train", 4), ("query", 5), ("gallery", 5), ("gallery", 6)]
    rows = [{"split": part, "identity": who, "camera": 1 + (part == "query")} for part, who in parts for _ in range(2)]
    frame = pd.DataFrame(rows + [{**row, "camera": 3} for row in rows if row["split"] == "train"])
    images = np.random.default_rng(0).integers(0, 255, (len(frame), 64, 32, 3), dtype=np.uint8)
    splits = make_split(frame, val_fraction=0.5, seed=0)
    return ReidData("x", images, frame["identity"].to_numpy(), frame["camera"].to_numpy(), splits, "0")


def embedded(root: Path, trial: Trial, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By the trial's own code, without any of ours."""
    method = build_method(trial.config, 4)
    tensors = load_file(root / trial.key / "weights.safetensors")
    method.load_state_dict(tensors)
    return embed(method, images, np.arange(len(images)), recipe=trial.config.recipe)[OWN].numpy()


def test_a_saved_network_embeds_as_the_trained_one(trained: tuple[Path, Trial], tmp_path: Path) -> None:
    root, trial = trained
    network.save(tmp_path / "net", trial.spec, root / trial.key / "weights.safetensors")
    images = np.random.default_rng(1).integers(0, 255, (3, 80, 40, 3), dtype=np.uint8)
    found = network.load(tmp_path / "net")
    before = torch.get_rng_state()
    assert found.predict(images).shape == (3, found.embedding_dim)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(found.predict(images), embedded(root, trial, images))
    assert found.config == trial.config


def test_a_network_of_other_code_says_so(trained: tuple[Path, Trial], tmp_path: Path) -> None:
    root, trial = trained
    spec = json.loads(json.dumps(trial.spec))
    spec["config"]["model"]["gone"] = 1
    network.save(tmp_path / "net", spec, root / trial.key / "weights.safetensors")
    with pytest.raises(ValueError, match=r"gone is unknown.*load it with the commit that trained it"):
        network.load(tmp_path / "net")


# --- in MLflow ---


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path, trained: tuple[Path, Trial], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A finished sweep of one trial, its report, and MLflow with both runs."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    root, _ = trained
    shutil.copytree(root, tmp_path / "results" / "trials")
    (tmp_path / GENERATED / "figures").mkdir(parents=True)
    (tmp_path / GENERATED / "index.html").write_text("a page")
    (tmp_path / GENERATED / "figures" / "one.svg").write_text("<svg/>")
    plan = planned(table("heights", "0.3"), seeds=1)
    monkeypatch.setattr(publish.outline, "declared", lambda *_: plan)
    bench = Bench(tmp_path)
    tracker = bench.tracker()
    with tracker.sweep("demo", bench.store):
        tracker.sync(plan.trials.values())
    return bench


def call(bench: Bench) -> Outcome:
    return publish.publish(bench.root, bench.params())


LOAD = """
import sys, numpy, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
assert model.metadata.signature.inputs.inputs[0].type == numpy.dtype("uint8")
numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2])))
try:
    model.predict(numpy.zeros((1, 8, 4, 3), numpy.float32))
except mlflow.exceptions.MlflowException:
    sys.exit(0)
sys.exit("floats were taken")
"""


def test_the_report_and_the_best_network_are_there_once(
    bench: Bench, trained: tuple[Path, Trial], tmp_path: Path
) -> None:
    """Registered, loaded by MLflow in a new process that may not unpickle, and equal to ours to the last bit."""
    first = call(bench)
    assert first == Outcome(report=True, registered=["heights-synthetic"])
    parent = bench.parent().info.run_id
    assert {item.path for item in bench.client.list_artifacts(parent, "report")} == {
        "report/index.html",
        "report/figures",
    }
    assert call(bench) == Outcome(unchanged=["heights-synthetic"])
    (version,) = bench.client.search_model_versions("name = 'heights-synthetic'")
    assert version.tags["trial.key"] == trained[1].key
    images = np.random.default_rng(1).integers(0, 255, (3, 80, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    environment = os.environ | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_TRACKING_URI": bench.uri,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", LOAD, "models:/heights-synthetic/1", "images.npy", "found.npy"]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, embedded(*trained, images), rtol=1e-5, atol=1e-6)
    files = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]


def test_a_new_report_takes_the_place_of_the_old(bench: Bench) -> None:
    call(bench)
    (bench.root / GENERATED / "index.html").write_text("another page")
    figure = bench.root / GENERATED / "figures" / "one.svg"
    figure.rename(figure.with_name("another.svg"))
    assert call(bench).report
    assert not call(bench).report
    there = Path(bench.client.download_artifacts(bench.parent().info.run_id, "report"))
    assert (there / "index.html").read_text() == "another page"
    assert [path.name for path in (there / "figures").iterdir()] == ["another.svg"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda bench, trial: bench.store.remove(bench.store.weights(trial.key)),
            "is not there; delete .* and the next sweep trains it",
        ),
        (
            lambda bench, trial: bench.client.delete_run(bench.runs()[trial.key].info.run_id),
            "MLflow has no run of .*reconcile",
        ),
    ],
)
def test_what_cannot_be_registered_is_named(
    bench: Bench, trained: tuple[Path, Trial], break_it: Callable[[Bench, Trial], None], said: str
) -> None:
    break_it(bench, trained[1])
    outcome = call(bench)
    assert outcome.report
    (text,) = outcome.lacking
    assert re.search(said, text)
    assert text in outcome.words


def test_mlflow_down_is_said_and_is_no_failure(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.params(f"http://user:secret@127.0.0.1:{free_port()}")
    assert publish.run(bench.root) == 0
    said = capsys.readouterr().err
    assert "warning: not published, MLflow at http://***@127.0.0.1" in said
    assert "python -m pipeline publish" in said
    assert "secret" not in said


def test_another_writer_is_waited_for_and_then_said(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.params()
    monkeypatch.setattr(publish, "_WAIT", 0.1)
    with tracking.writing(bench.store):
        assert publish.run(bench.root) == 0
    assert f"not published: {tracking.BUSY}" in capsys.readouterr().err


def test_without_a_report_the_stage_is_named(bench: Bench) -> None:
    bench.params()
    (bench.root / GENERATED / "index.html").unlink()
    with pytest.raises(FileNotFoundError, match="holds no report yet; make it with: dvc repro"):
        publish.run(bench.root)


def test_the_shelf_of_an_empty_mlflow_says_what_makes_it(bench: Bench) -> None:
    params = bench.params()
    other = params.model_copy(update={"tracking": params.tracking.model_copy(update={"experiment": "other"})})
    with pytest.raises(LookupError, match="there is no experiment other; python -m pipeline reconcile makes it"):
        Shelf(bench.root, other)
