"""What a person sees of a mistake: one line with its path, what is allowed and the nearest match; exit 2; no work."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli
from tests.conftest import Project

MISTAKES = {
    "unknown key": (("profile: demo", "profile: demo\nseed: 1"), r"seed is unknown.*did you mean seeds\?"),
    "wrong type": (
        ("cpus_per_trial: 1", "cpus_per_trial: one"),
        r"sweep\.cpus_per_trial is the text 'one'; allowed: a whole number",
    ),
    "unknown profile": (
        ("profile: demo", "profile: dmo"),
        r"profile is the text 'dmo'; allowed: demo, paper; did you mean demo\?",
    ),
    "unknown experiment": (
        ("- bdb_table2", "- bdb_tabel2"),
        r"experiments is the text 'bdb_tabel2'; allowed: .*did you mean bdb_table2\?",
    ),
    "negative epochs": (
        ("recipe.schedule.epochs: 4", "recipe.schedule.epochs: -4"),
        r"profiles\.demo\.overrides: recipe\.schedule\.epochs is -4; allowed: .*1 or more",
    ),
    "number as text": (
        ("recipe.schedule.peak_lr: 0.01", 'recipe.schedule.peak_lr: "1e-3"'),
        r"profiles\.demo\.overrides: recipe\.schedule\.peak_lr is the text '1e-3'; allowed: a number",
    ),
    "unknown path": (
        ("recipe.schedule.epochs: 4", "recipe.schedule.epoch: 4"),
        r"recipe\.schedule\.epoch is unknown.*did you mean recipe\.schedule\.epochs\?",
    ),
    "unknown backbone": (
        ("resnet10_w16", "resnet10_w61"),
        r"recipe\.backbone is .*resnet10_w61.*did you mean resnet10_w16",
    ),
}


@pytest.fixture
def project(tmp_path: Path, make_project: Callable[[Path], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    made = make_project(tmp_path)
    monkeypatch.chdir(made.root)
    return made


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["pipeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_params_is_one_line(
    mistake: str, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (old, new), said = MISTAKES[mistake]
    project.replace("params.yaml", old, new)
    before = sorted(project.root.rglob("*"))
    assert call(monkeypatch, "prepare", "synthetic") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert re.search(said, printed.err), printed.err
    assert sorted(project.root.rglob("*")) == before


def test_a_data_set_that_params_does_not_list(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "prepare", "market1501") == 2
    assert capsys.readouterr().err == "market1501: not one of params.yaml's datasets: synthetic\n"


def test_a_sweep_before_prepare_names_the_stage(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "sweep") == 2
    assert "run: python -m pipeline prepare synthetic" in capsys.readouterr().err


def test_missing_real_data_says_where_it_was_looked_for(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.replace("params.yaml", "datasets: [synthetic]", "datasets: [market1501]")
    project.edit_params(lambda tree: tree["prepare"].update(root="mine"))
    (project.root / "mine").mkdir()
    monkeypatch.setenv("HOME", str(project.root))
    monkeypatch.setenv("REID_DATASETS", "~/one")
    monkeypatch.setenv("FASTREID_DATASETS", "two")
    assert call(monkeypatch, "prepare", "market1501", "--root", "~/three") == 2
    root = project.root
    assert capsys.readouterr().err.splitlines()[:3] == [
        f"Market-1501 was looked for in {root}/three (--root, no such folder), {root}/one (REID_DATASETS, no such "
        f"folder), {root}/two (FASTREID_DATASETS, no such folder), {root}/mine (prepare.root), {root}/datasets "
        f"(./datasets, no such folder)",
        f"Market-1501 is not under {root}/mine",
        "Set REID_DATASETS to the folder that holds it. Expected there:",
    ]


def test_show_before_any_report_says_how_to_make_one(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "show") == 2
    assert "make repro" in capsys.readouterr().err


# --- commands beside a sweep -----------------------------------------------------------------------------------------


def test_status_looks_at_any_checkout_and_writes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    before = sorted(project.root.rglob("*"))
    assert call(monkeypatch, "status", "--root", str(project.root)) == 0
    assert capsys.readouterr().out.startswith(
        "0 trials declared = 0 done + 0 pruned + 0 failed + 0 running + 0 waiting"
    )
    assert call(monkeypatch, "status", "--json", "--root", str(project.root)) == 0
    assert json.loads(capsys.readouterr().out)["declared"] == 0
    assert sorted(project.root.rglob("*")) == before


def test_status_outside_a_checkout_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "status", "--root", str(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/params.yaml: no such file" in line


def test_retry_of_what_has_not_failed_is_one_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "retry") == 0
    assert call(monkeypatch, "retry", "bdb_table2: BDB") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "bdb_table2: BDB: no trial of this key, name or row has failed"


def test_gc_and_plan_before_prepare_name_the_stage(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("gc", "plan"):
        assert call(monkeypatch, command) == 2
        assert "run: python -m pipeline prepare synthetic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [((), None, 2), ((), "0", 2), (("--yes",), None, 3), ((), "1", 3)],
)
def test_a_long_sweep_asks_first(
    arguments: tuple[str, ...],
    environment: str | None,
    code: int,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever says yes gets to the sweep, which ends with 3 here."""
    monkeypatch.setattr("pipeline.outline.consent", lambda root, yes, nodes: yes)
    monkeypatch.setattr("pipeline.sweep.run", lambda root, address: 3)
    monkeypatch.delenv("REID_YES", raising=False)
    if environment is not None:
        monkeypatch.setenv("REID_YES", environment)
    assert call(monkeypatch, "sweep", *arguments) == code
