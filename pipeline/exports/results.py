"""What the sweep leaves, as values: the declared experiments of `plan.json` and the lines of `trials.parquet`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
import pydantic

from pipeline.planning.experiments import Kind
from pipeline.planning.figure_kinds import Figure
from pipeline.planning.metrics import COSTS, SCORES
from pipeline.planning.searches import Objective, Space, Value

Content = TypeVar("Content")

MEASURED = SCORES + COSTS  # what a trial has a number of
STATUSES = ("done", "pruned", "failed", "missing")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One declared trial and what became of it; `metrics` lacks what was not measured; scores are fractions.

    `source`: the trial whose network it scores; empty where it trains one. `cpus`, `gpus`: what it was given.
    """

    key: str
    source: str
    dataset: str
    method: str
    seed: int
    evaluate_on: str
    status: Literal["done", "pruned", "failed", "missing"]
    reason: str
    metrics: dict[str, float]
    protocol: dict[str, Any]
    config: dict[str, Any]
    data_digest: str
    code_digest: str
    seconds: float
    cpus: int
    gpus: float
    device: str
    commit: str
    dirty: bool
    torch: str
    finished: str
    run_id: str
    experiment_id: str


@dataclass(frozen=True, kw_only=True)
class RowEntry:
    """A declared row: `method` is None for a method of others, `published_method` empty where no paper has the row.

    `embedding`: which of the method's is ranked; empty for its own. `series`: its line in the figure. `winner`: the row
    reports the best that the experiment's search found (1), the second best (2) and so on; 0: its setting was not
    searched for.
    """

    label: str
    method: str | None
    published_method: str | None
    embedding: str
    series: str
    winner: int
    keys: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class SearchTrial:
    """One point a search asked for; `values`: of the objectives, metrics as fractions; none where it has no number."""

    number: int
    params: dict[str, Value]
    values: list[float]
    status: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Winner:
    """One of the points that a search chose."""

    number: int
    params: dict[str, Value]


@dataclass(frozen=True, kw_only=True)
class SearchEntry:
    """One search on one data set; `winners` are its best, in order, and `over`: it asks for no more trials."""

    objectives: list[Objective]
    space: dict[str, Space]
    trials: list[SearchTrial]
    winners: list[Winner]
    over: bool


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A declared table or search, as `results/plan.json` has it.

    `reference`: the label of the row that the others are compared with; empty if there is none. `counts`: of each data
    set, where the table is of statistics.
    """

    name: str
    kind: Kind
    title: str
    note: str
    reference: str
    metrics: list[str]
    published: str | None
    published_datasets: list[str]
    rows: list[RowEntry]
    search: dict[str, SearchEntry] | None
    figure: Figure | None
    counts: dict[str, dict[str, int]] | None


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """`results/plan.json`: what was declared, and where the trials' records are."""

    profile: str
    store: str
    datasets: dict[str, str]
    transfers: dict[str, str]
    seeds: list[int]
    mlflow_ui: str
    experiments: list[Experiment]

    def __post_init__(self) -> None:
        if not self.mlflow_ui.startswith(("http://", "https://")):
            raise ValueError(
                f"mlflow_ui is {self.mlflow_ui!r}, expected an address that starts with http:// or https://"
            )


_TEXTS = {name for name, field in Run.__dataclass_fields__.items() if field.type is str} | {"status"}


def read_plan(path: Path) -> PlanFile:
    """Read the declared experiments.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field lacks or has a wrong type; the message names its path.
    """
    return validated(pydantic.TypeAdapter(PlanFile), path)


def read_runs(path: Path) -> dict[str, Run]:
    """Read the table of trials, by key.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column lacks, two lines have one key, or a status is unknown.
    """
    frame = pd.read_parquet(present(path))
    wanted = {*Run.__dataclass_fields__} - {"metrics"}
    if absent := sorted(wanted - {*frame.columns}):
        raise ValueError(f"{path}: no column {', '.join(absent)}; run the sweep stage again")
    if not frame["key"].is_unique:
        raise ValueError(f"{path}: more than one line for {', '.join(frame['key'][frame['key'].duplicated()])}")
    if strange := sorted({*map(str, frame["status"])} - {*STATUSES}):
        raise ValueError(f"{path}: unknown status {', '.join(strange)}; expected {', '.join(STATUSES)}")
    runs = [as_run(record) for record in frame.to_dict("records")]
    return {run.key: run for run in runs}


def validated(adapter: pydantic.TypeAdapter[Content], path: Path) -> Content:
    """A JSON file that the sweep stage writes, as what the adapter says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field lacks or has a wrong type; the message names its path.
    """
    try:
        return adapter.validate_json(present(path).read_bytes())
    except pydantic.ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {where}") from error


def present(path: Path) -> Path:
    """The path of a file that the sweep stage writes.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; the sweep stage writes it: dvc repro sweep")
    return path


def as_run(record: Mapping[Any, Any]) -> Run:
    """One line of the table of trials; texts and numbers of a trial without a result may be absent (None or NaN)."""
    texts: dict[str, Any] = {name: "" if pd.isna(record[name]) else str(record[name]) for name in _TEXTS}
    return Run(
        **texts,
        seed=int(record["seed"]),
        metrics={
            name: float(value)
            for name, value in record.items()
            if str(name).rpartition("/")[2] in MEASURED and not pd.isna(value)
        },
        protocol=json.loads(record["protocol"]),
        config=json.loads(record["config"]),
        seconds=0.0 if pd.isna(record["seconds"]) else float(record["seconds"]),
        cpus=int(record["cpus"]),
        gpus=float(record["gpus"]),
        dirty=not pd.isna(record["dirty"]) and bool(record["dirty"]),
    )
