from pathlib import Path

import pytest

from reid.data import veri776
from reid.data.manifest import Record
from tests.reid.data import miniatures
from tests.reid.data.miniatures import Shot

FOLDERS = ("image_train", "image_query", "image_test")


def make(root: Path) -> Path:
    for folder, name in zip(FOLDERS, ("0001_c001_1_0.jpg", "0002_c002_00030600_0.jpg", "0776_c020_2.jpg"), strict=True):
        (root / folder).mkdir()
        (root / folder / name).touch()
    return root


def exported(root: Path, *, encoding: str = "gb2312") -> Path:
    """A training image under another name, which the XML knows."""
    (make(root) / "image_train" / "frame-7.jpg").touch()
    item = miniatures.veri776_item("frame-7.jpg", Shot(33, 14, 1, "train"))
    miniatures.veri776_labels(root / "train_label.xml", [item], encoding=encoding)
    return root


def test_cameras_have_three_digits(tmp_path: Path) -> None:
    assert veri776.read(make(tmp_path)) == [
        Record("image_train/0001_c001_1_0.jpg", 1, 1, "train"),
        Record("image_query/0002_c002_00030600_0.jpg", 2, 2, "query"),
        Record("image_test/0776_c020_2.jpg", 776, 20, "gallery"),
    ]


@pytest.mark.parametrize("name", ["0002_c02_1.jpg", "0002_c0022_1.jpg", "c002_0002.jpg", "0002_c000_1.jpg", "x.jpg"])
def test_a_name_that_does_not_parse_is_an_error(tmp_path: Path, name: str) -> None:
    (make(tmp_path) / "image_test" / name).touch()
    with pytest.raises(
        ValueError, match=rf"image_test: 1 image names do not start .* not in test_label.xml .*: {name}$"
    ):
        veri776.read(tmp_path)


@pytest.mark.parametrize("encoding", ["gb2312", "utf-8", "utf-8-sig"])
def test_the_labels_are_asked_where_names_say_nothing(tmp_path: Path, encoding: str) -> None:
    exported(tmp_path, encoding=encoding)
    assert Record("image_train/frame-7.jpg", 33, 14, "train") in veri776.read(tmp_path)


def test_a_name_that_parses_counts_more_than_the_labels(tmp_path: Path) -> None:
    exported(tmp_path)
    items = [
        miniatures.veri776_item(name, Shot(99, 9, 1, "train")) for name in ("frame-7.jpg", "0001_c001_1_0.jpg", "gone")
    ]
    miniatures.veri776_labels(tmp_path / "train_label.xml", items)
    identities = {record.path: record.identity for record in veri776.read(tmp_path) if record.split == "train"}
    assert identities == {"image_train/0001_c001_1_0.jpg": 1, "image_train/frame-7.jpg": 99}


def test_labels_are_not_opened_where_they_are_not_needed(tmp_path: Path) -> None:
    (make(tmp_path) / "train_label.xml").write_text("<broken")
    assert len(veri776.read(tmp_path)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<broken", r"train_label.xml is not a list of labels \(.*\); get it again"),
        (b'<A><Item imageName="frame-7.jpg" vehicleID="x" cameraID="c001"/></A>', "train_label.xml is not a list of"),
        (b'<A><Item imageName="frame-7.jpg" vehicleID="1"/></A>', "train_label.xml: an Item has no 'cameraID'; get"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><A/>', "train_label.xml declares a document type"),
        (b"\xff\xff\xff", "train_label.xml is neither UTF-8 nor gb2312 text; get it again"),
        (b"<A/>", r"image_train: 1 image names do not start .* not in train_label.xml .*: frame-7.jpg$"),
    ],
)
def test_labels_that_do_not_parse_are_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    exported(tmp_path)
    (tmp_path / "train_label.xml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        veri776.read(tmp_path)


def test_an_empty_query_folder_is_an_error(tmp_path: Path) -> None:
    (make(tmp_path) / "image_query" / "0002_c002_00030600_0.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"image_query holds no image \(.jpeg, .jpg, .png\); unpack the data set again"
    ):
        veri776.read(tmp_path)
