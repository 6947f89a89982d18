"""Every data set that can be read: its miniature in the set's own layout goes through, wherever it may lie."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reid.config import Rule
from reid.data import manifest as manifests
from reid.data.archives import ArchiveError, Limits
from reid.data.manifest import Record
from reid.data.readers import packaged, reader, readers, unpack
from reid.data.split import make_split
from tests.reid.data import miniatures

KEYS = list(miniatures.HOMES)
PLACES = [(key, home) for key, homes in miniatures.HOMES.items() for home in homes]
CLASSES = ("cub200", "cub200_cropped", "cars196", "cars196_cropped")
LEAVE_ONE_OUT = {*CLASSES, "sop"}


def by_path(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.path)


def test_every_reader_has_a_miniature() -> None:
    assert sorted(readers()) == sorted([*KEYS, "synthetic"])


@pytest.mark.parametrize(("key", "home"), PLACES)
def test_a_miniature_is_found_and_read(tmp_path: Path, key: str, home: str) -> None:
    expected = miniatures.write(key, tmp_path, home)
    found = reader(key).read(tmp_path)
    assert by_path(found) == by_path(expected)
    table = manifests.tabulate(found)
    pd.testing.assert_frame_equal(table, manifests.tabulate(expected))
    assert all((tmp_path / path).is_file() for path in table["path"])


@pytest.mark.parametrize("key", KEYS)
def test_the_order_is_not_the_file_system_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    miniatures.write(key, tmp_path)
    listed = reader(key).read(tmp_path)
    plain = os.scandir

    class Backwards:
        def __init__(self, folder: Path) -> None:
            with plain(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert reader(key).read(tmp_path) == listed


@pytest.mark.parametrize("key", KEYS)
def test_an_empty_root_is_explained(tmp_path: Path, key: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        reader(key).read(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "REID_DATASETS" in message
    if key != "manifest":
        assert f"\n  {miniatures.HOMES[key][0]}/  (or " in message
        assert "or the folder itself)\n    " in message
        assert "\nClosest folder found: " in message


@pytest.mark.parametrize("key", [key for key in KEYS if key != "manifest"])
def test_a_linked_data_set_is_read(tmp_path: Path, key: str) -> None:
    """The folder of a data set is often a link to a large disk."""
    home = miniatures.HOMES[key][0]
    expected = miniatures.write(key, tmp_path / "disk", "set")
    (tmp_path / "root" / home).parent.mkdir(parents=True)
    (tmp_path / "root" / home).symlink_to(tmp_path / "disk" / "set")
    found = reader(key).read(tmp_path / "root")
    moved = [replace(record, path=record.path.replace("set/", f"{home}/", 1)) for record in expected]
    assert by_path(found) == by_path(moved)


@pytest.mark.parametrize("key", KEYS)
def test_a_link_out_of_the_data_set_is_refused(tmp_path: Path, key: str) -> None:
    root = tmp_path / "root"
    expected = miniatures.write(key, root)
    (tmp_path / "secret.jpg").write_bytes(b"private")
    victim = root / expected[-1].path
    victim.unlink()
    victim.symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(
        ValueError, match=rf"{victim.name} is a link to {tmp_path}/secret.jpg, outside the data set; put"
    ):
        reader(key).read(root)


@pytest.mark.parametrize("key", KEYS)
def test_a_folder_that_links_out_is_refused(tmp_path: Path, key: str) -> None:
    root = tmp_path / "root"
    expected = miniatures.write(key, root)
    folder = (root / expected[-1].path).parent
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(ValueError, match=rf"{folder} is a link to {tmp_path}/moved, outside the data set"):
        reader(key).read(root)


@pytest.mark.parametrize("key", KEYS)
def test_a_link_within_the_data_set_is_followed(tmp_path: Path, key: str) -> None:
    expected = miniatures.write(key, tmp_path)
    victim = tmp_path / expected[-1].path
    victim.unlink()
    victim.symlink_to(tmp_path / expected[0].path)
    assert by_path(reader(key).read(tmp_path)) == by_path(expected)


@pytest.mark.parametrize("key", KEYS)
def test_a_miniature_can_be_split(tmp_path: Path, key: str) -> None:
    table = manifests.tabulate(miniatures.write(key, tmp_path))
    split = make_split(table, val_fraction=0.34, seed=0)
    assert len(split.val_identities) == 2
    assert len(split.val_gallery) >= 2


@pytest.mark.parametrize("key", KEYS)
def test_a_miniature_s_images_are_whole_and_differ(tmp_path: Path, key: str) -> None:
    paths = [tmp_path / record.path for record in miniatures.write(key, tmp_path)]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image).shape == (32, 16, 3)
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == len(paths)


@pytest.mark.parametrize("key", readers())
def test_a_reader_says_how_its_set_is_scored(key: str) -> None:
    found = reader(key)
    assert found.rule in get_args(Rule)
    splits = {"train", "test"} if found.rule in ("leave_one_out", "one_shot") else {"train", "query", "gallery"}
    assert set(found.expected) <= splits
    assert found.ranks[0] == 1
    assert list(found.ranks) == sorted(found.ranks)


def test_ranks_and_rules_are_the_papers_own() -> None:
    assert {key for key in readers() if reader(key).rule == "leave_one_out"} == LEAVE_ONE_OUT
    assert {reader(key).rule for key in ("vehicleid_small", "vehicleid_medium", "vehicleid_large")} == {"one_shot"}
    assert reader("inshop").rule == "query_gallery"
    assert reader("inshop").ranks == (1, 10, 20, 30, 40, 50)
    assert reader("sop").ranks == (1, 10, 100, 1000)
    assert {reader(key).ranks for key in CLASSES} == {(1, 2, 4, 5, 8, 10, 20)}
    assert reader("vehicleid_large").ranks == (1, 5)
    assert all(reader(key).ranks == (1, 5, 10) for key in readers() if reader(key).rule == "cross_camera")


def test_the_published_counts() -> None:
    """As literature and the sets' own lists have them; None where sources differ."""

    def images(key: str) -> list[int | None]:
        return [expected.images for expected in reader(key).expected.values()]

    assert images("market1501") == [12_936, 3_368, 19_732]
    assert images("dukemtmcreid") == [16_522, 2_228, 17_661]
    assert images("cuhk03_detected") == [7_365, 1_400, 5_332]
    assert images("cuhk03_labeled") == [7_368, 1_400, 5_328]
    assert images("msmt17_v1") == images("msmt17_v2") == [30_248, 11_659, 82_161]
    assert images("msmt17_v1_trainval") == images("msmt17_v2_trainval") == [32_621, 11_659, 82_161]
    assert images("veri776") == [1_678, 11_579]
    assert [images(f"vehicleid_{size}")[1] for size in ("small", "medium", "large")] == [6_493, 13_377, 19_777]
    assert images("cub200") == images("cub200_cropped") == [5_864, 5_924]
    assert images("cars196") == images("cars196_cropped") == [8_054, 8_131]
    assert images("sop") == [59_551, 60_502]
    assert images("inshop") == [25_882, 14_218, 12_612]


def test_only_withdrawn_sets_have_a_notice() -> None:
    noted = {key: reader(key).withdrawn for key in readers() if reader(key).withdrawn}
    assert list(noted) == ["dukemtmcreid"]
    assert "withdrew in 2019" in str(noted["dukemtmcreid"])


def archive_of(key: str, root: Path) -> tuple[Path, list[Record]]:
    """A data set's miniature in an archive of the name that it is handed out under, and nothing else."""
    expected = miniatures.write(key, root / "loose")
    archive = shutil.make_archive(str(root / reader(key).archives[0]), "zip", root / "loose")
    shutil.rmtree(root / "loose")
    return Path(archive), expected


def unpacked(key: str, root: Path) -> bool:
    return unpack(key, root, root / "out", limits=Limits(), progress=lambda done, total: None)


@pytest.mark.parametrize("key", [key for key in KEYS if reader(key).archives])
def test_an_archive_is_unpacked(tmp_path: Path, key: str) -> None:
    archive, expected = archive_of(key, tmp_path)
    assert packaged(key, tmp_path) == archive
    assert unpacked(key, tmp_path)
    assert by_path(reader(key).read(tmp_path / "out")) == by_path(
        [replace(record, path=record.path.removeprefix("loose/")) for record in expected]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", archive.name])


def test_keys_of_one_archive_share_what_is_extracted() -> None:
    """All but those of CUHK03: its raw form is extracted by kind of boxes."""
    keys = [key for key in readers() if reader(key).archives]
    by_archive = {
        archives: [key for key in keys if reader(key).archives == archives]
        for archives in {reader(key).archives for key in keys}
    }
    for several in (found for found in by_archive.values() if len(found) > 1):
        names = {reader(key).shared for key in several}
        assert len(names) == 1
        assert (names == {None}) == several[0].startswith("cuhk03")
    single = [found[0] for found in by_archive.values() if len(found) == 1]
    assert {reader(key).shared for key in single} == {None}
    shared = {reader(key).shared for key in keys} - {None}
    assert len(shared) == sum(len(found) > 1 for found in by_archive.values()) - 1


@pytest.mark.parametrize("key", ["cuhk03_detected", "cuhk03_labeled"])
def test_the_raw_form_is_unpacked(tmp_path: Path, key: str) -> None:
    expected = miniatures.write_raw(key, tmp_path)
    assert packaged(key, tmp_path) == tmp_path / "cuhk03/cuhk03_release/cuhk-03.mat"
    assert unpacked(key, tmp_path)
    assert by_path(reader(key).read(tmp_path / "out")) == by_path(expected)
    assert unpacked(key, tmp_path)


def test_folders_in_an_archive_come_before_the_raw_form(tmp_path: Path) -> None:
    """They need no protocol's file, which the raw form may be without."""
    archive, expected = archive_of("cuhk03_labeled", tmp_path)
    miniatures.write_raw("cuhk03_labeled", tmp_path)
    (tmp_path / "cuhk03" / "cuhk03_new_protocol_config_labeled.mat").unlink()
    assert packaged("cuhk03_labeled", tmp_path) == archive
    assert unpacked("cuhk03_labeled", tmp_path)
    assert len(reader("cuhk03_labeled").read(tmp_path / "out")) == len(expected)


@pytest.mark.parametrize("key", readers())
def test_nothing_to_unpack(tmp_path: Path, key: str) -> None:
    """Neither in a folder of other things, nor where there is no folder."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "other.zip").touch()
    (tmp_path / "root" / "cuhk-03.mat").mkdir()
    for root in (tmp_path / "root", tmp_path / "nowhere"):
        assert packaged(key, root) is None
        assert not unpacked(key, root)
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "root" / "out").exists()


def test_the_raw_form_belongs_to_its_own_keys(tmp_path: Path) -> None:
    miniatures.write_raw("cuhk03_detected", tmp_path)
    assert packaged("market1501", tmp_path) is None
    assert not unpacked("market1501", tmp_path)


@pytest.mark.parametrize("limits", [Limits(members=3), Limits(gigabytes=1e-6)])
def test_limits_hold_for_what_is_unpacked(tmp_path: Path, limits: Limits) -> None:
    archive_of("market1501", tmp_path)
    with pytest.raises(ArchiveError, match=r"prepare\.archives\."):
        unpack("market1501", tmp_path, tmp_path / "out", limits=limits, progress=lambda done, total: None)
    assert not (tmp_path / "out").exists()


def test_progress_of_what_is_unpacked(tmp_path: Path) -> None:
    count = len(miniatures.write_raw("cuhk03_labeled", tmp_path))
    seen: list[tuple[int, int]] = []
    unpack("cuhk03_labeled", tmp_path, tmp_path / "out", limits=Limits(), progress=lambda *at: seen.append(at))
    assert seen == [(done, count) for done in range(1, count + 1)]


def test_readers_are_found_by_key() -> None:
    assert readers()["market1501"] == "Market-1501"
    assert reader("synthetic").read is reader("market1501").read
    assert not reader("synthetic").expected
    assert len(set(readers().values())) == len(readers())
    with pytest.raises(ValueError, match=r"no reader for data set 'market'.*did you mean 'market1501'"):
        reader("market")
