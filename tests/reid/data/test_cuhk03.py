from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.data import cuhk03, matfile
from reid.data.cuhk03 import Boxes
from reid.data.manifest import Record, tabulate
from tests.reid.data import matwriter, miniatures

PROTOCOL = "cuhk03_new_protocol_config_detected.mat"
GOOD: dict[str, Any] = {
    "filelist": ["1_001_1_01.png", "1_002_1_03.png", "5_002_2_10.png", "1_003_1_01.png"],
    "labels": np.array([[1], [2], [2], [3]], "u2"),
    "train_idx": np.array([[1]], "f8"),
    "query_idx": np.array([[3]], "u2"),
    "gallery_idx": np.array([[2]], "u2"),
}


def protocol(root: Path, **changes: Any) -> Path:
    """A protocol's file with changes (None: without), and its images."""
    (root / "images_detected").mkdir(parents=True)
    for name in GOOD["filelist"]:
        (root / "images_detected" / name).touch()
    variables = {name: value for name, value in (GOOD | changes).items() if value is not None}
    matwriter.write(root / PROTOCOL, variables)
    return root


def test_png_images_in_folders(tmp_path: Path) -> None:
    for name in ("bounding_box_train/0001_c1_1.png", "query/0003_c1_21.png", "bounding_box_test/0003_c2_5.png"):
        (tmp_path / "cuhk03-np" / "labeled" / name).parent.mkdir(parents=True)
        (tmp_path / "cuhk03-np" / "labeled" / name).touch()
    assert cuhk03.read(tmp_path, boxes="labeled") == [
        Record("cuhk03-np/labeled/bounding_box_train/0001_c1_1.png", 1, 1, "train"),
        Record("cuhk03-np/labeled/query/0003_c1_21.png", 3, 1, "query"),
        Record("cuhk03-np/labeled/bounding_box_test/0003_c2_5.png", 3, 2, "gallery"),
    ]


def test_the_two_kinds_of_boxes_are_not_mixed_up(tmp_path: Path) -> None:
    kinds: tuple[Boxes, Boxes] = ("detected", "labeled")
    for boxes in kinds:
        miniatures.write(f"cuhk03_{boxes}", tmp_path)
    for boxes, other in (kinds, kinds[::-1]):
        records = cuhk03.read(tmp_path, boxes=boxes)
        assert {record.path.split("/")[1] for record in records} == {boxes}
        with pytest.raises(FileNotFoundError, match=f"^{cuhk03.DISPLAY_NAMES[boxes]} is not under"):
            cuhk03.read(tmp_path / "cuhk03-np" / other, boxes=boxes)
        assert len(cuhk03.read(tmp_path / "cuhk03-np" / boxes, boxes=boxes)) == len(records)


def test_indices_of_the_protocol_count_from_1(tmp_path: Path) -> None:
    """The fourth image is in no part."""
    protocol(tmp_path / "cuhk03")
    assert cuhk03.read(tmp_path, boxes="detected") == [
        Record("cuhk03/images_detected/1_001_1_01.png", 1, 1, "train"),
        Record("cuhk03/images_detected/5_002_2_10.png", 2, 2, "query"),
        Record("cuhk03/images_detected/1_002_1_03.png", 2, 1, "gallery"),
    ]


@pytest.mark.parametrize("home", ["cuhk03", "CUHK03", "cuhk03_new", "CUHK03_New", "."])
@pytest.mark.parametrize("images", ["images", "cuhk03"])
@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_images_beside_the_protocol_s_file(tmp_path: Path, home: str, images: str, boxes: Boxes) -> None:
    (tmp_path / home).mkdir(exist_ok=True)
    expected = [
        Record((Path(home) / path).as_posix(), shot.identity, shot.camera, shot.split)
        for path, shot in miniatures.cuhk03_protocol(tmp_path / home, boxes, images).items()
    ]
    records = cuhk03.read(tmp_path, boxes=boxes)
    assert tabulate(records).equals(tabulate(expected))


@pytest.mark.parametrize("raw", ["cuhk03/cuhk03_release/cuhk-03.mat", "CUHK03/cuhk-03.mat", "cuhk-03.mat"])
def test_the_raw_set_is_to_be_extracted_first(tmp_path: Path, raw: str) -> None:
    (tmp_path / raw).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / raw).touch()
    with pytest.raises(FileNotFoundError) as caught:
        cuhk03.read(tmp_path, boxes="detected")
    assert str(caught.value) == (
        f"CUHK03-NP: detected is not under {tmp_path} but in {tmp_path / raw}, whose images are to be extracted first; "
        f"the prepare stage does that"
    )


def test_what_is_missing_is_explained_with_what_people_download(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        cuhk03.read(tmp_path, boxes="labeled")
    message = str(caught.value)
    assert "\n  cuhk03-np/labeled/  (or " in message
    assert "\n    bounding_box_test/\n  or\n  cuhk03/  (or " in message
    assert "\n    cuhk03_new_protocol_config_labeled.mat\n    cuhk03_release/cuhk-03.mat\n" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_idx": None},
            rf"{PROTOCOL} has no variable train_idx; it has: filelist, labels, query_idx, gallery_idx",
        ),
        (
            {"train_idx": np.array([[0]], "u2")},
            f"{PROTOCOL} .*: train_idx is no array of whole numbers from 1 to 4; take",
        ),
        ({"query_idx": np.array([[5]], "u2")}, f"{PROTOCOL} .*: query_idx is no array of whole numbers from 1 to 4"),
        ({"gallery_idx": np.array([[1.5]], "f8")}, "gallery_idx is no array of whole numbers"),
        ({"gallery_idx": ["1"]}, "gallery_idx is no array of whole numbers"),
        ({"labels": np.array([[1], [2]], "u2")}, "labels has 2 entries and filelist 4"),
        ({"labels": np.array([[1], [0], [1], [1]], "i2")}, "labels is no array of whole numbers from 1;"),
        ({"filelist": np.array([[1]], "f8")}, "filelist is not a cell array of names"),
        ({"filelist": [["1_001_1_01.png"], "a", "b", "c"]}, "filelist is not a cell array of names"),
        ({"filelist": ["0001_c1_1.png", *GOOD["filelist"][1:]]}, "1 image names are not such as .*: 0001_c1_1.png$"),
        ({"filelist": ["1_001_3_01.png", *GOOD["filelist"][1:]]}, "1 image names are not such as .*: 1_001_3_01.png$"),
    ],
)
def test_a_protocol_s_file_that_is_not_one_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    protocol(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        cuhk03.read(tmp_path, boxes="detected")


def test_images_that_the_protocol_names_must_be_there(tmp_path: Path) -> None:
    protocol(tmp_path)
    (tmp_path / "images_detected" / "5_002_2_10.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{PROTOCOL} names 1 files that are not in .*: 5_002_2_10.png$"):
        cuhk03.read(tmp_path, boxes="detected")


def test_a_protocol_s_file_of_another_format(tmp_path: Path) -> None:
    protocol(tmp_path)
    (tmp_path / PROTOCOL).write_text("<html>")
    with pytest.raises(ValueError, match=f"{PROTOCOL} is not a MATLAB file of version 5"):
        cuhk03.read(tmp_path, boxes="detected")


def test_the_miniature_s_file_has_what_the_real_one_has(tmp_path: Path) -> None:
    miniatures.cuhk03_protocol(tmp_path, "detected")
    names = ("camId", "filelist", "labels", "query_idx", "gallery_idx", "train_idx")
    assert matfile.read(tmp_path / PROTOCOL, names)["filelist"][0] == "1_010_1_01.png"
