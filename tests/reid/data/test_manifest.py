import random  # noqa: TID251 - hypothesis hands one out
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.data import manifest as manifests
from reid.data.manifest import Box, Expected, Record, SplitName, atomically

SPLIT_OF = st.sampled_from(["train", "query", "gallery", "test"])


def record(path: str, identity: int, split: SplitName, camera: int = 1, box: Box | None = None) -> Record:
    return Record(path=path, identity=identity, camera=camera, split=split, box=box)


def small() -> pd.DataFrame:
    records = [
        record("g/0002_c2.jpg", 2, "gallery", 2, (0, 1, 20, 30)),
        record("g/-1_c1.jpg", -1, "gallery"),
        record("t/0001_c1.jpg", 1, "train"),
        record("q/0002_c1.jpg", 2, "query"),
        record("t/0001_c2.jpg", 1, "train", 2),
    ]
    return manifests.tabulate(records).assign(sha256=list("abcde"))


def test_rows_are_ordered_by_split_and_then_path() -> None:
    assert small()["path"].tolist() == [
        "t/0001_c1.jpg",
        "t/0001_c2.jpg",
        "q/0002_c1.jpg",
        "g/-1_c1.jpg",
        "g/0002_c2.jpg",
    ]


def test_parts_of_an_image_are_ordered_by_their_numbers() -> None:
    boxes = [None, (1, 2, 3, 4), (9, 0, 10, 1), (10, 0, 11, 1), (10, 0, 12, 1)]
    table = manifests.tabulate([record("same.jpg", 1, "train", box=box) for box in reversed(boxes)])
    assert table["box"].tolist() == ["", "1,2,3,4", "9,0,10,1", "10,0,11,1", "10,0,12,1"]
    assert [manifests.box_of(text) for text in table["box"]] == boxes


@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), SPLIT_OF), unique=True), st.randoms(use_true_random=False))
def test_the_order_of_the_records_does_not_matter(names: list[tuple[str, SplitName]], shuffler: random.Random) -> None:
    records = [record(path, 1 if split == "train" else 2, split) for path, split in names]
    shuffled = records.copy()
    shuffler.shuffle(shuffled)
    pd.testing.assert_frame_equal(manifests.tabulate(shuffled), manifests.tabulate(records))


def test_identities_in_train_and_test_are_listed() -> None:
    records = [record(f"t{i}", i, "train") for i in (1, 2, 3, 4)]
    records += [record("q", 3, "query"), record("g", 1, "gallery"), record("b", 4, "test")]
    with pytest.raises(ValueError, match="3 identities are in both the training and the test split: 1, 3, 4"):
        manifests.tabulate(records)


def test_junk_and_distractors_may_be_in_both_splits() -> None:
    records = [record("t", 0, "train"), record("g", 0, "gallery"), record("u", -1, "train"), record("h", -1, "gallery")]
    assert len(manifests.tabulate(records)) == 4


@pytest.mark.parametrize("identity", [0, -1])
@pytest.mark.parametrize("split", ["query", "test"])
def test_a_query_needs_an_identity(identity: int, split: SplitName) -> None:
    with pytest.raises(ValueError, match="1 query images are junk or distractors: q/x"):
        manifests.tabulate([record("q/x", identity, split)])


def test_images_that_are_query_and_gallery_both_come_last() -> None:
    records = [record("a", 2, "test", 0), record("z", 1, "train", 0), record("b", 3, "test", 0)]
    table = manifests.tabulate(records)
    assert table["path"].tolist() == ["z", "a", "b"]
    assert table["split"].tolist() == ["train", "test", "test"]
    assert manifests.counts(table) == {
        "train": {"images": 1, "identities": 1, "cameras": 0},
        "test": {"images": 2, "identities": 2, "cameras": 0},
    }


def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    manifests.write(small(), tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(manifests.read(tmp_path / "manifest.parquet"), small())
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


def test_equal_manifests_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        manifests.write(small(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_not_a_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("path,identity")
    with pytest.raises(ValueError, match="text is not a parquet file"):
        manifests.read(tmp_path / "text")
    small().drop(columns="camera").to_parquet(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"a manifest has \['path', 'box', 'identity', 'camera', 'split', 'sha256'\]: prepare"
    ):
        manifests.read(tmp_path / "other")


def test_the_digest_names_the_content() -> None:
    base, shape = small(), (5, 8, 4, 3)
    digest = manifests.digest(base, shape, fit="pad")
    assert len(digest) == 64
    assert manifests.digest(small(), list(shape), fit="pad") == digest
    tables = [
        base.assign(identity=base["identity"] + 1),
        base.assign(camera=base["camera"] + 1),
        base.assign(split="train"),
        base.assign(sha256=base["sha256"].str.upper()),
        base.assign(box=""),
        base.iloc[::-1],
    ]
    changed = [manifests.digest(table, shape, fit="pad") for table in tables]
    changed += [manifests.digest(base, (5, 8, 5, 3), fit="pad"), manifests.digest(base, shape, fit="stretch")]
    assert len({digest, *changed}) == 9


def test_the_digest_does_not_depend_on_where_the_images_lay() -> None:
    moved = small().assign(path="market1501/" + small()["path"])
    one, other = (manifests.digest(table, (5, 8, 4, 3), fit="stretch") for table in (moved, small()))
    assert one == other


def test_images_in_train_and_test_are_a_warning() -> None:
    assert manifests.duplicate_warnings(small()) == []
    doubled = small().assign(sha256=["a", "b", "b", "c", "b"])  # the last one is another part of it
    assert manifests.duplicate_warnings(doubled) == [
        "1 test images are also in the training split: q/0002_c1.jpg = t/0001_c2.jpg"
    ]


def test_long_lists_are_shortened_and_counted() -> None:
    records = [record(f"t{i:02}", 1, "train") for i in range(3)] + [record(f"g{i:02}", 2, "gallery") for i in range(12)]
    (warning,) = manifests.duplicate_warnings(manifests.tabulate(records).assign(sha256="same"))
    assert warning.startswith("12 test images")
    assert warning.endswith("g09 = t00 and 2 more")


def test_counts() -> None:
    assert manifests.counts(small()) == {
        "train": {"images": 2, "identities": 1, "cameras": 2},
        "query": {"images": 1, "identities": 1, "cameras": 1},
        "gallery": {"images": 2, "identities": 1, "cameras": 2},
    }


def test_counts_other_than_the_published_ones_are_warnings() -> None:
    expected = {"train": Expected(2, 1), "query": Expected(1, 7), "gallery": Expected(19_732)}
    assert manifests.count_warnings(small(), expected) == [
        "query has 1 identities, the published set has 7",
        "gallery has 2 images, the published set has 19,732",
    ]


def test_what_is_not_known_of_the_published_set_is_no_warning() -> None:
    assert manifests.count_warnings(small(), {"train": Expected(None), "gallery": Expected(None, 1)}) == []
    assert manifests.count_warnings(small(), {"train": Expected(None, 9)}) == [
        "train has 1 identities, the published set has 9"
    ]


def test_a_split_without_images_is_counted_as_such() -> None:
    assert "test" not in manifests.counts(small())
    assert manifests.count_warnings(small(), {"test": Expected(7, 3)}) == [
        "test has 0 images, the published set has 7",
        "test has 0 identities, the published set has 3",
    ]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomically(path) as temporary:
            temporary.write_text("half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("file", "old")]
