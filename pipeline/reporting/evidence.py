"""Everything behind the cells of one row on one data set: one object for the page, for `why` and for its JSON."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.exports.queries import PER_QUERY
from pipeline.exports.results import PlanFile, Run
from pipeline.planning.published import Printed
from pipeline.reporting import captions, links
from pipeline.reporting.tables import Cell, Panel, Table


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was kept from others for some trials. `without`: those of them that left no record of their time."""

    trials: int
    seconds: float
    cpu_hours: float
    gpu_hours: float
    without: int

    @property
    def words(self) -> str:
        """`3 trials, 5 min: 0.08 CPU-hours`, and GPU-hours where there are any."""
        hours = f"{self.gpu_hours:.3g} GPU-hours and " * bool(self.gpu_hours) + f"{self.cpu_hours:.3g} CPU-hours"
        said = f"{self.trials} trial{'s' * (self.trials != 1)}, {captions.duration(self.seconds)}: {hours}"
        return said + (f" ({self.without} left no record of their time)" if self.without else "")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a row's numbers on one data set rest on.

    `cells` and `published`: by metric, ours and the printed counterpart on the data set named `published_on`.
    `trained`: the cost of the row's own trials, and of those whose networks they score. `searched`: of all trials of
    the search that found the setting, None where none did. `changes`: path, value in the first row and value here.
    """

    table: str
    row: str
    column: str
    panel: Panel
    cells: Mapping[str, Cell]
    published_on: str
    published: Mapping[str, Printed]
    protocol: str
    changes: tuple[tuple[str, str, str], ...]
    trained: Cost
    searched: Cost | None
    store: str
    ui: str

    @property
    def is_first(self) -> bool:
        """Whether it is the row that the others' configurations are shown against."""
        return self.panel.first.key == self.panel.runs[0].key

    def link(self, run: Run) -> str:
        """The address of a run in MLflow; empty where it is not known."""
        return links.run_url(self.ui, run.experiment_id, run.run_id) if run.run_id else ""

    @property
    def comparing(self) -> str:
        """The address of MLflow's page that shows the runs side by side; empty where none is known."""
        known = [run for run in self.panel.runs if run.run_id]
        ids = [run.run_id for run in known]
        return links.runs_url(self.ui, known[0].experiment_id, ids) if known else ""

    def values(self, run: Run) -> dict[str, float | None]:
        """A run's value of every metric of the table, as a fraction; None where it has none."""
        done = run.status == "done"
        return {metric: self.panel.value(run, metric) if done else None for metric in self.cells}

    def source(self, run: Run) -> str:
        """Where the values of a run's queries are."""
        line = f"{self.panel.embedding} " * bool(self.panel.embedding)
        return f"{self.store}/{run.key}/per_query.npz; results/{PER_QUERY}, {line}{run.key}"

    def facts(self, metric: str) -> dict[str, Any]:
        """All of it for one metric, as JSON types."""
        cell, printed = self.cells[metric], self.published.get(metric)
        return {
            "table": self.table,
            "row": self.row,
            "column": f"{self.column}: {metric}",
            "printed": {"mean": cell.text, "std": cell.std, "seeds": cell.n, "declared": cell.declared},
            "lacking": cell.reason,
            "runs": [self._run(run, metric) for run in self.panel.runs],
            "protocol": dict(self.panel.sample.protocol),
            "protocol_words": self.protocol,
            "configuration_against_first_row": [
                {"path": path, "first": there, "here": here} for path, there, here in self.changes
            ],
            "cost": {
                "trained": dataclasses.asdict(self.trained),
                "searched": dataclasses.asdict(self.searched) if self.searched else None,
            },
            "published": dataclasses.asdict(printed) | {"shown_for": self.published_on} if printed else None,
            "comparison": dataclasses.asdict(cell.comparison) if cell.comparison else None,
            "untested": cell.untested,
            "mlflow": self.comparing,
        }

    def _run(self, run: Run, metric: str) -> dict[str, Any]:
        fields = ("key", "seed", "status", "reason", "commit", "dirty", "data_digest", "code_digest", "device", "torch")
        return {
            **{name: getattr(run, name) for name in fields},
            "value": self.values(run)[metric],
            "per_query": self.source(run) if run.status == "done" else "",
            "seconds": run.seconds,
            "finished": run.finished,
            "mlflow": self.link(run),
        }


def of(table: Table, plan: PlanFile, runs: Mapping[str, Run]) -> dict[int, Evidence]:
    """The evidence of every panel of a table, by its number.

    Args:
        table: with its comparisons.
        plan: what was declared.
        runs: every declared trial by its key.
    """
    return {panel.number: _evidence(table, panel, plan, runs) for panel in table.panels}


def _evidence(table: Table, panel: Panel, plan: PlanFile, runs: Mapping[str, Run]) -> Evidence:
    entry = next(entry for entry in table.experiment.rows if entry.label == panel.label)
    row = next(row for row in table.rows if row.label == panel.label)
    columns = list(zip(table.columns(), row.cells, strict=True))
    cells = {
        metric: cell for (group, metric), cell in columns if (group.kind, group.dataset) == ("ours", panel.dataset)
    }
    shown = [group for group in table.groups if group.kind == "published"]
    group = next((group for group in shown if group.title == panel.title), shown[0] if shown else None)
    search = (table.experiment.search or {}).get(panel.dataset)
    return Evidence(
        table=table.experiment.name,
        row=panel.label,
        column=panel.title,
        panel=panel,
        cells=cells,
        published_on=group.title if group else "",
        published=table.counterparts(entry, group) if group else {},
        protocol=captions.protocol_words(panel.sample.protocol),
        changes=tuple(captions.differences(panel)),
        trained=_cost(_with_sources(panel.runs, runs)),
        searched=_cost(runs[trial.key] for trial in search.trials) if search and entry.winner else None,
        store=plan.store,
        ui=plan.mlflow_ui,
    )


def _with_sources(own: Iterable[Run], runs: Mapping[str, Run]) -> list[Run]:
    """The trials, and before each that scores another one's network, that one."""
    return [run for one in own for run in ((runs[one.source], one) if one.source in runs else (one,))]


def _cost(runs: Iterable[Run]) -> Cost:
    listed = list({run.key: run for run in runs}.values())
    return Cost(
        trials=len(listed),
        seconds=sum(run.seconds for run in listed),
        cpu_hours=sum(run.seconds * run.cpus for run in listed) / 3600,
        gpu_hours=sum(run.seconds * run.gpus for run in listed) / 3600,
        without=sum(not run.seconds for run in listed),
    )
