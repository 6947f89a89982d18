"""`python -m pipeline why`: everything behind one printed number."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import report
from pipeline.planning import metrics
from pipeline.planning.strict import ParamsError, unknown
from pipeline.reporting import captions, evidence
from pipeline.reporting.evidence import Evidence
from pipeline.reporting.tables import Table


def run(root: Path, table: str, row: str, column: str, *, as_json: bool) -> None:
    """Print what a cell of the report rests on.

    Args:
        root: the checkout, with the results of a sweep.
        table: name of the experiment.
        row: label of one of its rows of ours.
        column: `mAP`, or `Market-1501: mAP` where there are several data sets.
        as_json: print JSON.

    Raises:
        ParamsError: there is no such table, row or column; the message names those there are.
    """
    found, metric = find(root, table, row, column)
    if as_json:
        print(json.dumps(found.facts(metric), indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(found, metric)))


def find(root: Path, table: str, row: str, column: str) -> tuple[Evidence, str]:
    """The evidence of a cell, and its metric; raises as `run`."""
    inputs = report.read(root)
    names = [experiment.name for experiment in inputs.plan.experiments]
    if table not in names:
        raise ParamsError([f"table {unknown(table, names)}"])
    built = report.table_of(inputs, inputs.plan.experiments[names.index(table)])
    labels = [item.label for item in built.rows if item.ours]
    if row not in labels:
        raise ParamsError([f"row {unknown(row, labels)}"])
    title, metric = _column(built, column)
    of_row = [item for item in evidence.of(built, inputs.plan, inputs.runs).values() if item.row == row]
    here = next((item for item in of_row if item.column == title), None)
    if here is None:
        raise ParamsError([f"{table}: {row} has no trials on {title} yet"])
    return here, metric


def _column(table: Table, wanted: str) -> tuple[str, str]:
    """Title and metric of a column of ours, named by both, or by the metric alone where it is on one data set."""
    columns = [(group.title, metric) for group, metric in table.columns() if group.kind == "ours"]
    named = {f"{title}: {metric}": (title, metric) for title, metric in columns}
    alone = [found for found in columns if found[1] == wanted]
    if wanted in named or len(alone) == 1:
        return named[wanted] if wanted in named else alone[0]
    raise ParamsError([f"column {unknown(wanted, named)}"])


def lines(found: Evidence, metric: str) -> Iterator[str]:
    """The evidence for people."""
    cell = found.cells[metric]
    std = f" ± {cell.std}" if cell.std else ""
    yield f"{found.table}, {found.row}, {found.column}: {metric} = {cell.text}{std} {cell.count}{cell.arrow}".rstrip()
    if cell.reason:
        yield f"  lacking: {cell.reason}"
    yield "runs"
    for one in found.panel.runs:
        value = found.values(one)[metric]
        number = "no number" if value is None else f"{metrics.shown(metric, value):.4f}"
        reason = f" ({one.status}{': ' + one.reason if one.reason else ''})" if value is None else ""
        yield f"  seed {one.seed}: {number}{reason}, trial {one.key}"
        if value is not None:
            yield f"    commit {one.commit or 'unknown'}{' + changes that no commit holds' * one.dirty}"
            yield f"    data {one.data_digest}, code {one.code_digest}, torch {one.torch}"
            yield f"    {captions.duration(one.seconds)} on {one.device}, finished {captions.when(one.finished)}"
            yield f"    queries: {found.source(one)}"
        if link := found.link(one):
            yield f"    {link}"
    yield f"protocol: {found.protocol}"
    yield from _configuration(found.changes, first=found.is_first)
    yield f"cost: {found.trained.words}"
    if found.searched:
        yield f"  and the search that found the setting: {found.searched.words}"
    yield from _published(found, metric)
    yield from _comparison(found, metric)


def _configuration(changes: Sequence[tuple[str, str, str]], *, first: bool) -> Iterator[str]:
    if first:
        yield "configuration: this is the first row, which the others' are shown against"
        return
    yield "configuration, against the first row:" + ("" if changes else " the same")
    for path, there, here in changes:
        yield f"  {path}: {there} -> {here}"


def _published(found: Evidence, metric: str) -> Iterator[str]:
    printed = found.published.get(metric)
    if printed is None:
        yield "published: no counterpart"
        return
    std = f" ± {printed.std}" if printed.std else ""
    yield f"published: {printed.mean}{std} for {printed.method} on {found.published_on} ({printed.protocol})"
    yield f"  reports/published/{printed.file}, line {printed.line}" + (f": {printed.note}" if printed.note else "")


def _comparison(found: Evidence, metric: str) -> Iterator[str]:
    cell = found.cells[metric]
    if cell.comparison is None:
        yield f"significance: not tested{': ' + cell.untested if cell.untested else ''}"
        return
    yield from captions.comparison_words(cell.comparison)
