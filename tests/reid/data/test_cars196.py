from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.data import cars196
from reid.data.manifest import Record, tabulate
from tests.reid.data import matwriter, miniatures

TRAIN, TEST = "cars_train_annos.mat", "cars_test_annos_withlabels.mat"


def car(path: str, number: float, field: str = "relative_im_path") -> dict[str, Any]:
    return {"bbox_x1": np.array([[30]], "u1"), "class": np.array([[number]], "f8"), field: path}


def make(root: Path, rows: Any) -> Path:
    (root / "car_ims").mkdir()
    for number in (1, 2, 3):
        (root / "car_ims" / f"{number:06}.jpg").touch()
    matwriter.write(root / "cars_annos.mat", {"annotations": rows})
    return root


def test_the_first_98_classes_train(tmp_path: Path) -> None:
    rows = [car("car_ims/000001.jpg", 98), car("car_ims/000002.jpg", 99), car("car_ims/000003.jpg", 196)]
    assert cars196.read(make(tmp_path, rows)) == [
        Record("car_ims/000001.jpg", 98, 0, "train"),
        Record("car_ims/000002.jpg", 99, 0, "test"),
        Record("car_ims/000003.jpg", 196, 0, "test"),
    ]


@pytest.mark.parametrize("train", [f"devkit/{TRAIN}", TRAIN])
@pytest.mark.parametrize("test", [TEST, f"devkit/{TEST}"])
@pytest.mark.parametrize("home", ["stanford_cars", "."])
def test_annotations_in_two_files(tmp_path: Path, train: str, test: str, home: str) -> None:
    (tmp_path / home).mkdir(exist_ok=True)
    expected = [
        Record((Path(home) / path).as_posix(), shot.identity, 0, shot.split)
        for path, shot in miniatures.cars196_parts(tmp_path / home, train, test).items()
    ]
    assert tabulate(cars196.read(tmp_path)).equals(tabulate(expected))


@pytest.mark.parametrize("test", ["devkit/cars_test_annos.mat", "cars_test_annos.mat"])
def test_test_annotations_without_classes_are_told(tmp_path: Path, test: str) -> None:
    miniatures.cars196_parts(tmp_path, f"devkit/{TRAIN}", test)
    matwriter.write(tmp_path / test, {"annotations": [{"bbox_x1": np.array([[1]], "u1"), "fname": "00001.jpg"}]})
    with pytest.raises(
        ValueError, match=r"annotations have no field class, they have bbox_x1, fname; .* is cars_test_a"
    ):
        cars196.read(tmp_path)


def test_labels_are_preferred_to_the_file_without(tmp_path: Path) -> None:
    expected = miniatures.cars196_parts(tmp_path, f"devkit/{TRAIN}", TEST)
    matwriter.write(tmp_path / "devkit" / "cars_test_annos.mat", {"annotations": [{"fname": "00001.jpg"}]})
    assert len(cars196.read(tmp_path)) == len(expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[1]], "u1"), r"cars_annos.mat: annotations is not an array of structs; get the file again"),
        (["a"], r"cars_annos.mat: annotations is not an array of structs"),
        (
            [{"class": np.array([[1]], "u1")}],
            "annotations have no field relative_im_path, they have class; get the file again",
        ),
        ([car("car_ims/000001.jpg", 197)], "cars_annos.mat, annotation 1: class is not a whole number from 1 to 196"),
        ([car("car_ims/000001.jpg", 1), car("car_ims/000001.jpg", 0.5)], "annotation 2: class is not a whole number"),
        ([{"class": "1", "relative_im_path": "x"}], "annotation 1: class is not a whole number"),
        ([{"class": np.array([[1, 2]], "u1"), "relative_im_path": "x"}], "annotation 1: class is not a whole number"),
        ([{"class": np.array([[1]], "u1"), "relative_im_path": ["x"]}], "annotation 1: relative_im_path is not text"),
        ([car("../secret.jpg", 1)], "annotation 1: '../secret.jpg' leaves"),
    ],
)
def test_annotations_that_are_not_what_they_should_be(tmp_path: Path, rows: Any, message: str) -> None:
    make(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        cars196.read(tmp_path)


def test_a_variable_of_another_name_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, [])
    matwriter.write(tmp_path / "cars_annos.mat", {"annos": ["a"]})
    with pytest.raises(ValueError, match=r"cars_annos.mat has no variable annotations; it has: annos"):
        cars196.read(tmp_path)


def test_files_that_the_annotations_name_must_be_there(tmp_path: Path) -> None:
    make(tmp_path, [car("car_ims/000004.jpg", 1)])
    with pytest.raises(FileNotFoundError, match=r"cars_annos.mat names 1 files .*: car_ims/000004.jpg$"):
        cars196.read(tmp_path)


def boxed(*box: float, **more: Any) -> dict[str, Any]:
    names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    numbers = {name: np.array([[number]], "f8") for name, number in zip(names, box, strict=True)}
    return {**car("car_ims/000001.jpg", 98), **numbers, **more}


@pytest.mark.parametrize(
    ("box", "expected"),
    [((1, 1, 76, 47), (0, 0, 76, 47)), ((39, 116, 569, 375), (38, 115, 569, 375)), ((7, 9, 7, 9), (6, 8, 7, 9))],
)
def test_boxes_count_pixels_from_1_and_have_the_last_one(
    tmp_path: Path, box: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    make(tmp_path, [boxed(*box)])
    assert [record.box for record in cars196.read(tmp_path, cropped=True)] == [expected]
    assert [record.box for record in cars196.read(tmp_path)] == [None]


@pytest.mark.parametrize(
    "row",
    [
        boxed(0, 1, 2, 3),
        boxed(1, 0, 2, 3),
        boxed(3, 1, 2, 3),
        boxed(1, 4, 2, 3),
        boxed(1, 1.5, 2, 3),
        boxed(1, 1, 2, 3, bbox_x1="1"),
    ],
)
def test_a_box_that_is_none_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    make(tmp_path, [boxed(1, 1, 2, 2), row])
    with pytest.raises(ValueError, match=r"annotation 2: bbox_x1, .*bbox_y2 are not a box of whole pixels from 1; get"):
        cars196.read(tmp_path, cropped=True)


def test_annotations_without_boxes_are_told(tmp_path: Path) -> None:
    make(tmp_path, [car("car_ims/000001.jpg", 98)])
    with pytest.raises(
        ValueError, match=r"have no field bbox_y1, bbox_x2, bbox_y2, they have bbox_x1, class, relative"
    ):
        cars196.read(tmp_path, cropped=True)


@pytest.mark.parametrize("train", [f"devkit/{TRAIN}", TRAIN])
def test_boxes_in_two_files(tmp_path: Path, train: str) -> None:
    miniatures.cars196_parts(tmp_path, train, TEST)
    assert {record.box for record in cars196.read(tmp_path, cropped=True)} == {miniatures.BOX}
