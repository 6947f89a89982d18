from pathlib import Path

import pytest

from reid.data import sop
from reid.data.manifest import Record

HEADER = "image_id class_id super_class_id path\n"


def make(root: Path, train: str = HEADER + "1 1 1 bicycle_final/1_0.JPG\n") -> Path:
    for name in ("bicycle_final/1_0.JPG", "chair_final/2_0.JPG"):
        (root / name).parent.mkdir()
        (root / name).touch()
    (root / "Ebay_train.txt").write_text(train)
    (root / "Ebay_test.txt").write_text(HEADER + "59552 11319 2 chair_final/2_0.JPG\n")
    return root


def test_the_lists_have_a_header(tmp_path: Path) -> None:
    assert sop.read(make(tmp_path)) == [
        Record("bicycle_final/1_0.JPG", 1, 0, "train"),
        Record("chair_final/2_0.JPG", 11319, 0, "test"),
    ]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("1 1 1 bicycle_final/1_0.JPG\n", "Ebay_train.txt, line 1: the header 'image_id .* path' is expected there"),
        (HEADER, "Ebay_train.txt lists nothing"),
        (
            HEADER + "1 0 1 bicycle_final/1_0.JPG\n",
            "Ebay_train.txt, line 2: class_id is '0', allowed: whole numbers from 1",
        ),
        (HEADER + "1 1 bicycle_final/1_0.JPG\n", "Ebay_train.txt, line 2: 3 fields, 4 are expected"),
        (HEADER + "1 1 1 ../../x.JPG\n", "Ebay_train.txt, line 2: '../../x.JPG' leaves"),
    ],
)
def test_a_list_that_does_not_parse_is_an_error(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sop.read(make(tmp_path, train))


def test_files_that_a_list_names_must_be_there(tmp_path: Path) -> None:
    make(tmp_path, HEADER + "1 1 1 bicycle_final/1_9.JPG\n")
    with pytest.raises(FileNotFoundError, match=r"Ebay_train.txt names 1 files .*: bicycle_final/1_9.JPG$"):
        sop.read(tmp_path)
