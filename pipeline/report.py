"""The report stage: what the sweep left becomes tables, figures and one page. Needs no network, GPU, Ray or MLflow.

Nothing here reads a clock: the same trials give the same files, byte for byte.
"""

import csv
import io
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pydantic

from pipeline import figures, published, render, search_report, tables
from pipeline.experiments import Metric
from pipeline.published import PublishedTable
from pipeline.search_report import SearchReport
from pipeline.tables import Cell, Experiment, Group, Panel, Row, Run, Table

METRICS: tuple[str, ...] = get_args(Metric)
STATUSES = ("done", "pruned", "failed", "missing")
_TEXTS = {name for name, field in Run.__dataclass_fields__.items() if field.type is str} | {"status"}


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """`results/plan.json`: what was declared."""

    profile: str
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


def run(root: Path) -> None:
    """Read `results/` and `reports/published/` under `root`, write `reports/generated/` anew.

    Raises:
        FileNotFoundError: the sweep has left nothing yet.
        ValueError: the plan, the trials and the published tables do not fit together.
    """
    plan = read_plan(root / "results" / "plan.json")
    runs = read_runs(root / "results" / "trials.parquet")
    printed = {
        experiment.name: published.load(root / "reports" / "published", experiment.published)
        for experiment in plan.experiments
        if experiment.published
    }
    _save(root / "reports" / "generated", build(plan, runs, printed))


def read_plan(path: Path) -> PlanFile:
    """Read the declared experiments.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field lacks or has a wrong type; the message names its path.
    """
    try:
        return pydantic.TypeAdapter(PlanFile).validate_json(_present(path).read_bytes())
    except pydantic.ValidationError as error:
        where = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {where}") from error


def read_runs(path: Path) -> dict[str, Run]:
    """Read the table of trials, by key.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column lacks, two lines have one key, or a status is unknown.
    """
    frame = pd.read_parquet(_present(path))
    wanted = {*Run.__dataclass_fields__} - {"metrics"}
    if absent := sorted(wanted - {*frame.columns}):
        raise ValueError(f"{path}: no column {', '.join(absent)}; run the sweep stage again")
    if not frame["key"].is_unique:
        raise ValueError(f"{path}: more than one line for {', '.join(frame['key'][frame['key'].duplicated()])}")
    if strange := sorted({*map(str, frame["status"])} - {*STATUSES}):
        raise ValueError(f"{path}: unknown status {', '.join(strange)}; expected {', '.join(STATUSES)}")
    runs = [as_run(record) for record in frame.to_dict("records")]
    return {run.key: run for run in runs}


def _present(path: Path) -> Path:
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
            if str(name).rpartition("/")[2] in METRICS and not pd.isna(value)
        },
        protocol=json.loads(record["protocol"]),
        config=json.loads(record["config"]),
        seconds=0.0 if pd.isna(record["seconds"]) else float(record["seconds"]),
        dirty=not pd.isna(record["dirty"]) and bool(record["dirty"]),
    )


def build(plan: PlanFile, runs: Mapping[str, Run], printed: Mapping[str, PublishedTable]) -> dict[str, str]:
    """Every file of the report: its path below `reports/generated`, and its text."""
    files: dict[str, str] = {}
    sections, metrics = [], {}
    for experiment in plan.experiments:
        columns = plan.datasets | plan.transfers
        table = tables.build(experiment, datasets=columns, runs=runs, printed=printed.get(experiment.name))
        dots = dot_plots(table)
        searches = [
            search_report.build(experiment, key, title=plan.datasets[key], runs=runs) for key in experiment.search or {}
        ]
        files |= _files(table, searches)
        drawn = {drawing.name: drawing.svg for found in searches for drawing in found.figures}
        files |= {f"figures/{name}.svg": figures.standalone(svg) for name, svg in {**dots, **drawn}.items()}
        sections.append(render.Section(table=table, figures=dots, searches=tuple(searches)))
        metrics[experiment.name] = printed_metrics(table)
    page = render.Page(header=tuple(header(plan, runs)), ui=plan.mlflow_ui, runs=runs, sections=tuple(sections))
    files["index.html"] = render.html(page)
    files["metrics.json"] = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
    return files


def header(plan: PlanFile, runs: Mapping[str, Run]) -> list[tuple[str, str]]:
    """The facts at the top of the page: what it covers, when and from which commit, how many trials, how long."""
    ended = [run for run in runs.values() if run.finished]
    status = [f"{sum(run.status == name for run in runs.values())} {name}" for name in STATUSES]
    hours: dict[str, float] = {}
    for run in ended:
        hours[run.device] = hours.get(run.device, 0.0) + run.seconds
    commits = dict.fromkeys(
        (run.commit[:10] or "no commit") + (" + uncommitted changes" if run.dirty else "") for run in ended
    )
    return [
        ("Trials", f"{len(runs)} declared = {' + '.join(status)}"),
        ("Data sets", ", ".join(plan.datasets.values())),
        ("Profile", plan.profile),
        ("Latest result", render.when(max(run.finished for run in ended)) if ended else "none yet"),
        ("Commit", ", ".join(commits) or "none yet"),
        (
            "Training time",
            ", ".join(f"{render.duration(time)} on {name}" for name, time in hours.items()) or "none yet",
        ),
    ]


def printed_metrics(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """Our numbers as the table prints them, in percent: row, data set, metric and metric_std."""
    titles = {group.dataset: group.title for group in table.groups}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.rows:
        for (group, metric), cell in zip(table.columns(), row.cells, strict=True):
            if cell.kind == "ours" and cell.value is not None:
                numbers = found.setdefault(row.label, {}).setdefault(titles[group.dataset], {})
                numbers[metric] = float(cell.text)
                if cell.std:
                    numbers[f"{metric}_std"] = float(cell.std)
    return found


def dot_plots(table: Table) -> dict[str, str]:
    """One figure for each column of ours that has a number, as SVG by the figure's name."""
    panels = {panel.number: panel for panel in table.panels}
    found = {}
    for place, (group, metric) in enumerate(table.columns()):
        cells = [(row, row.cells[place]) for row in table.rows if row.cells[place].value is not None]
        if group.kind == "ours" and cells:
            name = figures.file_stem(f"{table.experiment.name}-{group.dataset}-{metric}")
            dots = [
                _dot(row, cell, panels[cell.panel or 0], metric, _published(table, row, group, metric))
                for row, cell in cells
            ]
            found[name] = figures.dot_plot(dots, name=name, title=f"{metric} on {group.title}, percent")
    return found


def _dot(row: Row, cell: Cell, panel: Panel, metric: str, published: float | None) -> figures.Dot:
    assert cell.value is not None
    return figures.Dot(
        label=row.label,
        mean=cell.value,
        std=float(cell.std) if cell.std else None,
        seeds=tuple(100 * value for value in panel.values(metric)),
        published=published,
    )


def _published(table: Table, row: Row, ours: Group, metric: str) -> float | None:
    """The printed number of a row on the same data set, where the two compare."""
    for (group, name), cell in zip(table.columns(), row.cells, strict=True):
        if (group.kind, group.title, name, group.not_comparable) == ("published", ours.title, metric, ""):
            return cell.value
    return None


def _files(table: Table, searches: Sequence[SearchReport]) -> dict[str, str]:
    stem = figures.file_stem(table.experiment.name)
    found = {
        f"{stem}.md": render.markdown(table),
        f"{stem}.tex": render.latex(table),
        f"{stem}.csv": render.csv_text(table),
        f"plots/tables/{stem}.csv": _table_plot(table),
    }
    return found | ({f"plots/searches/{stem}.csv": _search_plot(searches)} if searches else {})


def _table_plot(table: Table) -> str:
    """For `dvc plots`: one line for each row and data set, with every metric measured there, in percent."""
    several = len({panel.dataset for panel in table.panels}) > 1
    lines, done = [], [panel for panel in table.panels if panel.done]
    names = [name for name in METRICS if any(panel.values(name) for panel in done)]
    for panel in done:
        label = f"{panel.label} ({panel.title})" if several else panel.label
        measured = [panel.values(name) for name in names]
        means = [f"{100 * statistics.fmean(values):.2f}" if values else "" for values in measured]
        lines.append([label, panel.title, *means])
    return _csv(["row", "dataset", *names], lines)


def _search_plot(searches: Sequence[SearchReport]) -> str:
    """For `dvc plots`: one line for each trial and parameter, with the first objective in percent."""
    lines = []
    for search in searches:
        for trial in search.entry.trials:
            objective = f"{100 * trial.values[0]:.2f}" if trial.values else ""
            for parameter, value in trial.params.items():
                lines.append([search.title, str(trial.number), parameter, str(value), objective, trial.status])
    return _csv(["dataset", "trial", "parameter", "value", "objective", "status"], lines)


def _csv(head: list[str], lines: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([head, *lines])
    return buffer.getvalue()


def _save(folder: Path, files: Mapping[str, str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
