"""A whole checkout in a temporary folder, small enough for the pipeline to run in it within a minute."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
FULL = os.environ.get("REID_CHAOS") == "full"
takes_minutes = pytest.mark.skipif(not FULL, reason="takes minutes; REID_CHAOS=full pytest runs it")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 else: beside other tests a worker would take a minute to start
hypothesis.settings.register_profile("repeatable", derandomize=True)  # the same examples each time
hypothesis.settings.load_profile("repeatable")  # pytest --hypothesis-profile=default draws others
COPIED = (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml", "pipeline", "reid", "reports/published")


@dataclass(frozen=True)
class Project:
    """A checkout, and what a person does in it."""

    root: Path

    def environment(self) -> dict[str, str]:
        """This Python for DVC's commands, as `make` sets it; and workers import this copy of the code."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "PYTHONPATH": str(self.root), "PYTHONWARNINGS": "ignore"}

    def run(self, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """`python -m <arguments>` in the checkout, waited for."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert fails == bool(done.returncode), f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    @contextmanager
    def started(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """`python -m <arguments>` in a process group of its own, which is killed when the block ends."""
        command = [sys.executable, "-m", *arguments]
        with (self.root / "output.txt").open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def edit_params(self, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
        """Change params.yaml as a person would."""
        from ruamel.yaml import YAML  # not on a machine that has only what `reid` needs, which runs tests/reid

        yaml = YAML()
        tree = yaml.load((self.root / "params.yaml").read_text())
        change(tree)
        yaml.dump(tree, self.root / "params.yaml")

    def replace(self, path: str, old: str, new: str) -> None:
        """Edit a file of the checkout."""
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new, 1))

    def ends(self) -> dict[str, int]:
        """When each finished trial was finished, in nanoseconds: a trial trained again changes its own."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.root.glob("results/trials/*/DONE")}


def _shrink(tree: dict) -> None:  # type: ignore[type-arg]
    tree["experiments"] = ["bdb_table2", "bdb_block_height"]
    tree["seeds"] = [0]
    tree["split"]["val_fraction"] = 0.4
    tree["sweep"]["checkpoint_epochs"] = 1
    tree["prepare"]["workers"] = 1
    tree["prepare"]["synthetic"].update(train_identities=10, test_identities=6, distractors=5, junk=5)
    tree["profiles"]["demo"]["overrides"].update(
        {
            "recipe.image_size": [64, 32],
            "recipe.sampler.identities": 3,
            "recipe.augment.cutout_size": 10,
            "recipe.schedule.epochs": 4,
            "recipe.schedule.time_scale": 0.01,
        }
    )


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no worker is left alone with them at the end; which tests share a worker.

    Those of the one Ray session do, the slow ones of a file, and those with a set-up for their whole file.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.get_closest_marker("slow") is not None or _has_set_up_for_its_file(item):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


def _has_set_up_for_its_file(item: pytest.Item) -> bool:
    found = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()  # no public way
    return any(definition.scope == "module" for definitions in found for definition in definitions)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where the groups have no effect: every set-up would be made twice, Ray's too, and nothing would say so."""
    if session.config.getoption("loadgroup", default=False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") is not None and "@" not in item.nodeid:
                raise pytest.UsageError("pytest-xdist does not group tests with this version of pytest")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray session of all tests that need one."""
    from pipeline.running import execute  # not on a machine that has only what `reid` needs

    with execute.session(cpus=2):
        yield


@pytest.fixture(scope="session")
def make_project() -> Callable[[Path], Project]:
    """Lay out a checkout with tiny parameters in a folder."""

    def make(root: Path) -> Project:
        for name in COPIED:
            source, target = ROOT / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "checkout"]):
            identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
            subprocess.run(["git", *identity, *command], cwd=root, check=True)
        project = Project(root)
        project.edit_params(_shrink)
        return project

    return make
