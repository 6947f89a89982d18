import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.data import matfile
from tests.reid.data import matwriter

ANNOTATIONS = [
    {"class": np.array([[14]], "u1"), "fname": "00001.jpg", "bbox": np.array([[1, 2.5]], "f8")},
    {"class": np.array([[181]], "u2"), "fname": "", "bbox": np.zeros((0, 0))},
]
VARIABLES: dict[str, Any] = {
    "annotations": ANNOTATIONS,
    "filelist": ["1_001_1_01.png", "5_049_2_10.png", "ü"],
    "labels": np.array([[1, -2], [3, 4]], "i4"),
    "mixed": ["a", [np.array([[1]], "f4"), "b"], ANNOTATIONS],
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(map(same, one.values(), other.values()))
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_was_written_is_read(tmp_path: Path, compressed: bool, order: matwriter.Order) -> None:
    path = tmp_path / "x.mat"
    matwriter.write(path, VARIABLES, compressed=compressed, order=order)
    assert same(matfile.read(path, list(VARIABLES)), VARIABLES)


@pytest.mark.parametrize("compressed", [True, False])
def test_scipy_writes_what_is_read(tmp_path: Path, compressed: bool) -> None:
    """Oracle: another writer, with its own choice of types."""
    io = pytest.importorskip("scipy.io")
    annotations = np.array(
        [(np.array([[3]], "u1"), "a.jpg"), (np.array([[4]], "u1"), "ü.jpg")], dtype=[("class", "O"), ("fname", "O")]
    )
    filelist = np.array([["x", "yy", "z"]], dtype=object)
    matrix = np.arange(6.0).reshape(2, 3)
    variables = {"annotations": annotations, "filelist": filelist, "matrix": matrix}
    io.savemat(tmp_path / "x.mat", variables, do_compression=compressed)
    found = matfile.read(tmp_path / "x.mat", list(variables))
    assert same(
        found["annotations"], [{"class": np.array([[i]], "u1"), "fname": f} for i, f in ((3, "a.jpg"), (4, "ü.jpg"))]
    )
    assert found["filelist"] == ["x", "yy", "z"]
    np.testing.assert_array_equal(found["matrix"], matrix)


def test_scipy_reads_what_the_miniatures_write(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    matwriter.write(tmp_path / "x.mat", VARIABLES)
    found = io.loadmat(tmp_path / "x.mat")
    # scipy decodes 16-bit text as UTF-8, so only ASCII can be compared
    assert [item[0] for item in found["filelist"].ravel()[:2]] == VARIABLES["filelist"][:2]
    np.testing.assert_array_equal(found["labels"], VARIABLES["labels"])
    assert found["annotations"][0, 1]["class"].item() == 181
    assert found["annotations"][0, 0]["fname"].item() == "00001.jpg"


@given(
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20),
    st.sampled_from(["i2", "i4", "i8", "f4", "f8"]),
    st.booleans(),
)
def test_numbers_of_every_type_survive(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], kind: str, compressed: bool
) -> None:
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    matwriter.write(path, {"x": np.array([numbers], dtype=kind)}, compressed=compressed)
    assert matfile.whole_numbers(matfile.read(path, ["x"])["x"]) == numbers


def test_variables_that_are_not_wanted_may_be_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    matwriter.write(path, {"x": np.array([[1]], "f8")}, compressed=False)
    content = bytearray(path.read_bytes())
    content[128 + 16] = 17  # the class of an object, which is not read
    path.write_bytes(bytes(content) + content[128:].replace(b"\x01\0\x01\0x\0\0\0", b"\x01\0\x01\0y\0\0\0"))
    with pytest.raises(ValueError, match=r"x.mat is damaged, .*an array of class 17"):
        matfile.read(path, ["y"])
    with pytest.raises(ValueError, match=r"x.mat has no variable z; it has: x, y"):
        matfile.read(path, ["z"])


def test_a_lacking_variable_is_named_with_those_there_are(tmp_path: Path) -> None:
    matwriter.write(tmp_path / "x.mat", {"label": np.array([[1]], "u1"), "filelist": ["a"]})
    with pytest.raises(ValueError, match=r"x.mat has no variable labels, train_idx; it has: label, filelist"):
        matfile.read(tmp_path / "x.mat", ["labels", "filelist", "train_idx"])


def test_other_formats_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"x.mat is a MATLAB 7.3 \(HDF5\) file, which is not read here; save"):
        matfile.read(path, ["x"])
    for content in (b"", b"<html>", b"x" * 300):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x.mat is not a MATLAB file of version 5; save it again with -v7"):
            matfile.read(path, ["x"])


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.mat"
    matwriter.write(path, {"annotations": ANNOTATIONS}, compressed=compressed)
    whole = path.read_bytes()
    for size in (129, 140, 200, len(whole) - 9):
        path.write_bytes(whole[:size])
        reason = ".+" if compressed or size < 136 else "it ends early"
        with pytest.raises(
            ValueError, match=rf"x.mat is damaged, or not of the kinds that are read here \({reason}\); get it"
        ):
            matfile.read(path, ["annotations"])


@given(st.integers(128, 600), st.integers(1, 255))
def test_a_changed_byte_never_breaks_out(tmp_path_factory: pytest.TempPathFactory, position: int, change: int) -> None:
    """Whatever is in the file, the outcome is values or one error."""
    path = tmp_path_factory.mktemp("mat") / "x.mat"
    matwriter.write(path, VARIABLES, compressed=False)
    content = bytearray(path.read_bytes())
    content[position] ^= change
    path.write_bytes(content)
    message = str(path)
    try:
        matfile.read(path, list(VARIABLES))
    except ValueError as error:
        message = str(error)
    assert message.startswith(str(path))


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    matwriter.write(tmp_path / "x.mat", {"x": np.array([[1]], "f8")}, flags=0x08)
    with pytest.raises(ValueError, match="x is complex"):
        matfile.read(tmp_path / "x.mat", ["x"])


def test_nesting_has_an_end(tmp_path: Path) -> None:
    value: Any = "deep"
    for _ in range(20):
        value = [value]
    matwriter.write(tmp_path / "x.mat", {"x": value})
    with pytest.raises(ValueError, match="too deep"):
        matfile.read(tmp_path / "x.mat", ["x"])


def test_a_struct_without_fields_cannot_fill_the_memory(tmp_path: Path) -> None:
    matwriter.write(tmp_path / "x.mat", {"x": [{"a": "b"}]}, compressed=False)
    content = (tmp_path / "x.mat").read_bytes()
    names = struct.pack("<II", 1, 32) + b"a".ljust(32, b"\0")
    assert names in content
    shape = struct.pack("<IIii", 5, 8, 1, 1)
    content = content.replace(names, bytes(8)).replace(shape, struct.pack("<IIii", 5, 8, 2**30, 2**30))
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a struct without fields|ends early"):
        matfile.read(tmp_path / "x.mat", ["x"])


def test_a_compressed_variable_may_not_grow_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matfile, "_MOST_BYTES", 1000)
    content = zlib.compress(bytes(100_000))
    matwriter.write(tmp_path / "x.mat", {})
    with (tmp_path / "x.mat").open("ab") as file:
        file.write(struct.pack("<II", 15, len(content)) + content)
    with pytest.raises(ValueError, match="a variable of more than 1000 bytes"):
        matfile.read(tmp_path / "x.mat", ["x"])


@pytest.mark.parametrize("value", ["3", [1], np.array([[1.5]], "f8"), np.array([[np.nan]], "f8")])
def test_what_is_no_array_of_whole_numbers(value: Any) -> None:
    assert matfile.whole_numbers(value) is None
