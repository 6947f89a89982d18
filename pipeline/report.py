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

from pipeline.drawing import canvas, figures, raster
from pipeline.exports import albums, curves, queries
from pipeline.exports.curves import Curves
from pipeline.exports.queries import Scores
from pipeline.exports.results import STATUSES, Experiment, PlanFile, Run, read_plan, read_runs
from pipeline.planning import figure_kinds, published
from pipeline.planning.metrics import SCORES
from pipeline.planning.published import PublishedTable
from pipeline.reporting import (
    captions,
    evidence,
    experiment_figures,
    inventory,
    pictures,
    render,
    search_report,
    significance,
    tables,
)
from pipeline.reporting.search_report import SearchReport
from pipeline.reporting.tables import Cell, Group, Panel, Row, Table

GENERATED = Path("reports") / "generated"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a report is made from: experiments, trials by key, printed tables by experiment, values of the queries.

    `recorded`: what was recorded by epoch. `stated`: the published files that figures take numbers from, by stem.
    """

    plan: PlanFile
    runs: Mapping[str, Run]
    printed: Mapping[str, PublishedTable]
    scores: Scores
    recorded: Curves
    stated: Mapping[str, PublishedTable]
    galleries: Sequence[render.Gallery] = ()


def run(root: Path) -> None:
    """Read `results/` and `reports/published/` under `root`, write `reports/generated/` anew.

    Raises:
        FileNotFoundError: the sweep has left nothing yet.
        ValueError: the plan, the trials and the published tables do not fit together.
    """
    _save(root / GENERATED, build(read(root)))


def read(root: Path) -> Inputs:
    """What the sweep has left under `root`, and the published tables beside it; raises as `run`."""
    plan = read_plan(root / "results" / "plan.json")
    stems = {stem for experiment in plan.experiments for stem in figure_kinds.stems(experiment.figure)}
    return Inputs(
        plan=plan,
        runs=read_runs(root / "results" / "trials.parquet"),
        printed={
            experiment.name: published.load(root / "reports" / "published", experiment.published)
            for experiment in plan.experiments
            if experiment.published
        },
        scores=queries.read(root / "results"),
        recorded=Curves.load(root / "results" / curves.FILE),
        stated={stem: published.load(root / "reports" / "published", stem) for stem in sorted(stems)},
        galleries=_galleries(root / "results" / "pictures"),
    )


def _galleries(folder: Path) -> list[render.Gallery]:
    return [render.Gallery(album=album, plates=pictures.plates(album, folder)) for album in albums.read(folder)]


def table_of(inputs: Inputs, experiment: Experiment) -> Table:
    """One table with its comparisons."""
    if experiment.kind == "statistics":
        return inventory.table(experiment, datasets=inputs.plan.datasets, printed=inputs.printed.get(experiment.name))
    columns = inputs.plan.datasets | inputs.plan.transfers
    printed = inputs.printed.get(experiment.name)
    return significance.compared(
        tables.build(experiment, datasets=columns, runs=inputs.runs, printed=printed), inputs.scores
    )


def build(inputs: Inputs) -> dict[str, str | bytes]:
    """Every file of the report: its path below `reports/generated`, and its content."""
    files: dict[str, str | bytes] = {}
    plan, runs = inputs.plan, inputs.runs
    sections, metrics = [], {}
    for experiment in plan.experiments:
        table = table_of(inputs, experiment)
        own = experiment_figures.build(table, inputs.recorded, inputs.stated)
        learning = experiment_figures.learning(table, inputs.recorded)
        dots = {} if experiment.figure else dot_plots(table)
        searches = [
            search_report.build(experiment, key, title=plan.datasets[key], runs=runs, recorded=inputs.recorded)
            for key in experiment.search or {}
        ]
        files |= _files(table, searches)
        drawings = [*own, *learning, *(drawing for found in searches for drawing in found.figures)]
        drawn = {drawing.name: drawing.svg for drawing in drawings}
        for name, svg in {**dots, **drawn}.items():
            files |= {f"figures/{name}.svg": canvas.standalone(svg), f"figures/{name}.png": raster.png(svg)}
        behind = evidence.of(table, plan, runs)
        sections.append(
            render.Section(
                table=table,
                evidence=behind,
                words=experiment_figures.words(table),
                own=own,
                figures=dots,
                learning=learning,
                searches=tuple(searches),
            )
        )
        metrics[experiment.name] = printed_metrics(table)
    for gallery in inputs.galleries:
        files |= _gallery_files(gallery)
    page = render.Page(
        header=tuple(header(plan, runs)),
        ui=plan.mlflow_ui,
        runs=runs,
        sections=tuple(sections),
        galleries=tuple(inputs.galleries),
    )
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
        ("Latest result", captions.when(max(run.finished for run in ended)) if ended else "none yet"),
        ("Commit", ", ".join(commits) or "none yet"),
        (
            "Training time",
            ", ".join(f"{captions.duration(time)} on {name}" for name, time in hours.items()) or "none yet",
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
        if group.kind == "ours" and metric in SCORES and cells:
            name = figures.file_stem(f"{table.experiment.name}-{group.dataset}-{metric}")
            dots = [
                _dot(row, cell, panels[cell.panel or 0], metric, _published(table, row, group, metric))
                for row, cell in cells
            ]
            found[name] = figures.dot_plot(dots, title=f"{metric} on {group.title}, percent")
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
    }
    found |= {f"plots/tables/{stem}.csv": _table_plot(table)} if table.panels else {}
    return found | ({f"plots/searches/{stem}.csv": _search_plot(searches)} if searches else {})


def _gallery_files(gallery: render.Gallery) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {
        f"{gallery.album.stem}.md": pictures.markdown(gallery.album, gallery.plates, escape=render.escape_markdown)
    }
    for plate in gallery.plates:
        if plate.svg:
            found[f"figures/{plate.name}.svg"] = canvas.standalone(plate.svg)
            found[f"figures/{plate.name}.png"] = plate.png
    return found


def _table_plot(table: Table) -> str:
    """For `dvc plots`: one line for each row and data set, with every metric measured there, in percent."""
    several = len({panel.dataset for panel in table.panels}) > 1
    lines, done = [], [panel for panel in table.panels if panel.done]
    names = [name for name in SCORES if any(panel.values(name) for panel in done)]
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


def _save(folder: Path, files: Mapping[str, str | bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
