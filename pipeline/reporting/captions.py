"""The words around a table: what its numbers rest on, what a reader must know, how times and settings are said."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.planning.words import counted
from pipeline.reporting.tables import DASH, Comparison, Group, Panel, Table
from reid.config import flatten


def heading(group: Group) -> str:
    """What stands over a group of columns."""
    if group.kind == "difference":
        return f"{group.title}, difference"
    if group.kind == "published":
        return f"{group.title}, published" + (" (n.c.)" if group.not_comparable else "")
    return group.title


def facts(table: Table) -> list[tuple[str, str]]:
    """What the numbers rest on: protocol, training size and seeds of ours, and where the published ones are printed."""
    panels = [panel for panel in table.panels if panel.done] or list(table.panels)
    found = []
    if panels:
        recipes = [(panel.label, panel.sample.config["recipe"]) for panel in panels]
        size = [
            _spread((label, str(recipe["backbone"])) for label, recipe in recipes),
            _spread((label, "{} × {} pixels".format(*recipe["image_size"])) for label, recipe in recipes),
            _spread((label, f"{recipe['schedule']['epochs']} epochs") for label, recipe in recipes),
            _spread((label, recipe["precision"]) for label, recipe in recipes),
        ]
        found = [
            ("Protocol", _spread((panel.label, protocol_words(panel.sample.protocol)) for panel in panels)),
            ("Training", "; ".join(size)),
            ("Seeds", ", ".join(str(seed) for seed in sorted({run.seed for panel in panels for run in panel.runs}))),
        ]
    return found + _source(table)


def notes(table: Table) -> list[str]:
    """What a reader must know: what does not compare, which numbers lack seeds and why, which are doubtful in print."""
    found = [
        f"n.c.: not comparable ({group.not_comparable}), so no difference is given."
        for group in table.groups
        if group.not_comparable
    ]
    if any(group.kind == "difference" for group in table.groups):
        found.append(f"Difference: ours minus published{', in points' * (table.experiment.kind != 'statistics')}.")
    withdrawn = dict.fromkeys(notice for group in table.groups for notice in group.withdrawn)
    return [*found, *_significance(table), *withdrawn, *_lacking(table), *_doubts(table)]


def title(table: Table) -> str:
    """The experiment's title, after the paper's own table where it repeats just one."""
    sources = table.printed.sources if table.printed else ()
    return f"{sources[0]}: {table.experiment.title}" if len(sources) == 1 else table.experiment.title


def summary(table: Table) -> str:
    """The state of a table in a few words: rows of ours, trials that have a number."""
    if table.experiment.kind == "statistics":
        return f"{sum(row.ours for row in table.rows)} of {len(table.rows)} data sets counted"
    runs = [run for panel in table.panels for run in panel.runs]
    done = sum(len(panel.done) for panel in table.panels)
    searched = sum(len(entry.trials) for entry in (table.experiment.search or {}).values())
    found = f"{sum(row.ours for row in table.rows)} rows of ours, {done} of {len(runs)} trials done"
    return found + (f", a search of {searched} more" if searched else "")


def _significance(table: Table) -> list[str]:
    """What the triangles say, what they do not say, and which cells could not be tested."""
    tested = [cell.comparison for row in table.rows for cell in row.cells if cell.comparison]
    found = [_claim(table.experiment.reference, tested)] if tested else []
    untested: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for (group, metric), cell in zip(table.columns(), row.cells, strict=True):
            if cell.untested:
                untested.setdefault(cell.untested, {})[f"{row.label} ({group.title}, {metric})"] = None
    return found + [
        f"Not tested against the reference row: {', '.join(cells)}: {why}." for why, cells in untested.items()
    ]


def _claim(reference: str, tested: Sequence[Comparison]) -> str:
    """What was tested, and of what it speaks."""
    methods, networks = (any(one.over_seeds == over for one in tested) for over in (True, False))
    marks = " or ".join(["▲ ▼"] * methods + ["△ ▽"] * networks)
    none = "" if any(one.significant for one in tested) else " No row is."
    said = [
        f"{marks}: above or below {reference}, significant at 5 % by Holm's correction over the "
        f"{counted(len(tested), 'comparison')} of this table.{none} Compared are the values of the same queries, "
        "identities drawn anew."
    ]
    said += ["▲ ▼ speak of the methods: the seeds' own spread is in them."] * methods
    said += ["△ ▽ have one seed: they speak of these trained networks and say nothing of the methods."] * networks
    return " ".join(said)


def comparison_words(found: Comparison) -> list[str]:
    """A comparison in full: what was found, and how."""
    verdict = "significant at 5 %" if found.significant else "not significant at 5 %"
    claim = (
        "the seeds' own spread is in it: it speaks of the methods"
        if found.over_seeds
        else "of one seed: it speaks of these trained networks, not of the methods"
    )
    return [
        f"significance: {found.difference:+.2f} points against {found.reference}, "
        f"95 % interval {found.low:+.2f} to {found.high:+.2f}",
        f"  p = {found.p:.2g}, {found.corrected:.2g} by Holm's correction over the table: {verdict}",
        f"  {found.num_queries:,} queries of {found.num_identities:,} identities, drawn anew by identity; {claim}",
    ]


def _lacking(table: Table) -> list[str]:
    """Why cells of ours have fewer seeds than were declared, or are a dash."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for row in table.rows:
        for (group, _), cell in zip(table.columns(), row.cells, strict=True):
            if cell.kind == "ours" and cell.reason:
                mark = "*" if cell.lacking else DASH
                rows.setdefault((mark, cell.reason), {})[f"{row.label} ({group.title})"] = None
    return [f"{mark} {', '.join(labels)}: {reason}." for (mark, reason), labels in rows.items()]


def _doubts(table: Table) -> list[str]:
    return [
        f"† {row.label}, {group.title}, {metric} {cell.text}: {cell.reason}."
        for row in table.rows
        for (group, metric), cell in zip(table.columns(), row.cells, strict=True)
        if cell.doubtful
    ]


def _source(table: Table) -> list[tuple[str, str]]:
    shown = [group.title for group in table.groups if group.kind == "published"]
    if table.printed is None or not shown:
        return []
    if table.experiment.kind == "statistics":
        return [("Published", "; ".join(table.printed.sources))]
    protocols = dict.fromkeys(protocol for title in shown for protocol in table.printed.protocols(title) if protocol)
    return [("Published", "; ".join(table.printed.sources) + (f" ({'; '.join(protocols)})" if protocols else ""))]


def _spread(values: Iterable[tuple[str, str]]) -> str:
    """One value where all rows agree, else every value with its rows."""
    rows: dict[str, dict[str, None]] = {}
    for label, value in values:
        rows.setdefault(value, {})[label] = None
    if len(rows) == 1:
        return next(iter(rows))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in rows.items())


_WORDS: dict[tuple[str, str], str] = {
    ("distance", '"euclidean"'): "Euclidean distance",
    ("distance", '"cosine"'): "cosine distance",
    ("normalise", "true"): "features of unit length",
    ("normalise", "false"): "features not normalised",
    ("flip", "true"): "features averaged over image and mirror",
    ("flip", "false"): "no flip averaging",
    ("rule", '"cross_camera"'): "same-camera images of the query's identity dropped",
    ("rule", '"query_gallery"'): "queries against a gallery, cameras not looked at",
    ("rule", '"leave_one_out"'): "every image against all the others",
    ("rule", '"one_shot"'): "one drawn image of each identity as the gallery",
    ("ap", '"hits"'): "AP as the mean precision at the hits",
    ("ap", '"trapezoid"'): "AP by the trapezoid rule",
    ("ap", '"cut50"'): "AP cut at rank 50",
    ("rerank", "true"): "re-ranked by k-reciprocal neighbours",
    ("rerank", "false"): "not re-ranked",
    ("ties", '"expected"'): "ties in expectation",
    ("ties", '"pessimistic"'): "ties against us",
}


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """A protocol in words; a field without words is printed as it is, so that none is left out."""
    order = [field for field, _ in _WORDS]
    idle = {"draws", "draw_seed"} if protocol.get("rule") != "one_shot" else set()  # nothing is drawn elsewhere
    idle |= {"rerank_k1", "rerank_k2", "rerank_weight"} if not protocol.get("rerank") else set()
    fields = sorted(protocol.keys() - idle, key=lambda field: (order.index(field) if field in order else 99, field))
    values = [(field, json.dumps(protocol[field])) for field in fields]
    return "; ".join(_WORDS.get((field, value)) or f"{field} {value.strip('[]')}" for field, value in values)


def when(time: str) -> str:
    """An ISO time in UTC to the minute: `2026-03-01 14:05 UTC`."""
    return f"{time[:10]} {time[11:16]} UTC"


def duration(seconds: float) -> str:
    """A time as a reader says it: 42 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def differences(panel: Panel) -> list[tuple[str, str, str]]:
    """Where a row's configuration differs from the first row's: dotted path, value there, value here."""
    before, after = dict(flatten(panel.first.config)), dict(flatten(panel.sample.config))
    pairs = [(path, _value(before, path), _value(after, path)) for path in {**before, **after} if path != "seed"]
    return [(path, there, here) for path, there, here in pairs if there != here]


def _value(flat: Mapping[str, Any], path: str) -> str:
    return json.dumps(flat[path], ensure_ascii=False) if path in flat else DASH


def plain(value: object) -> str:
    """A setting's value as JSON, without the rounding errors of its arithmetic."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def complete(panel: Panel) -> str:
    """The whole configuration of a row as JSON, without the seed."""
    config = {name: value for name, value in panel.sample.config.items() if name != "seed"}
    return json.dumps(config, indent=1, ensure_ascii=False)
