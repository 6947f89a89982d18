from pathlib import Path

import pytest

from reid.data import cub200
from reid.data.manifest import Record

NAMES = ("100.Brown_Pelican/a.jpg", "101.White_Pelican/b.jpg", "001.Black_footed_Albatross/c.jpg")
CLASSES = "1 100\n2 101\n10 1\n"
BOXES = "1 0.0 27.0 325.0 304.0\n10 1.0 0.0 1.0 9.0\n2 139.0 30.0 153.0 264.0\n"


def make(root: Path, *, images: str | None = None, classes: str = CLASSES, boxes: str = BOXES) -> Path:
    for name in NAMES:
        (root / "images" / name).parent.mkdir(parents=True)
        (root / "images" / name).touch()
    listed = "".join(f"{number} {name}\n" for number, name in zip((1, 2, 10), NAMES, strict=True))
    (root / "images.txt").write_text(listed if images is None else images)
    (root / "image_class_labels.txt").write_text(classes)
    (root / "bounding_boxes.txt").write_text(boxes)
    return root


def test_the_first_hundred_classes_train(tmp_path: Path) -> None:
    """Whatever train_test_split.txt says."""
    (make(tmp_path) / "train_test_split.txt").write_text("1 0\n2 1\n10 0\n")
    assert cub200.read(tmp_path) == [
        Record("images/100.Brown_Pelican/a.jpg", 100, 0, "train"),
        Record("images/101.White_Pelican/b.jpg", 101, 0, "test"),
        Record("images/001.Black_footed_Albatross/c.jpg", 1, 0, "train"),
    ]


def test_the_lists_are_joined_by_number_not_by_line(tmp_path: Path) -> None:
    records = cub200.read(make(tmp_path, classes="10 1\n1 100\n2 101\n"))
    assert [record.identity for record in records] == [100, 101, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": "1 100\n2 101\n"},
            "1 images are in only one of images.txt and image_class_labels.txt, by number: 10;",
        ),
        ({"classes": CLASSES + "9 1\n8 1\n"}, "2 images are in only one of .*, by number: 8, 9; unpack"),
        (
            {"classes": "1 100\n2 101\n10 201\n"},
            "labels.txt, line 3: class is 201, allowed: whole numbers from 1 to 200",
        ),
        ({"classes": "1 0\n2 101\n10 1\n"}, "labels.txt, line 1: class is '0', allowed: whole numbers from 1"),
        ({"classes": CLASSES + "2 7\n"}, "labels.txt, line 4: image 2 is listed a second time"),
        ({"classes": "a 1\n"}, "labels.txt, line 1: image is 'a'"),
        ({"images": "1 ../x.jpg\n2 b\n10 c\n"}, "images.txt, line 1: '../x.jpg' leaves"),
        ({"images": "1 /x.jpg\n2 b\n10 c\n"}, "images.txt, line 1: '/x.jpg' leaves"),
    ],
)
def test_lists_that_do_not_parse_are_an_error(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    make(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        cub200.read(tmp_path)


def test_files_that_the_list_names_must_be_there(tmp_path: Path) -> None:
    (make(tmp_path) / "images" / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"images.txt names 1 files .*: {NAMES[1]}$"):
        cub200.read(tmp_path)


def test_boxes_count_pixels_from_0(tmp_path: Path) -> None:
    """A box at 0 0 begins with the first pixel, and its width is that of what is cut out."""
    assert [record.box for record in cub200.read(make(tmp_path), cropped=True)] == [
        (0, 27, 325, 331),
        (139, 30, 292, 294),
        (1, 0, 2, 9),
    ]
    assert {record.box for record in cub200.read(tmp_path)} == {None}


def test_a_box_between_pixels_takes_in_those_it_touches(tmp_path: Path) -> None:
    make(tmp_path, boxes=BOXES.replace("1 0.0 27.0 325.0 304.0", "1 0.5 27.25 325.0 304.5"))
    assert cub200.read(tmp_path, cropped=True)[0].box == (0, 27, 326, 332)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("0 0 0 5", "boxes.txt, line 3: the box is '0 0 0 5', allowed: x, y and, above 0, width and height"),
        ("0 0 5 -5", "line 3: the box is '0 0 5 -5'"),
        ("0 0 5 nan", "line 3: the box is '0 0 5 nan'"),
        ("0 nan 5 5", "line 3: the box is '0 nan 5 5'"),
        ("0 0 inf 5", "line 3: the box is '0 0 inf 5'"),
        ("0 0 5 x", "line 3: the box is '0 0 5 x'"),
        ("0 0 5", "line 3: 4 fields, 5 are expected: image x y width height"),
    ],
)
def test_a_box_that_is_none_is_refused(tmp_path: Path, box: str, message: str) -> None:
    make(tmp_path, boxes=f"1 0 0 5 5\n2 0 0 5 5\n10 {box}\n")
    with pytest.raises(ValueError, match=message):
        cub200.read(tmp_path, cropped=True)
    assert len(cub200.read(tmp_path)) == 3


def test_every_image_needs_its_box(tmp_path: Path) -> None:
    make(tmp_path, boxes="1 0 0 5 5\n2 0 0 5 5\n")
    with pytest.raises(
        ValueError, match=r"1 images are in only one of images.txt and bounding_boxes.txt, by number: 10"
    ):
        cub200.read(tmp_path, cropped=True)
    (tmp_path / "bounding_boxes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(lacks bounding_boxes.txt\)$"):
        cub200.read(tmp_path, cropped=True)
