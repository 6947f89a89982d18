from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reid.data import generic
from reid.data.manifest import Record, tabulate

PATHS = ("a.jpg", "deep/b.jpg", "c.jpg", "d.jpg")
OURS: dict[str, list[Any]] = {
    "path": list(PATHS),
    "identity": [1, 2, 2, 0],
    "camera": [1, 1, 3, 2],
    "split": ["train", "query", "gallery", "gallery"],
}
THEIRS: dict[str, list[Any]] = {
    "label": [0, 1, 1, 2],
    "path": list(PATHS),
    "split": ["train", "validation", "validation", "validation"],
    "is_query": [None, True, False, False],
    "is_gallery": [None, False, True, True],
}


def write(root: Path, columns: dict[str, list[Any]], kind: str = "csv") -> Path:
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    table = pd.DataFrame(columns)
    if kind == "csv":
        table.to_csv(root / "manifest.csv", index=False)
    else:
        table.to_parquet(root / "manifest.parquet")
    return root


def changed(columns: dict[str, list[Any]], row: int, **values: Any) -> dict[str, list[Any]]:
    result = {name: list(column) for name, column in columns.items()}
    for name, value in values.items():
        result.setdefault(name, [""] * len(PATHS))[row] = value
    return result


def box(*numbers: Any) -> dict[str, Any]:
    return dict(zip(("x_1", "y_1", "x_2", "y_2"), numbers, strict=True))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_our_own_columns(tmp_path: Path, kind: str) -> None:
    assert generic.read(write(tmp_path, OURS, kind)) == [
        Record("a.jpg", 1, 1, "train"),
        Record("deep/b.jpg", 2, 1, "query"),
        Record("c.jpg", 2, 3, "gallery"),
        Record("d.jpg", 0, 2, "gallery"),
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_open_metric_learning_s_columns(tmp_path: Path, kind: str) -> None:
    assert generic.read(write(tmp_path, THEIRS, kind)) == [
        Record("a.jpg", 1, 0, "train"),
        Record("deep/b.jpg", 2, 0, "query"),
        Record("c.jpg", 2, 0, "gallery"),
        Record("d.jpg", 3, 0, "gallery"),
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_images_that_are_both_are_for_leave_one_out(tmp_path: Path, kind: str) -> None:
    both = THEIRS | {"is_query": [None, True, True, True], "is_gallery": [None, True, True, True]}
    table = tabulate(generic.read(write(tmp_path, both, kind)))
    assert table["split"].tolist() == ["train", "test", "test", "test"]


def test_truth_may_be_written_in_several_ways(tmp_path: Path) -> None:
    table = THEIRS | {"is_query": ["", "1", "FALSE", "0.0"], "is_gallery": ["x", "false", "1.0", "True"]}
    assert [record.split for record in generic.read(write(tmp_path, table))] == ["train", "query", "gallery", "gallery"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_open_metric_learning_with_cameras(tmp_path: Path, kind: str) -> None:
    records = generic.read(write(tmp_path, THEIRS | {"camera": [4, 1, 2, 4]}, kind))
    assert [record.camera for record in records] == [4, 1, 2, 4]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_sequence_is_what_the_camera_rule_leaves_out(tmp_path: Path, kind: str) -> None:
    records = generic.read(write(tmp_path, THEIRS | {"sequence": [None, "1_c2", "1_c1", "2_c2"]}, kind))
    assert [record.camera for record in records] == [1, 3, 2, 4]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_further_columns_of_theirs_are_passed_over(tmp_path: Path, kind: str) -> None:
    further: dict[str, list[Any]] = {"category": ["cat", None, "dog", "dog"], "x_1": [None] * 4, "y_2": [np.nan] * 4}
    assert generic.read(write(tmp_path, THEIRS | further, kind)) == generic.read(
        write(tmp_path / "plain", THEIRS, kind)
    )


BOXES: dict[str, list[Any]] = {
    "y_2": [30, None, 9, 9],
    "x_1": [0, None, -1, 2],
    "x_2": [10, None, 7, 7],
    "y_1": [3, None, 0, 0],
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_their_boxes_by_name_whatever_the_order(tmp_path: Path, kind: str) -> None:
    """Beside a box that is missing, numbers are fractions in a data frame."""
    found = generic.read(write(tmp_path, THEIRS | BOXES, kind))
    assert [record.box for record in found] == [(0, 3, 10, 30), None, (-1, 0, 7, 9), (2, 0, 7, 9)]


def test_an_image_may_come_again_with_another_box(tmp_path: Path) -> None:
    twice = THEIRS | BOXES | {"path": [*PATHS[:3], PATHS[2]]}
    found = generic.read(write(tmp_path, twice))
    assert [(record.path, record.box) for record in found[2:]] == [("c.jpg", (-1, 0, 7, 9)), ("c.jpg", (2, 0, 7, 9))]
    with pytest.raises(ValueError, match=r"line 5, column path: 'c.jpg' is already in .*manifest.csv, line 4; remove"):
        generic.read(write(tmp_path, changed(twice, 3, x_1=-1)))


def test_missing_numbers_make_floats_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    table = pd.DataFrame(OURS).astype({"identity": "float64", "camera": "Int64"})
    write(tmp_path, OURS)
    (tmp_path / "manifest.csv").unlink()
    table.to_parquet(tmp_path / "manifest.parquet")
    assert [record.identity for record in generic.read(tmp_path)] == [1, 2, 2, 0]
    table.loc[1, "identity"] = np.nan
    table.to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(
        ValueError, match=r"manifest.parquet, row 2, column identity is '', allowed: whole numbers from 1"
    ):
        generic.read(tmp_path)


def test_cameras_may_be_left_out_or_be_0_everywhere(tmp_path: Path) -> None:
    plain = {name: values for name, values in OURS.items() if name != "camera"}
    expected = [0, 0, 0, 0]
    assert [record.camera for record in generic.read(write(tmp_path, plain))] == expected
    assert [record.camera for record in generic.read(write(tmp_path, OURS | {"camera": [0] * 4}))] == expected


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        (0, {"identity": 0}, "line 2, column identity is '0', allowed: whole numbers from 1"),
        (1, {"identity": -1}, "line 3, column identity is '-1', allowed: whole numbers from 1"),
        (2, {"identity": -2}, "line 4, column identity is '-2', allowed: whole numbers from -1"),
        (2, {"identity": "two"}, "line 4, column identity is 'two', allowed: whole numbers from -1"),
        (3, {"camera": "1.5"}, "line 5, column camera is '1.5', allowed: whole numbers from 0"),
        (3, {"camera": 0}, "line 5, column camera is '0', allowed: whole numbers from 1, or 0 in every row"),
        (1, {"split": "val"}, "line 3, column split is 'val', allowed: train, query, gallery, test"),
        (1, {"path": ""}, "line 3, column path is '', allowed: a path relative to the manifest's folder"),
        (1, {"path": "../x.jpg"}, "line 3, column path: '../x.jpg' leaves .*; write the path relative to that folder"),
        (1, {"path": "/x.jpg"}, "line 3, column path: '/x.jpg' leaves"),
        (1, {"path": "a.jpg"}, "line 3, column path: 'a.jpg' is already in .*manifest.csv, line 2; remove one"),
        (1, {"split": "test"}, "manifest.csv has images that are query and gallery both beside others"),
        (
            1,
            {"split": "gallery"},
            "manifest.csv has no query row; a ranking needs query and gallery, or the split test",
        ),
    ],
)
def test_values_that_are_not_allowed(tmp_path: Path, row: int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        generic.read(write(tmp_path, changed(OURS, row, **values)))
    assert str(caught.value).startswith(str(tmp_path / "manifest.csv"))


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        (0, {"label": "cat"}, "line 2, column label is 'cat', allowed: whole numbers from 0"),
        (1, {"label": -1}, "line 3, column label is '-1', allowed: whole numbers from 0"),
        (1, {"split": "query"}, "line 3, column split is 'query', allowed: train, validation"),
        (1, {"is_query": "maybe"}, "line 3, column is_query is 'maybe', allowed: true, false, 1, 0"),
        (1, {"is_query": False}, "line 3, column is_query is 'False', allowed: true where is_gallery is false"),
        (1, {"is_gallery": True}, "manifest.csv has images that are query and gallery both beside others"),
        (2, {"x_1": 17}, "line 4: a box has x_1, y_1, x_2, y_2, and y_1, x_2, y_2 is missing; fill it in"),
        (2, box(5, 0, 5, 9), "line 4, column x_2 is '5', allowed: more than 5, where the box begins"),
        (2, box(0, 9, 5, 7), "line 4, column y_2 is '7', allowed: more than 9, where the box begins"),
        (2, box(0, 0.5, 5, 7), "line 4, column y_1 is '0.5', allowed: whole numbers"),
        (2, box("a", 0, 5, 7), "line 4, column x_1 is 'a', allowed: whole numbers"),
        (1, {"camera": 1}, "line 2, column camera is '', allowed: whole numbers from 0"),
        (
            1,
            {"sequence": "s"},
            "line 4, column sequence is '', allowed: the name of a sequence, in every validation row",
        ),
    ],
)
def test_values_of_theirs_that_are_not_allowed(tmp_path: Path, row: int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generic.read(write(tmp_path, changed(THEIRS, row, **values)))


def test_a_sequence_of_several_labels_is_refused(tmp_path: Path) -> None:
    """There, images of one sequence are not ranked whatever their labels are; the camera rule would rank them."""
    with pytest.raises(
        ValueError, match=r"line 5, column sequence is 's', allowed: a sequence of one label, it has 1, 2"
    ):
        generic.read(write(tmp_path, THEIRS | {"sequence": ["s", "t", "s", "s"]}))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "path,identity",
            r"has the columns path, identity; it lacks split of path, identity, split \(or, as an open-m",
        ),
        ("path,label,split", r"it lacks identity of .* data frame, is_query, is_gallery\)$"),
        ("path;identity;split", "has the columns path;identity;split; it lacks path, identity, split"),
        ("path,identity,split,cam", "has a column 'cam', allowed: path, identity, split, camera; did you mean camera"),
        ("path,identity,split,camid", "has a column 'camid', .*; did you mean camera"),
        ("path,identity,split,note", "has a column 'note', allowed: path, identity, split, camera; remove it"),
        ("path,identity,split,path", "has columns twice: path"),
    ],
)
def test_columns_that_are_not_allowed(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"{header}\nx{',' * header.count(',')}\n")
    with pytest.raises(ValueError, match=message):
        generic.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "manifest.csv has no row"),
        (b"path,identity,split\n", "manifest.csv has no row"),
        (b"path,identity,split\na.jpg,1\n", "manifest.csv, line 2: 2 values, the header has 3 columns"),
        (b'path,identity,split\n"a.jpg,1,train\n', "manifest.csv is not a CSV file in UTF-8: unexpected end of data"),
        (b"path,identity,split\n\xff.jpg,1,train\n", "manifest.csv is not a CSV file in UTF-8"),
    ],
)
def test_a_csv_that_does_not_parse(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        generic.read(tmp_path)


def test_quoted_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    (tmp_path / "a\nb.jpg").touch()
    (tmp_path / "manifest.csv").write_text('path,identity,split\n"a\nb.jpg",1,train\n\nc.jpg,x,train\n')
    (tmp_path / "c.jpg").touch()
    with pytest.raises(ValueError, match=r"manifest.csv, line 5, column identity is 'x'"):
        generic.read(tmp_path)


def test_files_that_are_not_there_are_listed(tmp_path: Path) -> None:
    write(tmp_path, OURS)
    for path in PATHS[1:]:
        (tmp_path / path).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"manifest.csv names 3 files that are not in .*: deep/b.jpg, c.jpg, d.jpg$"
    ):
        generic.read(tmp_path)


def test_which_manifest_is_meant_must_be_clear(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no manifest.csv or manifest.parquet; write one with the columns"):
        generic.read(tmp_path)
    write(tmp_path, OURS, "csv")
    write(tmp_path, OURS, "parquet")
    with pytest.raises(ValueError, match=r"has both manifest.csv and manifest.parquet; remove the one"):
        generic.read(tmp_path)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_text("path,identity,split")
    with pytest.raises(ValueError, match=r"manifest.parquet is not a parquet file"):
        generic.read(tmp_path)
    pd.DataFrame({"path": []}).to_parquet(tmp_path / "manifest.parquet")
    with pytest.raises(ValueError, match=r"manifest.parquet has no row"):
        generic.read(tmp_path)
