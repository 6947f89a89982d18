"""What README.md tells people to type exists and works."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def test_there_are_two_commands_on_the_first_screen() -> None:
    assert COMMANDS[:2] == ["make repro", "make test"]
    assert README.index("make repro") < README.index("\n## ")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))))
def test_make_targets_exist(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^      ?([a-z_]+\.py|[a-z_]+/)", README, re.MULTILINE))))
def test_the_tree_names_what_is_there(name: str) -> None:
    assert list(Path(ROOT / "reid").rglob(name.rstrip("/"))) or list(Path(ROOT / "pipeline").rglob(name.rstrip("/")))


def test_a_disk_that_is_too_small_is_said_before_anything_is_installed(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "install", "GIGABYTES=1000000"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Installing needs 1000000 GB on the disk of this checkout (7 of them stay in use), and " in done.stderr
    assert not (tmp_path / ".venv").exists()
