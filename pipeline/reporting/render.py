"""The tables as Markdown, LaTeX, CSV and one HTML page.

Every format escapes by default: whatever a template prints goes through the escape of its format unless it is marked as
finished markup, so a name can never become markup.
"""

import base64
import csv
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.drawing.figures import Drawing, file_stem
from pipeline.exports.albums import Album
from pipeline.exports.results import Run
from pipeline.planning.metrics import COSTS, SCORES, printed, shown, words
from pipeline.reporting import captions
from pipeline.reporting.captions import heading
from pipeline.reporting.evidence import Evidence
from pipeline.reporting.links import run_url
from pipeline.reporting.pictures import Plate
from pipeline.reporting.search_report import SearchReport, objective_scale, objective_words
from pipeline.reporting.tables import DASH, MINUS, Cell, Group, Table

_TEMPLATES = Path(__file__).parent / "templates"
_CSV = ("experiment", "row", "kind", "dataset", "metric", "value", "std", "n", "declared", "mark", "reason", "trials")
_CSV_COMPARISON = ("reference", "difference", "low", "high", "p", "p_holm", "significant", "claim", "untested")
_LEGEND = "Ours: mean ± sample standard deviation (n seeds), in percent; best bold, second underlined."
_MEASURED = "Ours: mean ± sample standard deviation (n seeds)."
_COUNTED = "Ours: counted in the prepared data."


class Finished(str):
    """Text that is markup already and is printed as it is."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One experiment of the page: its table, what its panels rest on, figures and searches.

    `words`, `own`: what is said of it, and the figures that it asks for. `figures`: of the table, as SVG. `learning`:
    of the training behind it.
    """

    table: Table
    evidence: Mapping[int, Evidence]
    words: tuple[str, ...]
    own: tuple[Drawing, ...]
    figures: Mapping[str, str]
    learning: tuple[Drawing, ...]
    searches: tuple[SearchReport, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """One experiment of pictures, and its sheets."""

    album: Album
    plates: list[Plate]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows. `header`: facts for the first screen; `ui`: address of MLflow's pages; `runs` go by key."""

    header: tuple[tuple[str, str], ...]
    ui: str
    runs: Mapping[str, Run]
    sections: tuple[Section, ...]
    galleries: tuple[Gallery, ...] = ()


def markdown(table: Table) -> str:
    """The table for a code host: title, table, notes; padded, so that it reads well as plain text too."""
    return _text("table.md.j2", escape_markdown).render(_context(table), lines=_markdown_lines(table))


def latex(table: Table) -> str:
    """The table as a float; it needs the packages amssymb, booktabs and fontenc (T1)."""
    return _text("table.tex.j2", escape_latex).render(_context(table))


def csv_text(table: Table) -> str:
    """One line a cell, with the numbers as they are printed and the trials they come from."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV + _CSV_COMPARISON)
    panels = {panel.number: panel for panel in table.panels}
    for row in table.rows:
        for (group, metric), cell in zip(table.columns(), row.cells, strict=True):
            value = "" if cell.value is None else cell.text.replace(MINUS, "-")
            keys = [run.key for run in panels[cell.panel].done] if cell.panel is not None else []
            where = [table.experiment.name, row.label, group.kind, group.title, metric]
            counts = [cell.n, cell.declared] if group.kind == "ours" else ["", ""]
            reason = "; ".join(filter(None, [cell.reason, group.not_comparable]))
            writer.writerow(
                [*where, value, cell.std, *counts, cell.mark, reason, " ".join(keys), *_csv_comparison(cell)]
            )
    return buffer.getvalue()


def _csv_comparison(cell: Cell) -> list[str]:
    """How a cell compares with the reference row's: points with two decimals, p-values with three digits."""
    found = cell.comparison
    if found is None:
        return [""] * (len(_CSV_COMPARISON) - 1) + [cell.untested]
    points = [f"{value:.2f}" for value in (found.difference, found.low, found.high)]
    values = [f"{value:.3g}" for value in (found.p, found.corrected)]
    claim = "methods" if found.over_seeds else "networks"
    return [found.reference, *points, *values, "yes" if found.significant else "no", claim, ""]


def html(page: Page) -> str:
    """The whole page: one file, no request, no script but its own (the policy in its head allows no other)."""
    script, style = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    env = _environment(autoescape=True)
    env.globals.update(run_url=run_url)
    env.filters.update(
        objective=objective_words,
        scale=objective_scale,
        duration=captions.duration,
        complete=captions.complete,
        comparison=captions.comparison_words,
        plain=captions.plain,
        words=words,
        stored=lambda value, metric: printed(metric, shown(metric, value)) if metric in COSTS else f"{100 * value:.2f}",
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
        "facts": captions.facts(table),
        "notes": captions.notes(table),
        "summary": captions.summary(table),
        "title": captions.title(table),
        "legend": _legend(table),
        "first": "Data set" if table.experiment.kind == "statistics" else "Method",
    }


def _legend(table: Table) -> str:
    if table.experiment.kind == "statistics":
        return _COUNTED
    return _LEGEND if {*table.experiment.metrics} & {*SCORES} else _MEASURED


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


@functools.cache  # a template takes longer to compile than to fill in
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
    env.filters.update(words=words, cell=_latex_cell, heading=heading, spans=_latex_spans, finished=Finished)
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
    return f"{body} {cell.count}".rstrip() + cell.arrow + "\\*" * cell.lacking + "†" * cell.doubtful


def _markdown_lines(table: Table) -> list[Finished]:
    heads = [escape_markdown(f"{heading(group)}: {words(metric)}") for group, metric in table.columns()]
    rows = [[escape_markdown(row.label), *map(_markdown_cell, row.cells)] for row in table.rows]
    grid = [["", *heads], *rows]
    widths = [max(len(line[place]) for line in grid) for place in range(len(grid[0]))]
    grid.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return [Finished("| " + " | ".join(map(str.ljust, line, widths)) + " |") for line in grid]


def _latex_cell(cell: Cell) -> Finished:
    text = cell.text.replace(MINUS, "$-$").replace(DASH, "--")
    text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[cell.mark]
    small = " ".join(filter(None, [rf"$\pm$ {cell.std}" if cell.std else "", cell.count]))
    marks = _LATEX_ARROWS[cell.arrow] + "*" * cell.lacking + r"\dagger" * cell.doubtful
    return Finished(text + (rf" {{\scriptsize {small}}}" if small else "") + (f"$^{{{marks}}}$" if marks else ""))


def _latex_spans(groups: Iterable[Group]) -> Finished:
    r"""The rules under the headings of the column groups: `\cmidrule(lr){2-3}`."""
    rules, column = [], 2
    for group in groups:
        rules.append(rf"\cmidrule(lr){{{column}-{column + len(group.metrics) - 1}}}")
        column += len(group.metrics)
    return Finished(" ".join(rules))


_LATEX_ARROWS = {
    "": "",
    "▲": r"\blacktriangle",
    "▼": r"\blacktriangledown",
    "△": r"\vartriangle",
    "▽": r"\triangledown",
}
_LATEX = {
    **{letter: rf"\ensuremath{{{command}}}" for letter, command in _LATEX_ARROWS.items()},
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
