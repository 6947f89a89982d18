"""The tables as Markdown, LaTeX, CSV and one HTML page.

Every format escapes by default: whatever a template prints goes through the escape of its format unless it is marked as
finished markup, so a name can never become markup.
"""

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.figures import file_stem
from pipeline.links import run_url, runs_url
from pipeline.search_report import SearchReport, objective_scale, objective_words
from pipeline.tables import DASH, MINUS, Cell, Group, Panel, Run, Table, lacking
from reid.config import flatten

_TEMPLATES = Path(__file__).parent / "templates"
_CSV = ("experiment", "row", "kind", "dataset", "metric", "value", "std", "n", "declared", "mark", "reason", "trials")
_LEGEND = "Ours: mean ± sample standard deviation (n seeds), in percent; best bold, second underlined."


class Finished(str):
    """Text that is markup already and is printed as it is."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One experiment of the page: its table, the figures of the table as SVG, and its searches."""

    table: Table
    figures: Mapping[str, str]
    searches: tuple[SearchReport, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows. `header`: facts for the first screen; `ui`: address of MLflow's pages; `runs` go by key."""

    header: tuple[tuple[str, str], ...]
    ui: str
    runs: Mapping[str, Run]
    sections: tuple[Section, ...]


def markdown(table: Table) -> str:
    """The table for a code host: title, table, notes; padded, so that it reads well as plain text too."""
    return _text("table.md.j2", escape_markdown).render(_context(table), lines=_markdown_lines(table), legend=_LEGEND)


def latex(table: Table) -> str:
    """The table as a float; it needs the packages booktabs and fontenc (T1)."""
    return _text("table.tex.j2", escape_latex).render(_context(table), legend=_LEGEND)


def csv_text(table: Table) -> str:
    """One line a cell, with the numbers as they are printed and the trials they come from."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV)
    panels = {panel.number: panel for panel in table.panels}
    for row in table.rows:
        for (group, metric), cell in zip(table.columns(), row.cells, strict=True):
            value = "" if cell.value is None else cell.text.replace(MINUS, "-")
            keys = [run.key for run in panels[cell.panel].done] if cell.panel is not None else []
            where = [table.experiment.name, row.label, group.kind, group.title, metric]
            counts = [cell.n, cell.declared] if group.kind == "ours" else ["", ""]
            reason = "; ".join(filter(None, [cell.reason, group.not_comparable]))
            writer.writerow([*where, value, cell.std, *counts, cell.mark, reason, " ".join(keys)])
    return buffer.getvalue()


def html(page: Page) -> str:
    """The whole page: one file, no request, no script but its own (the policy in its head allows no other)."""
    script, style = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    env = _environment(autoescape=True)
    env.globals.update(run_url=run_url, runs_url=runs_url)
    env.filters.update(
        objective=objective_words,
        scale=objective_scale,
        duration=duration,
        differences=differences,
        complete=complete,
        plain=plain,
    )
    env.filters.update(figure=Markup, markdown=markdown, latex=latex)
    return env.get_template("page.html.j2").render(
        page=page,
        sections=[_context(section.table) | {"section": section} for section in page.sections],
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),
    )


def _context(table: Table) -> dict[str, Any]:
    return {
        "table": table,
        "stem": file_stem(table.experiment.name),
        "facts": facts(table),
        "notes": notes(table),
        "summary": summary(table),
        "title": title(table),
    }


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def _text(template: str, escape: Callable[[str], str]) -> jinja2.Template:
    env = _environment(
        finalize=lambda value: value if isinstance(value, Finished) else escape(str(value)),
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    env.filters.update(cell=_latex_cell, heading=heading, spans=_latex_spans, finished=Finished)
    return env.get_template(template)


# --- cells and escapes ---


def escape_markdown(text: str) -> str:
    """A text as it stands in a line or a table cell of Markdown, GitHub's dialect included."""
    text = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", _one_line(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^(\d+)([.)])|^([-+=])", r"\1\\\2\3", text)


def escape_latex(text: str) -> str:
    """A text as it stands in LaTeX; a letter that pdflatex cannot set is printed as its code point."""
    return "".join(_LATEX.get(letter) or _latex_letter(letter) for letter in _one_line(text))


def _latex_letter(letter: str) -> str:
    return letter if letter < "\u0180" else rf"\texttt{{U+{ord(letter):04X}}}"


def _one_line(text: str) -> str:
    """The text without line breaks and control characters, its spaces single: both formats read meaning into them."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _markdown_cell(cell: Cell) -> str:
    body = f"{cell.text} ± {cell.std}" if cell.std else cell.text
    body = {"best": f"**{body}**", "second": f"<ins>{body}</ins>", "": body}[cell.mark]
    return f"{body} {cell.count}".rstrip() + "\\*" * cell.lacking + "†" * cell.doubtful


def _markdown_lines(table: Table) -> list[Finished]:
    heads = [f"{escape_markdown(heading(group))}: {escape_markdown(metric)}" for group, metric in table.columns()]
    rows = [[escape_markdown(row.label), *map(_markdown_cell, row.cells)] for row in table.rows]
    grid = [["", *heads], *rows]
    widths = [max(len(line[place]) for line in grid) for place in range(len(grid[0]))]
    grid.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return [Finished("| " + " | ".join(map(str.ljust, line, widths)) + " |") for line in grid]


def _latex_cell(cell: Cell) -> Finished:
    text = cell.text.replace(MINUS, "$-$").replace(DASH, "--")
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[cell.mark]
    small = " ".join(filter(None, [rf"$\pm$ {cell.std}" if cell.std else "", cell.count]))
    marks = "*" * cell.lacking + r"\dagger" * cell.doubtful
    return Finished(text + (rf" {{\scriptsize {small}}}" if small else "") + (f"$^{{{marks}}}$" if marks else ""))


def _latex_spans(groups: Iterable[Group]) -> Finished:
    r"""The rules under the headings of the column groups: `\cmidrule(lr){2-3}`."""
    rules, column = [], 2
    for group in groups:
        rules.append(rf"\cmidrule(lr){{{column}-{column + len(group.metrics) - 1}}}")
        column += len(group.metrics)
    return Finished(" ".join(rules))


def heading(group: Group) -> str:
    """What stands over a group of columns."""
    if group.kind == "difference":
        return f"{group.title}, difference"
    if group.kind == "published":
        return f"{group.title}, published" + (" (n.c.)" if group.not_comparable else "")
    return group.title


# --- words under a table ---


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
        found.append("Difference: ours minus published, in points.")
    withdrawn = dict.fromkeys(notice for group in table.groups for notice in group.withdrawn)
    return [*found, *withdrawn, *_lacking(table), *_doubts(table)]


def title(table: Table) -> str:
    """The experiment's title, after the paper's own table where it repeats just one."""
    sources = table.printed.sources if table.printed else ()
    return f"{sources[0]}: {table.experiment.title}" if len(sources) == 1 else table.experiment.title


def summary(table: Table) -> str:
    """The state of a table in a few words: rows of ours, trials that have a number."""
    runs = [run for panel in table.panels for run in panel.runs]
    done = sum(len(panel.done) for panel in table.panels)
    searched = sum(len(entry.trials) for entry in (table.experiment.search or {}).values())
    found = f"{sum(row.ours for row in table.rows)} rows of ours, {done} of {len(runs)} trials done"
    return found + (f", a search of {searched} more" if searched else "")


def _lacking(table: Table) -> list[str]:
    rows: dict[str, list[str]] = {}
    for panel in table.panels:
        if reasons := lacking(panel):
            rows.setdefault("; ".join(reasons), []).append(f"{panel.label} ({panel.title})")
    return [f"* {', '.join(labels)}: {reason}." for reason, labels in rows.items()]


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
    protocols = dict.fromkeys(protocol for title in shown for protocol in table.printed.protocols(title))
    return [("Published", f"{'; '.join(table.printed.sources)} ({'; '.join(protocols)})")]


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


# --- words in the page ---


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


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    # Right after the end of a row these two would be read as its arguments.
    "[": "{[}",
    "*": "{*}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "→": r"\ensuremath{\rightarrow}",
    "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}",
    "λ": r"\ensuremath{\lambda}",
    "−": r"\ensuremath{-}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "†": r"\textdagger{}",
}
