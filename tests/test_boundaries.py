"""The direction of imports, checked by reading the code and by hiding the libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORCHESTRATION = {
    "pipeline",
    "ray",
    "mlflow",
    "dvc",
    "optuna",
    "pydantic",
    "typer",
    "rich",
    "ruamel",
    "jinja2",
    "filelock",
}
LAYERS = {  # what a file there may import of its own package
    "reid/config.py": set(),
    "reid/schedules.py": {"config"},
    "reid/checkpoint.py": set(),
    "reid/losses.py": {"config"},
    "reid/distributed.py": set(),
    "reid/evaluation": {"evaluation", "config"},
    "reid/parts": {"parts", "config", "distributed"},
    "reid/data": {"data", "config", "distributed"},
    "reid/methods": {"methods", "parts", "losses", "config", "distributed"},
    "pipeline/planning": {"planning"},
    "pipeline/storage": {"storage", "planning"},
    "pipeline/running": {"running", "storage", "planning"},
    "pipeline/mlflow_view": {"mlflow_view", "storage", "planning"},
    "pipeline/drawing": {"drawing", "planning"},
    "pipeline/exports": {"exports", "running", "storage", "drawing", "planning"},
    "pipeline/reporting": {"reporting", "exports", "drawing", "planning"},
    "pipeline/commands": {
        *("commands", "report", "reporting", "exports", "drawing", "mlflow_view", "running", "storage", "planning"),
    },
}
STAGES = {"prepare", "split", "sweep", "report"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("reid"), ids=lambda path: str(path.relative_to(ROOT)))
def test_reid_knows_nothing_of_orchestration(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & ORCHESTRATION


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_dependencies_point_one_way(layer: str) -> None:
    package = layer.partition("/")[0]
    for path in [ROOT / layer] if layer.endswith(".py") else sources(layer):
        inner = {name.split(".")[1] for name in imported(path) if name.startswith(f"{package}.")}
        assert inner <= LAYERS[layer], f"{path.relative_to(ROOT)} imports {inner - LAYERS[layer]}"


def test_a_method_imports_no_other_method() -> None:
    for path in sources("reid/methods"):
        inner = {name.split(".")[2] for name in imported(path) if name.startswith("reid.methods.")}
        assert inner <= {"base"}, f"{path.name} imports {inner}"


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_do_not_import_each_other(stage: str) -> None:
    inner = {name.split(".")[1] for name in imported(ROOT / f"pipeline/{stage}.py") if name.startswith("pipeline.")}
    assert not inner & (STAGES - {stage})


def test_only_tracking_and_publish_import_mlflow() -> None:
    importers = {path.name for path in sources("pipeline") if any(n.split(".")[0] == "mlflow" for n in imported(path))}
    assert importers == {"tracking.py", "publish.py"}


def test_reid_imports_without_the_pipeline_s_libraries() -> None:
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(ORCHESTRATION))
    modules = ["reid.train", *(f"reid.methods.{path.stem}" for path in sources("reid/methods") if path.stem[0] != "_")]
    code = f"import sys; {hidden}; import reid, {', '.join(modules)}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


TRAIN = """
import numpy as np, pandas as pd
from dataclasses import replace
from reid import methods
from reid.config import Augment, Recipe, Sampler, Schedule, TrialConfig
from reid.data.dataset import ReidData
from reid.data.split import make_split
from reid.train import train
parts = [("train", 1), ("train", 2), ("train", 3), ("train", 4), ("query", 5), ("gallery", 5), ("gallery", 6)]
rows = [{"split": part, "identity": who, "camera": 1 + (part == "query")} for part, who in parts for _ in range(2)]
table = pd.DataFrame(rows + [{**row, "camera": 3} for row in rows if row["split"] == "train"])
images = np.random.default_rng(0).integers(0, 255, (len(table), 64, 32, 3), dtype=np.uint8)
splits = make_split(table, val_fraction=0.5, seed=0)
data = ReidData("x", images, table["identity"].to_numpy(), table["camera"].to_numpy(), splits, "0")
recipe = Recipe(backbone="resnet10_w16", weights=None, image_size=(64, 32), sampler=Sampler(identities=2, images=2),
                augment=Augment(), schedule=Schedule(epochs=1))
config = TrialConfig(method="bdb", model=methods.config("bdb"), recipe=recipe)
assert 0 < train(config, data, print).metrics["mAP"] <= 1
"""


def test_a_trial_trains_without_the_pipeline_s_libraries() -> None:
    hidden = "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(ORCHESTRATION))
    subprocess.run([sys.executable, "-W", "error", "-c", f"import sys; {hidden}\n{TRAIN}"], check=True, cwd=ROOT)


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": _body_lines(node)
        for folder in ("reid", "pipeline")
        for path in sources(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert not {name: length for name, length in lengths.items() if length > 50}
    assert sorted(lengths.values())[len(lengths) // 2] <= 10


def test_files_are_short() -> None:
    long = {
        str(path): len(path.read_text().splitlines()) for folder in ("reid", "pipeline") for path in sources(folder)
    }
    assert not {name: length for name, length in long.items() if length > 400}


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0
