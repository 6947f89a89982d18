from pathlib import Path

import pytest

from reid.data import vehicleid
from reid.data.manifest import Record, tabulate
from tests.reid.data import miniatures


def make(root: Path, *, train: str = "0000010 0\n0000011 8\n", test: str = "0000012 9\n") -> Path:
    (root / "image").mkdir()
    (root / "train_test_split").mkdir()
    for number in (10, 11, 12):
        (root / "image" / f"{number:07}.jpg").touch()
    (root / "train_test_split" / "train_list.txt").write_text(train)
    (root / "train_test_split" / "test_list_800.txt").write_text(test)
    return root


def test_all_test_images_may_be_gallery(tmp_path: Path) -> None:
    assert vehicleid.read(make(tmp_path), size="small") == [
        Record("image/0000010.jpg", 1, 0, "train"),
        Record("image/0000011.jpg", 9, 0, "train"),
        Record("image/0000012.jpg", 10, 0, "test"),
    ]


def test_the_size_is_that_of_the_test(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train_test_split" / "test_list_2400.txt").write_text("0000012 9\n0000010 77\n")
    assert len(vehicleid.read(tmp_path, size="large")) == 4
    with pytest.raises(FileNotFoundError, match=r"\(lacks train_test_split/test_list_1600.txt\)"):
        vehicleid.read(tmp_path, size="medium")


def test_the_miniature_has_no_query(tmp_path: Path) -> None:
    table = tabulate(miniatures.write("vehicleid_small", tmp_path))
    assert set(table["split"]) == {"train", "test"}
    assert set(table["camera"]) == {0}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0000010 0\n0000011 v8\n", "train_list.txt, line 2: vehicle is 'v8', allowed: whole numbers from 0"),
        ("0000010\n", "train_list.txt, line 1: 1 fields, 2 are expected: image vehicle"),
        ("../../x 1\n", "train_list.txt, line 1: '../../x.jpg' leaves"),
        ("", "train_list.txt lists nothing"),
    ],
)
def test_a_list_that_does_not_parse_is_an_error(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vehicleid.read(make(tmp_path, train=train), size="small")


def test_files_that_a_list_names_must_be_there(tmp_path: Path) -> None:
    make(tmp_path, test="".join(f"{number:07} 9\n" for number in range(1, 8)))
    missing = "0000001.jpg, 0000002.jpg, 0000003.jpg, 0000004.jpg, 0000005.jpg and 2 more"
    with pytest.raises(
        FileNotFoundError, match=rf"test_list_800.txt names 7 files that are not in .*image; .*{missing}$"
    ):
        vehicleid.read(tmp_path, size="small")
