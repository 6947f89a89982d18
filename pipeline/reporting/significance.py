"""Which rows of a table differ from its reference row, by the values of the queries, corrected across the table.

A mark says of two methods that they differ, over the seeds and over the identities that might have been asked for. Of
one seed each it can only say that these two trained networks do, and another mark is used.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.exports.queries import Scores
from pipeline.planning.metrics import SCORES
from pipeline.reporting import resampling
from pipeline.reporting.resampling import DRAWS, Difference
from pipeline.reporting.tables import Cell, Comparison, Panel, Table

ALPHA = 0.05
# Differences that so few identities make may as well be those identities' luck: below, drawing anew says little.
LEAST_IDENTITIES = 10

_Place = tuple[int, int]  # row and column


def compared(table: Table, scores: Scores) -> Table:
    """The table with every cell of ours compared with the reference row's, or with the reason why not."""
    reference = next((row for row in table.rows if row.label == table.experiment.reference), None)
    if reference is None or sum(row.ours for row in table.rows) < 2:
        return table
    found: dict[_Place, Comparison | str] = {}
    for column, (group, metric) in enumerate(table.columns()):
        if group.kind == "ours" and metric in SCORES:
            rows = {place: row.cells[column] for place, row in enumerate(table.rows) if row.cells[column].n}
            base = reference.cells[column]
            others = {place: cell for place, cell in rows.items() if table.rows[place] is not reference}
            answers = _column(table, base, others, metric, scores)
            found |= {(place, column): answer for place, answer in answers.items()}
    return _with(table, _corrected(found))


def _column(
    table: Table, base: Cell, others: Mapping[int, Cell], metric: str, scores: Scores
) -> dict[int, Comparison | str]:
    """What a column says of the rows that have a number in it."""
    if base.panel is None or not base.n:
        return dict.fromkeys(others, "the reference row has no number")
    theirs = table.panels[base.panel]
    against = _values(theirs, metric, scores)
    found: dict[int, Comparison | str] = {}
    pairs: dict[int, tuple[resampling.Floats, resampling.Floats]] = {}
    for place, cell in others.items():
        assert cell.panel is not None
        panel = table.panels[cell.panel]
        values = _values(panel, metric, scores)
        if isinstance(against, str) or isinstance(values, str):
            found[place] = values if isinstance(values, str) else f"{against} (the reference row)"
        elif panel.sample.data_digest != theirs.sample.data_digest or values.shape[1] != against.shape[1]:
            found[place] = "scored on other data than the reference row"
        else:
            pairs[place] = values, against
    identities = scores.whose(theirs.sample)
    if pairs and (identities is None or len(identities) != next(iter(pairs.values()))[0].shape[1]):
        return found | dict.fromkeys(pairs, "whose image each query is, is not on record")
    return found | (_judged(pairs, identities, theirs.label) if identities is not None and pairs else {})


def _values(panel: Panel, metric: str, scores: Scores) -> resampling.Floats | str:
    """The values of the queries of a row, [seeds, Q], or why there are none."""
    lines = [scores.values(run, panel.embedding, metric) for run in panel.done]
    whole = [line for line in lines if line is not None]
    if len(whole) < len(lines):
        return f"{metric} is not on record for each query, or no mean of such values"
    if len({len(line) for line in whole}) > 1:
        return "its seeds were scored on different queries"
    return np.stack(whole)


def _judged(
    pairs: Mapping[int, tuple[resampling.Floats, resampling.Floats]], identities: NDArray[np.int64], reference: str
) -> dict[int, Comparison | str]:
    differences = resampling.compare(list(pairs.values()), identities)
    found: dict[int, Comparison | str] = {}
    for place, one in zip(pairs, differences, strict=True):
        if one.num_differing < LEAST_IDENTITIES:
            found[place] = f"it differs from the reference row on fewer than {LEAST_IDENTITIES} identities"
        else:
            found[place] = _comparison(one, reference)
    return found


def _comparison(one: Difference, reference: str) -> Comparison:
    return Comparison(
        reference=reference,
        difference=100 * one.value,
        low=100 * one.low,
        high=100 * one.high,
        p=one.p,
        corrected=1.0,
        num_queries=one.num_queries,
        num_identities=one.num_identities,
        over_seeds=one.over_seeds,
        significant=False,
    )


def _corrected(found: Mapping[_Place, Comparison | str]) -> dict[_Place, Comparison | str]:
    """The comparisons with p corrected for how many there are (Holm, Scandinavian Journal of Statistics 1979)."""
    tested = {place: one for place, one in found.items() if isinstance(one, Comparison)}
    if len(tested) > ALPHA * (DRAWS + 1):
        reason = f"{len(tested)} comparisons are too many for {DRAWS:,} draws: none could be significant"
        return {**found, **dict.fromkeys(tested, reason)}
    values = holm([one.p for one in tested.values()])
    return {
        **found,
        **{
            place: dataclasses.replace(one, corrected=value, significant=value < ALPHA)
            for (place, one), value in zip(tested.items(), values, strict=True)
        },
    }


def holm(values: Sequence[float]) -> list[float]:
    """The p-values of a family, corrected step by step so that any false rejection stays as likely as one alone."""
    order = np.argsort(values, kind="stable")
    steps = np.asarray(values, np.float64)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]


def _with(table: Table, found: Mapping[_Place, Comparison | str]) -> Table:
    def cell(place: _Place, old: Cell) -> Cell:
        match found.get(place):
            case Comparison() as comparison:
                return dataclasses.replace(old, comparison=comparison)
            case str(reason):
                return dataclasses.replace(old, untested=reason)
        return old

    rows = [
        dataclasses.replace(row, cells=tuple(cell((place, column), old) for column, old in enumerate(row.cells)))
        for place, row in enumerate(table.rows)
    ]
    return dataclasses.replace(table, rows=tuple(rows))
