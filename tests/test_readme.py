"""What README.md tells people to type exists and works."""

import re
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
