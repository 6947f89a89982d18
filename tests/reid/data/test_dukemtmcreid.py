from pathlib import Path

import pytest

from reid.data import dukemtmcreid
from reid.data.manifest import Record
from tests.reid.data import miniatures


def test_names_have_eight_cameras_and_a_frame(tmp_path: Path) -> None:
    names = {
        "bounding_box_train/0001_c2_f0046182.jpg": (1, 2, "train"),
        "query/0005_c8_f0055071.jpg": (5, 8, "query"),
        "bounding_box_test/0005_c7_f0055072.jpg": (5, 7, "gallery"),
    }
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert dukemtmcreid.read(tmp_path) == [Record(name, *rest) for name, rest in names.items()]  # type: ignore[arg-type]


def test_market1501_in_the_same_folder_is_not_mistaken_for_it(tmp_path: Path) -> None:
    miniatures.write("market1501", tmp_path, ".")
    expected = miniatures.write("dukemtmcreid", tmp_path, "DukeMTMC-reID")
    assert len(dukemtmcreid.read(tmp_path)) == len(expected)
    assert all(record.path.startswith("DukeMTMC-reID/") for record in dukemtmcreid.read(tmp_path))


def test_a_camera_of_two_digits_is_an_error(tmp_path: Path) -> None:
    miniatures.write("dukemtmcreid", tmp_path)
    (tmp_path / "DukeMTMC-reID" / "query" / "0007_c12_f0046182.jpg").touch()
    with pytest.raises(ValueError, match=r"query: 1 image names .*: 0007_c12_f0046182.jpg$"):
        dukemtmcreid.read(tmp_path)
