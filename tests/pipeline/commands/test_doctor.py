"""What `doctor` finds, says and advises: in folders that miss things, hold other things, or are in use."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
import zc.lockfile  # type: ignore[import-untyped]
from rich.console import Console

from pipeline import cli, prepare, split
from pipeline.commands import checkup, doctor
from pipeline.commands.checkup import Checkup
from pipeline.commands.doctor import Finding
from pipeline.planning.params import load
from pipeline.planning.shares import Node
from pipeline.running import machine
from pipeline.storage.locks import alone
from pipeline.storage.store import TrialStore
from reid.data.manifest import Record
from reid.data.readers import reader, readers
from tests.conftest import ROOT, Project
from tests.reid.data import miniatures

MARKET = {"bounding_box_train": "0002_c1s1_1.jpg", "query": "0003_c2s1_1.jpg", "bounding_box_test": "0003_c3s1_1.jpg"}


@pytest.fixture(autouse=True)
def _no_data_sets_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REID_DATASETS", "FASTREID_DATASETS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing has been run: the doctor reads only params.yaml of it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


@pytest.fixture
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of all of params.yaml, which takes longest."""
    monkeypatch.setattr(doctor, "_params_findings", lambda root: ())


@pytest.fixture
def root(checkout: Path, _unchecked: None) -> Path:
    return checkout


def edit(root: Path, old: str, new: str) -> None:
    text = (root / "params.yaml").read_text()
    assert old in text
    (root / "params.yaml").write_text(text.replace(old, new, 1))


def use_market(root: Path) -> None:
    edit(root, "datasets: [synthetic]", "datasets: [market1501]")


def make_market(home: Path) -> Path:
    for folder, name in MARKET.items():
        (home / folder).mkdir(parents=True)
        (home / folder / name).touch()
    return home


def found(root: Path) -> tuple[Checkup, dict[str, Finding]]:
    """What was looked at, and the findings by their problem; those of this machine's disk are left out."""
    looked, findings = doctor.examine(root)
    return looked, {one.problem: one for one in findings if "GB free" not in one.problem}


def only(findings: dict[str, Finding]) -> Finding:
    (finding,) = findings.values()
    return finding


def shown(looked: Checkup, findings: dict[str, Finding], **options: Any) -> str:
    console = Console(file=io.StringIO(), width=150, highlight=False, **options)
    doctor.show(looked, list(findings.values()), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_fresh_checkout_is_sound_and_stays_untouched(checkout: Path) -> None:
    before = sorted(checkout.rglob("*"))
    looked, findings = found(checkout)
    assert findings == {}
    assert sorted(checkout.rglob("*")) == before
    assert set(looked.datasets) == set(readers())
    assert [key for key, item in looked.datasets.items() if item.listed] == ["synthetic"]
    assert looked.datasets["synthetic"].raw.state == "drawn"
    assert looked.datasets["market1501"].raw.state == "missing"
    assert looked.trials == {"done": 0, "running": 0, "failed": 0}
    assert "nothing stops make repro" in shown(looked, findings)


RUN = """
import sys
from pipeline import cli
sys.argv = ["pipeline", "doctor"]
try:
    cli.main()
except SystemExit as ended:
    assert not {"ray", "mlflow", "dvc", "optuna"} & set(sys.modules)
    sys.exit(ended.code)
"""


def test_the_command_starts_nothing_and_colours_only_terminals(
    tmp_path: Path, make_project: Callable[[Path], Project]
) -> None:
    project = make_project(tmp_path)
    command = [sys.executable, "-c", RUN]
    ended = subprocess.run(command, cwd=project.root, env=project.environment(), capture_output=True, check=False)
    printed = ended.stdout.decode()
    assert ended.stderr == b""
    assert "synthetic (listed)" in printed
    assert "\x1b" not in printed
    assert ended.returncode == ("nothing stops make repro" not in printed)


def test_what_json_holds(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    use_market(root)
    make_market(root / "datasets" / "Market-1501")
    monkeypatch.setattr(machine, "_version", lambda name: None if name == "ray" else "1.0")
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["pipeline", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    report = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert report["ok"] is False
    assert report["problems"] == [{"problem": "ray is not installed", "fix": "make install"}]
    assert {tuple(entry) for entry in report["warnings"]} == {("problem", "fix")}
    assert report["root"] == str(root)
    assert report["places"] == [{"source": "./datasets", "path": str(root / "datasets"), "exists": True}]
    market = report["datasets"]["market1501"]
    assert market["listed"] is True
    assert market["raw"]["path"] == str(root / "datasets" / "Market-1501")
    assert market["raw"]["counts"]["query"] == {"images": 1, "identities": 1, "cameras": 1}
    assert market["raw"]["differences"]["query"] == {"images": -3367, "identities": -749}
    assert market["prepared"]["state"] == "absent"
    assert report["environment"]["installed"]["ray"] is None
    assert {lock["name"]: lock["state"] for lock in report["locks"]} == {
        "sweep": "free",
        "dvc": "free",
        "dvc outputs": "free",
    }
    assert {name for disk in report["disks"] for name in disk["holds"]} == {"data", "results", "trials"}
    assert report["store"] == str(root / "results" / "trials")
    assert report["trials"] == {"done": 0, "running": 0, "failed": 0}


# What is wrong with params.yaml


def test_with_a_broken_section_the_others_are_used(checkout: Path) -> None:
    edit(checkout, "root: null", "root: elsewhere")
    edit(checkout, "store: results/trials", "store: other/place")
    edit(checkout, "val_fraction: 0.2", "val_fraction: many")
    make_market(checkout / "elsewhere")
    looked, findings = found(checkout)
    assert only(findings).problem.startswith("params.yaml: split.val_fraction is the text 'many'; allowed:")
    assert only(findings).stops
    assert looked.places[0].path == checkout / "elsewhere"
    assert looked.datasets["market1501"].raw.state == "found"
    assert looked.store == str(checkout / "other" / "place")


def test_every_mistake_is_told(checkout: Path) -> None:
    edit(checkout, "profile: demo", "profile: dmo")
    edit(checkout, "  workers: null", "  workers: none")
    edit(checkout, "datasets: [synthetic]", "datasets: 3")
    _, findings = found(checkout)
    assert len(findings) >= 2
    assert all(finding.stops for finding in findings.values())


def test_a_row_that_does_not_resolve_is_told(checkout: Path) -> None:
    edit(checkout, "    methods: {}", "    methods: {han: {model.stripes: 0}}")
    _, findings = found(checkout)
    assert "model.stripes is 0" in only(findings).problem


@pytest.mark.parametrize("text", ["a: [1", "", "- 1", None])
def test_without_params_the_rest_is_looked_at(checkout: Path, text: str | None) -> None:
    (checkout / "params.yaml").unlink()
    if text is not None:
        (checkout / "params.yaml").write_text(text)
    make_market(checkout / "datasets")
    looked, findings = found(checkout)
    assert "params.yaml" in only(findings).problem
    assert looked.datasets["market1501"].raw.state == "found"
    assert "1 of these stop make repro" in shown(looked, findings)


def test_without_torch_the_rest_is_looked_at(checkout: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['pipeline', 'doctor', '--json']"
    command = [sys.executable, "-c", f"{code}; from pipeline import cli; cli.main()"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False)
    report = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (1, b"")
    stopping = {entry["problem"].partition(":")[0]: entry["fix"] for entry in report["problems"]}
    assert stopping["params.yaml could not be checked"] == "make install"
    assert report["environment"]["cuda"] is None
    assert report["datasets"]["synthetic"]["listed"]


# Data sets


def test_places_are_looked_at_in_prepare_s_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_DATASETS", str(root / "env"))
    edit(root, "root: null", "root: mine")
    make_market(root / "datasets" / "Market-1501")
    make_market(root / "mine" / "market1501")
    looked, findings = found(root)
    assert [(place.source, place.path.name, place.exists) for place in looked.places] == [
        ("REID_DATASETS", "env", False),
        ("prepare.root", "mine", True),
        ("./datasets", "datasets", True),
    ]
    assert looked.datasets["market1501"].raw.path == root / "mine" / "market1501"
    assert only(findings).problem == f"REID_DATASETS is {root / 'env'}, which is no folder"
    assert not only(findings).stops


def test_an_archive_is_not_missing(root: Path) -> None:
    use_market(root)
    (root / "datasets").mkdir()
    archive = root / "datasets" / "Market-1501-v15.09.15.zip"
    archive.write_bytes(b"PK")  # it is not opened
    looked, findings = found(root)
    raw = looked.datasets["market1501"].raw
    assert (raw.state, raw.path) == ("archive", archive)
    assert findings == {}
    assert "Market-1501-v15.09.15.zip (archive, not extracted yet)" in shown(looked, findings)
    make_market(root / "datasets" / "market1501-extracted" / "Market-1501")
    looked, _ = found(root)
    assert looked.datasets["market1501"].raw.state == "found"
    assert looked.datasets["market1501"].raw.path == root / "datasets" / "market1501-extracted" / "Market-1501"


def test_a_set_that_lacks_files_is_broken_and_not_looked_for_elsewhere(root: Path) -> None:
    edit(root, "datasets: [synthetic]", "datasets: [sop]")
    edit(root, "root: null", "root: mine")
    records = miniatures.write("sop", root / "mine")
    miniatures.write("sop", root / "datasets")
    (root / "mine" / records[0].path).unlink()
    looked, findings = found(root)
    assert looked.datasets["sop"].raw.state == "broken"
    assert "names 1 files that are not in" in only(findings).problem
    assert only(findings).stops


@pytest.mark.parametrize("existing", [True, False])
def test_a_listed_set_that_is_missing_stops(root: Path, existing: bool) -> None:
    use_market(root)
    if existing:
        (root / "datasets" / "Market1501" / "query").mkdir(parents=True)
    looked, findings = found(root)
    finding = only(findings)
    assert finding.stops
    assert str(root / "datasets") in finding.problem
    for part in ("REID_DATASETS", "bounding_box_train", "Closest folder found"):
        assert part in finding.fix
    if existing:
        assert looked.datasets["market1501"].raw.closest.startswith(str(root / "datasets" / "Market1501"))
    assert "lacks bounding_box_train" in looked.datasets["market1501"].raw.closest
    assert "not found" in shown(looked, findings)


def test_counts_that_differ_are_told_with_the_difference(root: Path) -> None:
    use_market(root)
    make_market(root / "datasets")
    looked, findings = found(root)
    assert looked.datasets["market1501"].raw.differences == {
        "train": {"images": -12_935, "identities": -750},
        "query": {"images": -3_367, "identities": -749},
        "gallery": {"images": -19_731},
    }
    finding = only(findings)
    assert not finding.stops
    assert "-12,935 images in train, -750 identities in train" in finding.problem
    assert finding.problem.endswith("-19,731 images in gallery")
    assert "1 / 1 (-19,731" in shown(looked, findings)


@pytest.mark.parametrize("listed", [True, False])
def test_a_set_that_cannot_be_read_does_not_hide_the_others(root: Path, listed: bool) -> None:
    if listed:
        use_market(root)
    home = make_market(root / "datasets" / "Market-1501")
    (home / "query" / "photo.jpg").touch()
    looked, findings = found(root)
    assert looked.datasets["market1501"].raw.state == "broken"
    assert looked.datasets["veri776"].raw.state == "missing" if "veri776" in looked.datasets else True
    assert "photo.jpg" in shown(looked, findings)
    assert [finding.stops for finding in findings.values()] == [True] * listed


def test_a_reader_that_trips_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(root: Path) -> list[Record]:
        raise KeyError("cuhk03")

    tripping = SimpleNamespace(read=trip, expected={})
    monkeypatch.setattr(checkup, "reader", lambda key: tripping if key == "market1501" else reader(key))
    use_market(root)
    _, findings = found(root)
    assert only(findings).problem == "Market-1501: 'cuhk03'"


def test_a_slow_disk_does_not_hold_up_the_rest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "DATA_SECONDS", 0.2)
    monkeypatch.setattr(checkup, "_read", lambda key, places: time.sleep(5))
    use_market(root)
    started = time.monotonic()
    survey = checkup.Survey(root)
    looked = survey.checkup()
    assert time.monotonic() - started < 4
    assert looked.datasets["market1501"].raw.state == "late"
    (finding,) = [one for one in doctor.diagnose(looked, survey.prepare, survey.shares) if "not read" in one.problem]
    assert not finding.stops
    assert "not read in time" in shown(looked, {})


def test_listed_sets_are_read_first_and_small_ones_before_large_ones(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(checkup, "_read", lambda key, places: order.append(key))
    edit(root, "datasets: [synthetic]", "datasets: [market1501]")
    checkup.Survey(root)._thread.join()
    assert order[0] == "market1501"
    sizes = [checkup._published_images(key) for key in order[1:]]
    assert sizes == sorted(sizes)


def test_names_are_not_read_as_markup(root: Path) -> None:
    make_market(root / "datasets" / "Market-1501" / "[red]" / "x").rename(root / "moved")
    edit(root, "root: null", "root: '[red]'")
    (root / "moved").rename(root / "[red]")
    looked, findings = found(root)
    assert "[red]" in shown(looked, findings)


# Prepared data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the embedded set prepared and split, in its smallest form."""
    root = tmp_path_factory.mktemp("prepared")
    shutil.copy(ROOT / "params.yaml", root)
    small = {"train_identities: 100": "train_identities: 10", "test_identities: 100": "test_identities: 4"}
    small |= {"distractors: 200": "distractors: 3", "junk: 100": "junk: 2", "val_fraction: 0.2": "val_fraction: 0.4"}
    for old, new in {**small, "workers: null": "workers: 1"}.items():
        edit(root, old, new)
    params = load(root / "params.yaml")
    prepare.run(root, "synthetic", params, configs=[], option=None)
    split.run(root, "synthetic", params)
    return root


def copied(prepared: Path, target: Path) -> Path:
    return Path(shutil.copytree(prepared, target / "checkout"))


def test_prepared_and_split_data_are_told(prepared: Path) -> None:
    looked, findings = found(prepared)
    item = looked.datasets["synthetic"]
    info = json.loads((prepared / "data" / "synthetic" / "info.json").read_text())
    assert findings == {}
    assert item.raw.state == "found"
    assert item.raw.path == prepared / "data" / "raw" / "synthetic"
    assert item.raw.counts == item.prepared.counts == info["counts"]
    assert (item.prepared.state, item.prepared.digest) == ("split", info["digest"])
    text = shown(looked, findings)
    assert info["digest"][:12] in text
    assert "data/raw/synthetic" in text


@pytest.mark.usefixtures("_unchecked")
def test_data_without_a_split(prepared: Path, tmp_path: Path) -> None:
    root = copied(prepared, tmp_path)
    (root / "data" / "synthetic" / "split.json").unlink()
    shutil.rmtree(root / "data" / "raw")
    looked, findings = found(root)
    assert looked.datasets["synthetic"].prepared.state == "packed"
    assert looked.datasets["synthetic"].raw.state == "drawn"
    assert findings == {}


@pytest.mark.usefixtures("_unchecked")
def test_raw_data_may_go_once_they_are_prepared(prepared: Path, tmp_path: Path) -> None:
    root = copied(prepared, tmp_path)
    (root / "data" / "synthetic").rename(root / "data" / "market1501")
    use_market(root)
    _, findings = found(root)
    assert not only(findings).stops


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is gone": (lambda folder: (folder / "info.json").unlink(), "lacks info.json"),
    "images cut": (lambda folder: (folder / "images.npy").write_bytes(b""), "No data left"),
    "other images": (lambda folder: np.save(folder / "images.npy", np.zeros((2, 4, 2, 3), np.uint8)), "2 images, "),
    "other rows": (lambda folder: pd.DataFrame({"path": ["a"]}).to_parquet(folder / "manifest.parquet"), "1 rows in"),
    "no manifest": (lambda folder: (folder / "manifest.parquet").write_text("x"), "arquet"),
    "no JSON": (lambda folder: (folder / "info.json").write_text("{"), "Expecting"),
    "other JSON": (lambda folder: (folder / "info.json").write_text("[]"), "list indices"),
    "no split": (lambda folder: (folder / "split.json").write_text("{}"), "is not a split"),
}


@pytest.mark.usefixtures("_unchecked")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_with_the_command_that_mends_it(damage: str, prepared: Path, tmp_path: Path) -> None:
    change, said = DAMAGE[damage]
    root = copied(prepared, tmp_path)
    change(root / "data" / "synthetic")
    looked, findings = found(root)
    finding = only(findings)
    assert looked.datasets["synthetic"].prepared.state == "damaged"
    assert said in finding.problem
    assert finding.fix.startswith("python -m pipeline prepare synthetic")
    assert not finding.stops  # DVC sees the change too and prepares it again


# Locks


def test_a_running_sweep_stops(root: Path) -> None:
    (root / "results").mkdir()
    with alone(root / "results" / "sweep.lock"):
        looked, findings = found(root)
    assert only(findings).stops
    assert only(findings).problem.startswith("a sweep is running: process ")
    assert "sweep held (process " in shown(looked, findings)
    assert found(root)[1] == {}


HOLD = """
import filelock, sys, time
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_sweep_is_free(root: Path) -> None:
    path = root / "results" / "sweep.lock"
    path.parent.mkdir()
    owner = {"pid": 1, "host": "there", "user": "ann", "since": "noon"}
    path.with_suffix(".owner").write_text(json.dumps(owner))
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert checkup._sweep_lock(path).state == "held"
        process.kill()
    assert path.exists()
    lock = checkup._sweep_lock(path)
    assert (lock.state, lock.owner) == ("free", "process 1 of ann on there, since noon")
    assert found(root)[1] == {}


def test_looking_at_a_lock_leaves_it_free(root: Path) -> None:
    path = root / "sweep.lock"
    path.touch()
    assert checkup._sweep_lock(path).state == "free"
    with filelock.FileLock(path, timeout=0):
        assert checkup._sweep_lock(path).state == "held"
        assert checkup._sweep_lock(path).owner == ""


def test_a_running_dvc_command_stops(root: Path) -> None:
    folder = root / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    lock = zc.lockfile.LockFile(str(folder / "lock"))
    try:
        _, findings = found(root)
    finally:
        lock.close()
    assert only(findings).problem.startswith("a dvc command is running: process ")
    assert only(findings).stops
    assert found(root)[1] == {}


def test_who_uses_dvc_s_outputs(root: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        rwlock = root / ".dvc" / "tmp" / "rwlock"
        rwlock.parent.mkdir(parents=True)
        entry = {"pid": process.pid, "cmd": "dvc repro"}
        rwlock.write_text(json.dumps({"write": {"/a": entry}, "read": {"/b": [entry]}}))
        _, findings = found(root)
        assert only(findings).problem == f"outputs are in use: process {process.pid} (dvc repro)"
    looked, findings = found(root)  # that process has ended; DVC itself strikes it off
    assert findings == {}
    assert [lock.state for lock in looked.locks] == ["free", "free", "stale"]


@pytest.mark.parametrize("content", ["", "[]", '{"write": {"/a": {}}}', '{"read": {"/a": 3}}'])
def test_a_damaged_list_of_dvc_is_to_be_removed(root: Path, content: str) -> None:
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    rwlock.write_text(content)
    _, findings = found(root)
    assert only(findings).problem.startswith(f"{rwlock} is damaged")
    assert only(findings).fix.startswith("remove that file")


# Trials, environment, disks


def test_trials_are_counted_by_state(root: Path) -> None:
    store = TrialStore(root / "results" / "trials")
    for digit in "abcde":
        store.open(SimpleNamespace(key=digit * 20, spec={}))  # type: ignore[arg-type]
    store.finish("a" * 20, {"status": "done"})
    store.finish("b" * 20, {"status": "pruned"})
    store.fail("c" * 20, "out of memory")
    looked, findings = found(root)
    assert looked.trials == {"done": 2, "running": 2, "failed": 1}
    assert only(findings) == Finding("1 trials have failed", "run them again: make retry", stops=False)
    assert "2 done, 2 running, 1 failed" in shown(looked, findings)


def test_versions_are_compared_with_the_pins(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = ["torch==2.1.0 \\", "    --hash=sha256:00", "ray==2.60.0 ; sys_platform == 'linux' \\", "mlflow-skinny==9"]
    (root / "requirements.lock").write_text("\n".join([*pins, "optuna==5.0"]))
    installed = {"torch": "2.1.0+cpu", "ray": "2.59.0", "dvc": "3.0"}
    monkeypatch.setattr(machine, "_version", installed.get)
    looked, findings = found(root)
    assert looked.environment.pinned == {"torch": "2.1.0", "ray": "2.60.0", "optuna": "5.0"}
    assert {finding.problem: finding.stops for finding in findings.values()} == {
        "torchvision is not installed": True,
        "mlflow is not installed": True,
        "optuna is not installed": True,
        "ray is 2.59.0, requirements.lock pins 2.60.0": False,
    }


def test_what_is_installed_here_is_found() -> None:
    looked = machine.environment(ROOT / "requirements.lock")
    assert looked.installed["torch"] == metadata.version("torch")
    assert set(looked.pinned) == set(machine.PACKAGES)
    assert looked.python == sys.version.split()[0]


def test_gpus_are_named_and_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(root, "    gpus: 0 ", "    gpus: 0.5 ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, findings = found(root)
    assert "the trials ask for cpus: 1, gpus: 0.5, but here is" in only(findings).problem
    assert "see why torch sees no GPU: nvidia-smi" in only(findings).fix
    gpu = SimpleNamespace(name="Fast 9000", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    looked, findings = found(root)
    assert findings == {}
    assert "Fast 9000 (80.0 GB), Fast 9000 (80.0 GB)" in shown(looked, findings)


def test_what_torch_says_of_a_broken_driver_is_passed_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complain() -> bool:
        import warnings

        warnings.warn("CUDA initialization: the driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", complain)
    _, findings = found(root)
    assert only(findings).problem == "CUDA initialization: the driver is too old"
    assert not only(findings).stops


def test_a_share_larger_than_the_machine(root: Path) -> None:
    edit(root, "    cpus: 1", "    cpus: 4096")
    looked, findings = found(root)
    cores = looked.environment.cores
    assert only(findings).problem == f"the trials ask for cpus: 4096, gpus: 0, but here is {Node(cores, 0)}"
    assert only(findings).stops


def test_a_container_s_limits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    8000 kB\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    monkeypatch.setattr(machine, "_text", lambda path: files.get(str(path), ""))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert machine._cores() == 2
    assert machine._memory() == (16000 * 1024, 8000 * 1024)
    files |= {"/sys/fs/cgroup/memory.max": "4096000\n", "/sys/fs/cgroup/memory.current": "1024000\n"}
    assert machine._memory() == (4096000, 3072000)
    files["/sys/fs/cgroup/cpu.max"] = "max 100000\n"
    assert machine._cores() == 8
    files.clear()
    assert machine._memory() == (None, None)


@pytest.mark.parametrize(("free", "stops"), [(10**8, [True]), (5 * 10**9, [False]), (50 * 10**9, [])])
def test_little_room_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, free: int, stops: list[bool]) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free, total=10**12))
    _, findings = doctor.examine(root)
    assert [finding.stops for finding in findings] == stops
    assert all(f"{free / 1e9:.1f} GB free" in finding.problem for finding in findings)


def test_room_for_what_is_to_be_packed_is_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_market(root)
    edit(root, "image_size: [384, 128]", "image_size: [100000, 100000]")
    make_market(root / "datasets")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=50 * 10**9, total=10**12))
    _, findings = doctor.examine(root)
    (finding,) = [one for one in findings if "GB free" in one.problem]
    assert finding.problem.endswith("has 50.0 GB free; packing writes up to 90.0 GB")


def test_a_folder_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "results").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path != root / "results")
    _, findings = found(root)
    assert "cannot be written" in only(findings).problem
    assert only(findings).stops


def test_disks_are_those_of_the_nearest_folders_there_are(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (disk,) = machine.disks({"one": tmp_path / "a" / "b" / "c", "other": tmp_path / "d"})
    assert disk.holds == ["one", "other"]
    assert disk.path == tmp_path / "a"
    assert 0 < disk.free < disk.total


def test_colours_are_for_terminals(root: Path) -> None:
    looked, findings = found(root)
    assert "\x1b[" not in shown(looked, findings)
    assert "\x1b[" in shown(looked, findings, force_terminal=True)


def test_every_problem_is_shown_with_its_fix_and_the_worst_last(root: Path) -> None:
    looked, _ = found(root)
    findings = [Finding("p[1]", "do this"), Finding("w", "or that", stops=False), Finding("q", "or [that]")]
    text = shown(looked, {one.problem: one for one in findings})
    assert "problem p[1]\n  fix: do this" in text
    assert text.index("warning w") < text.index("problem p[1]") < text.index("problem q\n  fix: or [that]")
    assert text.endswith("2 of these stop make repro\n")
