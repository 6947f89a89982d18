"""Commit and dirty flag of real repositories, and what is recorded without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("reid", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_a_clean_checkout(repository: Path) -> None:
    assert provenance.revision(repository) == (git(repository, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("change", ["edited", "new", "deleted"])
def test_other_code_is_dirty(repository: Path, change: str) -> None:
    file = repository / "reid" / ("other.py" if change == "new" else "code.py")
    if change == "deleted":
        file.unlink()
    else:
        file.write_text("x = 2\n")
    assert provenance.revision(repository)[1]


def test_reports_and_parameters_do_not_make_code_dirty(repository: Path) -> None:
    (repository / "params.yaml").write_text("x: 1\n")
    (repository / "reports").mkdir()
    (repository / "reports" / "table.md").write_text("| x |\n")
    assert not provenance.revision(repository)[1]


def test_no_commit_yet(tmp_path: Path) -> None:
    (tmp_path / "reid").mkdir()
    (tmp_path / "reid" / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    assert provenance.revision(tmp_path) == ("", False)


def test_no_repository(tmp_path: Path) -> None:
    assert provenance.revision(tmp_path) == ("", False)


def test_no_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert provenance.revision(repository) == ("", False)


def test_a_package_inside_somebody_else_s_repository(repository: Path) -> None:
    installed = repository / "venv" / "site-packages"
    (installed / "reid").mkdir(parents=True)
    (installed / "reid" / "code.py").write_text("x = 1\n")
    assert provenance.revision(installed) == ("", False)


def test_a_hook_s_variables_do_not_lead_astray(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    expected = provenance.revision(repository)
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.revision(repository) == expected


def test_the_environment_is_plain_json() -> None:
    found = provenance.environment()
    assert set(found) == {"python", "torch", "reid", "host", "commit", "dirty"}
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert isinstance(found["dirty"], bool)


def test_the_environment_does_not_import_torch() -> None:
    code = (
        "import sys; from pipeline.storage import provenance; provenance.environment(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=provenance.ROOT)


def test_a_trial_without_gpus_computes_on_the_cpu() -> None:
    assert provenance.device(0) == "cpu"


def test_timestamps_are_utc() -> None:
    assert provenance.timestamp(1_700_000_000.9) == "2023-11-14T22:13:20+00:00"


TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def after_import(environment: dict[str, str]) -> dict[str, str]:
    code = "import pipeline, os, json; print(json.dumps(dict(os.environ)))"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=provenance.ROOT)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def test_telemetry_is_off_unless_the_environment_says_otherwise() -> None:
    bare = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    found = after_import(bare)
    assert {name: found[name] for name in TELEMETRY} == TELEMETRY
    assert after_import(bare | {"RAY_USAGE_STATS_ENABLED": "1"})["RAY_USAGE_STATS_ENABLED"] == "1"


def test_mlflow_and_ray_understand_it() -> None:
    code = (
        "import pipeline\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "assert is_telemetry_disabled()\n"
        "assert not usage_stats_enabled()\n"
    )
    bare = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    subprocess.run([sys.executable, "-c", code], check=True, env=bare, cwd=provenance.ROOT)
