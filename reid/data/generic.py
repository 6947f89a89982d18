"""Reader of any data set that comes with a manifest: `manifest.csv` or `manifest.parquet`, one row an image.

Two forms of columns are read. Ours: path, identity, split (train, query, gallery or test) and, where there are cameras,
camera. And the retrieval data frame of open-metric-learning: label, path, split (train or validation), is_query,
is_gallery and, where there are any, camera, or sequence: images of the query's own sequence are not ranked there, which
is what the camera rule does here; x_1, y_1, x_2, y_2: the part of the image that is meant, in pixels from 0, the last
two exclusive. Its further columns say nothing about retrieval and are passed over.
"""

import csv
import difflib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from reid.data.layout import AbsentError, Home, whole
from reid.data.manifest import SPLITS, Box, Expected, Record, SplitName

DISPLAY_NAME = "Manifest"
EXPECTED: dict[str, Expected] = {}

_OURS = ("path", "identity", "split")
_CAMERA = "camera"
_THEIRS = ("label", "path", "split", "is_query", "is_gallery")
_SEQUENCE = "sequence"
_BOX = ("x_1", "y_1", "x_2", "y_2")  # left, top, right, bottom
_PIXEL = re.compile(r"(-?[0-9]{1,9})(\.0+)?")  # beside boxes that are missing, a data frame has fractions
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


@dataclass(frozen=True)
class _Row:
    """One row: where it is (for messages), and its values as text; what is missing is empty."""

    where: str
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def at(self, column: str) -> str:
        return f"{self.where}, column {column}"

    def fault(self, column: str, allowed: str) -> ValueError:
        return ValueError(f"{self.at(column)} is {self[column]!r}, allowed: {allowed}")


def read(root: Path) -> list[Record]:
    """The records of `root`/manifest.csv or manifest.parquet; paths are relative to `root`.

    Labels of open-metric-learning, which may start at 0, become identities by adding 1.

    Raises:
        AbsentError: there is no manifest.
        FileNotFoundError: files that it names are not there.
        ValueError: columns are missing or unknown, or a value is not allowed; the message has file, row and column.
    """
    path = _file(root)
    rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
    if not rows:
        raise ValueError(f"{path} has no row")
    columns = list(rows[0].values)
    theirs = set(_THEIRS) <= set(columns)
    if not theirs:
        _check_columns(path, columns)
    for row in rows:
        if not row["path"]:
            raise row.fault("path", "a path relative to the manifest's folder")
    boxes = [_box(row) if theirs else None for row in rows]
    _check_repeats(rows, boxes)
    home = Home(root, root)
    paths = home.listed([(row.at("path"), row["path"]) for row in rows], below=".", source=path)
    records = _their_records(rows, paths, boxes) if theirs else _our_records(rows, paths)
    _check_splits(path, {record.split for record in records})
    return records


def _file(root: Path) -> Path:
    found = [path for path in (root / "manifest.csv", root / "manifest.parquet") if path.is_file()]
    if not found:
        raise AbsentError(
            f"{root} has no manifest.csv or manifest.parquet; write one with the columns {', '.join(_OURS)} and, where "
            f"there are cameras, {_CAMERA}, or set REID_DATASETS to the folder that holds it"
        )
    if len(found) == 2:
        raise ValueError(f"{root} has both manifest.csv and manifest.parquet; remove the one that is not meant")
    return found[0]


def _csv_rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lines = [(f"{path}, line {reader.line_num}", values) for values in reader if values]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if twice := {column for column in header if header.count(column) > 1}:
        raise ValueError(f"{path} has columns twice: {', '.join(sorted(twice))}")
    for where, values in lines:
        if len(values) != len(header):
            raise ValueError(f"{where}: {len(values)} values, the header has {len(header)} columns")
    return [_Row(where, dict(zip(header, values, strict=True))) for where, values in lines]


def _parquet_rows(path: Path) -> list[_Row]:
    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    texts = {str(column): [_text(value) for value in table[column].tolist()] for column in table.columns}
    return [
        _Row(f"{path}, row {number}", dict(zip(texts, values, strict=True)))
        for number, values in enumerate(zip(*texts.values(), strict=True), 1)
    ]


def _text(value: Any) -> str:
    """A value as it would stand in a CSV; numbers beside missing ones are floats in a data frame."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if lacking := [column for column in _OURS if column not in columns]:
        raise ValueError(
            f"{path} has the columns {', '.join(columns)}; it lacks {', '.join(lacking)} of {', '.join(_OURS)} (or, as "
            f"an open-metric-learning data frame, {', '.join(name for name in _THEIRS if name not in columns)})"
        )
    for column in columns:
        if column not in (*_OURS, _CAMERA):
            close = difflib.get_close_matches(column, [_CAMERA], cutoff=0.4)
            hint = f"; did you mean {_CAMERA}?" if close else "; remove it"
            raise ValueError(f"{path} has a column {column!r}, allowed: {', '.join((*_OURS, _CAMERA))}{hint}")


def _check_repeats(rows: Iterable[_Row], boxes: Iterable[Box | None]) -> None:
    """An image may be there again with another box: frames of a film have several people."""
    first: dict[tuple[str, Box | None], _Row] = {}
    for row, box in zip(rows, boxes, strict=True):
        before = first.setdefault((row["path"], box), row)
        if before is not row:
            raise ValueError(f"{row.at('path')}: {row['path']!r} is already in {before.where}; remove one")


def _our_records(rows: Sequence[_Row], paths: Iterable[str]) -> list[Record]:
    cameras = _cameras(rows) if _CAMERA in rows[0].values else [0] * len(rows)
    return [
        Record(path, _identity(row), camera, _split(row))
        for path, row, camera in zip(paths, rows, cameras, strict=True)
    ]


def _split(row: _Row) -> SplitName:
    for split in SPLITS:
        if row["split"] == split:
            return split
    raise row.fault("split", ", ".join(SPLITS))


def _identity(row: _Row) -> int:
    """Only a gallery has junk (-1) and distractors (0)."""
    return whole(row["identity"], row.at("identity"), least=-1 if row["split"] == "gallery" else 1)


def _cameras(rows: Iterable[_Row]) -> list[int]:
    numbers = [(row, whole(row[_CAMERA], row.at(_CAMERA))) for row in rows]
    if any(number for _, number in numbers):
        for row, number in numbers:
            if not number:
                raise row.fault(_CAMERA, "whole numbers from 1, or 0 in every row where there are no cameras")
    return [number for _, number in numbers]


def _their_records(rows: Sequence[_Row], paths: Iterable[str], boxes: Iterable[Box | None]) -> list[Record]:
    splits = [_their_split(row) for row in rows]
    if _CAMERA in rows[0].values:
        cameras = _cameras(rows)
    else:
        cameras = _sequences(rows, splits) if _SEQUENCE in rows[0].values else [0] * len(rows)
    return [
        Record(path, whole(row["label"], row.at("label")) + 1, camera, split, box)
        for path, row, camera, split, box in zip(paths, rows, cameras, splits, boxes, strict=True)
    ]


def _box(row: _Row) -> Box | None:
    """The row's box; without one, all of the image is meant."""
    lacking = [column for column in _BOX if not row.values.get(column)]
    if len(lacking) == len(_BOX):
        return None
    if lacking:
        raise ValueError(f"{row.where}: a box has {', '.join(_BOX)}, and {', '.join(lacking)} is missing; fill it in")
    left, top, right, bottom = (_pixel(row, column) for column in _BOX)
    for column, low, high in (("x_2", left, right), ("y_2", top, bottom)):
        if high <= low:
            raise row.fault(column, f"more than {low}, where the box begins")
    return left, top, right, bottom


def _pixel(row: _Row, column: str) -> int:
    match = _PIXEL.fullmatch(row[column])
    if match is None:
        raise row.fault(column, "whole numbers")
    return int(match[1])


def _their_split(row: _Row) -> SplitName:
    if row["split"] == "train":
        return "train"
    if row["split"] != "validation":
        raise row.fault("split", "train, validation")
    parts: dict[tuple[bool, bool], SplitName] = {
        (True, False): "query",
        (False, True): "gallery",
        (True, True): "test",
    }
    part = parts.get((_truth(row, "is_query"), _truth(row, "is_gallery")))
    if part is None:
        raise row.fault("is_query", "true where is_gallery is false: a validation image is one of them, or both")
    return part


def _truth(row: _Row, column: str) -> bool:
    if row[column].lower() not in _TRUTH:
        raise row.fault(column, "true, false, 1, 0")
    return _TRUTH[row[column].lower()]


def _sequences(rows: Sequence[_Row], splits: Sequence[SplitName]) -> list[int]:
    """A camera number for every sequence; each has to be of one label, since the camera rule asks for both."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row, split in zip(rows, splits, strict=True):
        if split == "train":
            continue
        if not row[_SEQUENCE]:
            raise row.fault(_SEQUENCE, "the name of a sequence, in every validation row")
        labels[row[_SEQUENCE]].add(row["label"])
        if len(labels[row[_SEQUENCE]]) > 1:
            raise row.fault(_SEQUENCE, f"a sequence of one label, it has {', '.join(sorted(labels[row[_SEQUENCE]]))}")
    numbers = {name: number for number, name in enumerate(sorted({row[_SEQUENCE] for row in rows}), 1)}
    return [numbers[row[_SEQUENCE]] for row in rows]


def _check_splits(path: Path, splits: set[SplitName]) -> None:
    if "test" in splits and splits & {"query", "gallery"}:
        raise ValueError(
            f"{path} has images that are query and gallery both beside others that are only one of them; a set is "
            f"scored in one way: make all of them both, or none"
        )
    if len(splits & {"query", "gallery"}) == 1:
        lacking = "gallery" if "query" in splits else "query"
        raise ValueError(f"{path} has no {lacking} row; a ranking needs query and gallery, or the split test")
