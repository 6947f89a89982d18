"""Where a file of the report is not what it should be: the places that differ, by table, row and column."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LONGEST = 160  # characters of a place that are shown


@dataclass(frozen=True, kw_only=True)
class Alteration:
    """A number or a text that is not as it should be; `row` and `column` are empty where it stands in neither."""

    file: str
    table: str
    row: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = ", ".join(filter(None, (self.table, self.row, self.column)))
        return f"{self.file}: {where + ': ' * bool(where)}found {self.found!r}, expected {self.expected!r}"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a table is called, and what stands over its columns, from the first number on."""

    table: str
    heads: tuple[str, ...]


def alterations(file: str, found: str, expected: str, outlines: Mapping[str, Outline]) -> Iterator[Alteration]:
    """The places at which a text differs from what it should be; the first one alone where lines were added or lost.

    Args:
        file: its path, as it is to be named.
        found: the text that is there.
        expected: the one that should be.
        outlines: the tables by the stem of their files.
    """
    if found == expected:
        return
    stem, _, suffix = file.rpartition("/")[2].rpartition(".")
    outline = outlines.get(stem, Outline(table=stem, heads=()))
    found_something = False
    for one in _PLACES.get(suffix, _in_lines)(file, found, expected, outline, outlines):
        found_something = True
        yield one
    if not found_something:  # what differs is no content: spaces, line ends, the order of keys
        yield next(_in_lines(file, found, expected, outline, outlines))


def _in_csv(
    file: str, found: str, expected: str, outline: Outline, outlines: Mapping[str, Outline]
) -> Iterator[Alteration]:
    there, wanted = (list(csv.reader(io.StringIO(text, newline=""))) for text in (found, expected))
    if [len(line) for line in there] != [len(line) for line in wanted]:
        yield from _in_lines(file, found, expected, outline, outlines)
        return
    head = wanted[0]
    named = [head.index(name) for name in ("dataset", "metric") if name in head and "kind" in head]
    label = head.index("row") if "row" in head else 0
    for line, right in zip(there, wanted, strict=True):
        for name, value, correct in zip(head, line, right, strict=True):
            if value != correct:
                column = ": ".join([*(right[place] for place in named), name])
                yield _alteration(file, outline.table, right[label], column, value, correct)


def _in_json(
    file: str, found: str, expected: str, outline: Outline, outlines: Mapping[str, Outline]
) -> Iterator[Alteration]:
    try:
        there, wanted = dict(_leaves(json.loads(found))), dict(_leaves(json.loads(expected)))
    except ValueError:
        yield from _in_lines(file, found, expected, outline, outlines)
        return
    for path in dict.fromkeys([*wanted, *there]):
        if repr(there.get(path)) != repr(wanted.get(path)):
            table, row, *rest = (*path, "", "")
            found_value, right = (repr(values[path]) if path in values else "nothing" for values in (there, wanted))
            yield _alteration(file, table, row, ": ".join(filter(None, rest)), found_value, right)


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, value in tree.items():
        yield from _leaves(value, (*path, name))


def _in_lines(
    file: str, found: str, expected: str, outline: Outline, outlines: Mapping[str, Outline]
) -> Iterator[Alteration]:
    there, wanted = found.split("\n"), expected.split("\n")
    places = [place for place, pair in enumerate(zip(there, wanted, strict=False)) if pair[0] != pair[1]]
    if len(there) != len(wanted):
        places = [*places, min(len(there), len(wanted))][:1]
    for place in places:
        here = _section(wanted, place, outlines) or outline if file.endswith(".html") else outline
        line, right = ("".join(lines[place : place + 1]) for lines in (there, wanted))
        yield _in_line(file, here, wanted, place, (line, right))


def _in_line(file: str, outline: Outline, lines: Sequence[str], place: int, pair: tuple[str, str]) -> Alteration:
    """One line that differs: a row of a table, whose cells tell which, a cell of the page, or running text."""
    line, right = (html.unescape(text) if file.endswith(".html") else text for text in pair)
    for mark in (r"(?<!\\)\|", r"(?<!\\)&"):
        cells, correct = re.split(mark, line), re.split(mark, right)
        if len(cells) == len(correct) == len(outline.heads) + (3 if "|" in mark else 1):
            cells, correct = (part[1:-1] if "|" in mark else part for part in (cells, correct))
            number = next(
                number for number, (one, other) in enumerate(zip(cells, correct, strict=True)) if one != other
            )
            column = outline.heads[number - 1] if number else ""
            return _alteration(file, outline.table, correct[0].strip(), column, cells[number], correct[number])
    row, column = _cell_of_page(lines, place, outline) if file.endswith(".html") else ("", "")
    row = row or f"line {place + 1}"
    texts = _plain(line), _plain(right)
    return _alteration(file, outline.table, row, column, *_around(*(texts if texts[0] != texts[1] else (line, right))))


def _section(lines: Sequence[str], place: int, outlines: Mapping[str, Outline]) -> Outline | None:
    """The table whose part of the page a line is in."""
    for line in reversed(lines[: place + 1]):
        if begun := re.search(r'<section class="experiment" id="([^"]+)"', line):
            return outlines.get(begun[1])
    return None


def _cell_of_page(lines: Sequence[str], place: int, outline: Outline) -> tuple[str, str]:
    """Row and column of a line of the page: of the tables' own rows, and of the runs behind them by their summary."""
    number = -1
    for line in reversed(lines[: place + 1]):
        number += line.startswith("<td")
        if line.startswith("<th scope=") and "</th>" in line:
            column = outline.heads[number] if 0 <= number < len(outline.heads) else ""
            return _plain(line.partition("</th>")[0]), column
        if line.startswith(("<summary>", "</tbody>", "<section", "</table>")):
            return (_plain(line), "") if line.startswith("<summary>") else ("", "")
    return "", ""


def _plain(line: str) -> str:
    """What a reader sees of a line of HTML; the line as it is where that is nothing."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", line)).split()) or line.strip()


def _around(found: str, expected: str) -> tuple[str, str]:
    """Both texts from shortly before they part."""
    parted = next((at for at, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, parted - _LONGEST // 2)
    return found[start : start + _LONGEST], expected[start : start + _LONGEST]


def _alteration(file: str, table: str, row: str, column: str, found: str, expected: str) -> Alteration:
    return Alteration(file=file, table=table, row=row, column=column, found=found.strip(), expected=expected.strip())


_PLACES = {"csv": _in_csv, "json": _in_json}
