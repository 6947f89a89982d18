import os
from pathlib import Path

import pytest

from reid.data import market1501
from reid.data.manifest import Record

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def make(home: Path) -> Path:
    """The three folders, with one image name each."""
    for folder, name in zip(FOLDERS, ("0002_c1s1_000451_03.jpg", "0003_c2s1_1.jpg", "0003_c3s1_1.jpg"), strict=True):
        (home / folder).mkdir(parents=True)
        (home / folder / name).touch()
    return home


def test_a_name_says_identity_and_camera(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("-1_c5s1_000401_03.jpg", "0000_c6s3_077392_02.jpg", "1501_c1s6_9.PNG", "0004_c2.jpeg"):
        (tmp_path / "bounding_box_test" / name).touch()
    assert market1501.read(tmp_path) == [
        Record("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1, "train"),
        Record("query/0003_c2s1_1.jpg", 3, 2, "query"),
        Record("bounding_box_test/-1_c5s1_000401_03.jpg", -1, 5, "gallery"),
        Record("bounding_box_test/0000_c6s3_077392_02.jpg", 0, 6, "gallery"),
        Record("bounding_box_test/0003_c3s1_1.jpg", 3, 3, "gallery"),
        Record("bounding_box_test/0004_c2.jpeg", 4, 2, "gallery"),
        Record("bounding_box_test/1501_c1s6_9.PNG", 1501, 1, "gallery"),
    ]


@pytest.mark.parametrize(
    "home",
    [".", "Market-1501-v15.09.15", "market1501", "market1501/Market-1501-v15.09.15", "Market-1501"],
)
def test_every_usual_place_is_found(tmp_path: Path, home: str) -> None:
    make(tmp_path / home)
    records = market1501.read(tmp_path)
    assert len(records) == 3
    assert all((tmp_path / record.path).is_file() for record in records)


def test_an_incomplete_place_does_not_hide_a_complete_one(tmp_path: Path) -> None:
    (tmp_path / "market1501" / "query").mkdir(parents=True)
    make(tmp_path / "market1501" / "Market-1501-v15.09.15")
    assert len(market1501.read(tmp_path)) == 3


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("Thumbs.db", "readme.txt", "._0003_c2s1_1.jpg", ".DS_Store"):
        (tmp_path / "query" / name).touch()
    assert len(market1501.read(tmp_path)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "photo.jpg",
        "0002_s1.jpg",
        "c1_0002.png",
        "0002_c12s1.jpg",
        "0002_c0s1.jpg",
        "-2_c1.jpg",
        "x0002_c1.jpg",
        f"{10**18}_c1.jpg",
    ],
)
def test_an_image_whose_name_does_not_parse_is_an_error(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    (tmp_path / "query" / name).touch()
    with pytest.raises(ValueError, match=rf"query: 1 image names do not start .*: {name}$"):
        market1501.read(tmp_path)


def test_of_many_bad_names_the_first_are_listed(tmp_path: Path) -> None:
    make(tmp_path)
    for number in range(8):
        (tmp_path / "query" / f"bad{number}.jpg").touch()
    with pytest.raises(ValueError, match=r"8 image names .*: bad0.jpg, bad1.jpg, .*bad4.jpg and 3 more$"):
        market1501.read(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "query" / "0003_c2s1_1.jpg").unlink()
    with pytest.raises(ValueError, match=r"query holds no image \(.jpeg, .jpg, .png\); unpack"):
        market1501.read(tmp_path)


def test_a_missing_set_is_explained(tmp_path: Path) -> None:
    (tmp_path / "downloads" / "Market1501" / "query").mkdir(parents=True)
    (tmp_path / "veri").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        market1501.read(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"Market-1501 is not under {tmp_path}\nSet REID_DATASETS")
    assert all(f"\n    {folder}/" in message for folder in FOLDERS)
    closest = tmp_path / "downloads" / "Market1501"
    assert message.endswith(f"Closest folder found: {closest} (lacks bounding_box_train, bounding_box_test)")


def test_a_whole_set_in_an_odd_place_is_pointed_at(tmp_path: Path) -> None:
    make(tmp_path / "mine" / "people")
    with pytest.raises(FileNotFoundError, match=r"mine/people \(complete, but not under an accepted name\)$"):
        market1501.read(tmp_path)


def test_a_misspelt_root_is_pointed_at(tmp_path: Path) -> None:
    for name in ("datasets", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=r"Closest folder found: \S+/datasets \("):
        market1501.read(tmp_path / "dataset" / "")


def test_a_folder_that_may_not_be_read_does_not_break_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    plain = os.scandir

    def scandir(folder: Path) -> object:
        if folder.name == "locked":
            raise PermissionError(folder)
        return plain(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FileNotFoundError, match="Closest folder found"):
        market1501.read(tmp_path)
