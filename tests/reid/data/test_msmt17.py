import shutil
from pathlib import Path

import pytest

from reid.data import msmt17
from reid.data.manifest import Record, tabulate
from reid.data.msmt17 import Version
from tests.reid.data import miniatures

LISTS = {
    "list_train.txt": ("0000/0000_045_12_0303morning_0006_2.jpg 0", "0001/0001_046_01_0303morning_0006_2_ex.jpg 1"),
    "list_val.txt": ("0001/0001_013_04_0303morning_0020_2.jpg 1",),
    "list_query.txt": ("0000/0000_000_01_0303morning_0015_0.jpg 0",),
    "list_gallery.txt": ("0000/0000_008_15_0303morning_0019_2.jpg 0", "0001/0001_009_02_0303morning_0019_2_ex.jpg 1"),
}


def make(root: Path) -> Path:
    """A V1 by hand, with labels that restart at 0 in the test."""
    for name, rows in LISTS.items():
        (root / name).write_text("".join(f"{row}\n" for row in rows))
        below = "train" if name in ("list_train.txt", "list_val.txt") else "test"
        for row in rows:
            path = root / below / row.split()[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_test_identities_come_behind_the_training_ones(tmp_path: Path) -> None:
    make(tmp_path)
    assert msmt17.read(tmp_path, version="V1") == [
        Record("train/0000/0000_045_12_0303morning_0006_2.jpg", 1, 12, "train"),
        Record("train/0001/0001_046_01_0303morning_0006_2_ex.jpg", 2, 1, "train"),
        Record("test/0000/0000_000_01_0303morning_0015_0.jpg", 3, 1, "query"),
        Record("test/0000/0000_008_15_0303morning_0019_2.jpg", 3, 15, "gallery"),
        Record("test/0001/0001_009_02_0303morning_0019_2_ex.jpg", 4, 2, "gallery"),
    ]


def test_the_validation_list_is_read_only_where_it_is_asked_for(tmp_path: Path) -> None:
    plain = msmt17.read(make(tmp_path), version="V1")
    both = msmt17.read(tmp_path, version="V1", val=True)
    assert set(both) - set(plain) == {Record("train/0001/0001_013_04_0303morning_0020_2.jpg", 2, 4, "train")}
    assert len(both) == len(plain) + 1
    (tmp_path / "list_val.txt").unlink()
    assert msmt17.read(tmp_path, version="V1") == plain
    with pytest.raises(FileNotFoundError, match=r"Closest folder found: \S+ \(lacks list_val.txt\)"):
        msmt17.read(tmp_path, version="V1", val=True)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_the_versions_are_not_mixed_up(tmp_path: Path, version: Version) -> None:
    for key in ("msmt17_v1", "msmt17_v2"):
        miniatures.write(key, tmp_path)
    tabulate(msmt17.read(tmp_path, version=version))
    assert {record.path.split("/")[0] for record in msmt17.read(tmp_path, version=version)} == {f"MSMT17_{version}"}
    shutil.rmtree(tmp_path / f"MSMT17_{version}")
    with pytest.raises(FileNotFoundError, match=f"MSMT17 {version} is not under"):
        msmt17.read(tmp_path, version=version)


@pytest.mark.parametrize("name", ["list_train.txt", "list_query.txt", "list_gallery.txt"])
def test_a_missing_list_is_named(tmp_path: Path, name: str) -> None:
    (make(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"Closest folder found: {tmp_path} \(lacks {name}\)"):
        msmt17.read(tmp_path, version="V1")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_045_12_", "_045_16_", r"list_train.txt: 1 image names do not have a camera from 01 to 15, .*_045_16_\S+$"),
        ("_045_12_", "_045_00_", r"list_train.txt: 1 image names do not have a camera from 01 to 15"),
        ("_045_12_", "_045_2_", r"list_train.txt: 1 image names do not have a camera from 01 to 15"),
        (".jpg 0", ".jpg x", "list_train.txt, line 1: identity is 'x', allowed: whole numbers from 0"),
        (".jpg 0", ".jpg -1", "list_train.txt, line 1: identity is '-1'"),
        (".jpg 0", ".jpg", "list_train.txt, line 1: 1 fields, 2 are expected: image identity"),
        ("0000/0000", "../test/0000/0000", r"list_train.txt, line 1: '../test/0000/\S+' leaves \S+/train; write"),
    ],
)
def test_a_list_that_does_not_parse_is_an_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    replace(make(tmp_path) / "list_train.txt", old, new)
    for row in (tmp_path / "list_train.txt").read_text().splitlines():
        (tmp_path / "train" / row.split()[0]).touch()
    with pytest.raises(ValueError, match=message):
        msmt17.read(tmp_path, version="V1")


def test_files_that_a_list_names_must_be_there(tmp_path: Path) -> None:
    shutil.rmtree(make(tmp_path) / "test" / "0001")
    with pytest.raises(FileNotFoundError, match=r"list_gallery.txt names 1 files .*: 0001/0001_009_02_\S+_ex.jpg$"):
        msmt17.read(tmp_path, version="V1")


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    (make(tmp_path) / "list_query.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"list_query.txt lists nothing; unpack the data set again"):
        msmt17.read(tmp_path, version="V1")
