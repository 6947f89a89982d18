from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.config import Rule
from reid.data.split import Split, make_split


def manifest(train: list[tuple[int, int]], test: tuple[tuple[int, int, str], ...] = ()) -> pd.DataFrame:
    """Rows from (identity, camera) pairs of the training split and (identity, camera, split) of the test split."""
    rows = [(identity, camera, "train") for identity, camera in train] + list(test)
    return pd.DataFrame(rows, columns=["identity", "camera", "split"])


def regular(identities: int, cameras: int = 3, images: int = 2) -> pd.DataFrame:
    pairs = [(i, c) for i in range(1, identities + 1) for c in range(1, cameras + 1) for _ in range(images)]
    return manifest(pairs, ((90, 1, "query"), (-1, 1, "gallery"), (0, 2, "gallery"), (90, 2, "gallery")))


@st.composite
def manifests(draw: st.DrawFn) -> pd.DataFrame:
    pairs = draw(st.lists(st.tuples(st.integers(-1, 12), st.integers(1, 4)), min_size=1, max_size=80))
    return manifest(pairs)


@settings(max_examples=60)
@given(manifests(), st.floats(0.05, 0.95), st.integers(0, 100))
def test_a_split_is_what_it_promises(table: pd.DataFrame, fraction: float, seed: int) -> None:
    try:
        split = make_split(table, val_fraction=fraction, seed=seed)
    except ValueError:
        return
    held = {int(identity) for identity in split.val_identities}
    train = table[(table["split"] == "train") & (table["identity"] > 0)]
    assert len(held) >= 2
    assert len(held) == round(fraction * train["identity"].nunique())
    assert train["identity"].nunique() - len(held) >= 2
    both = np.concatenate([split.val_query, split.val_gallery])
    assert sorted(both) == list(train.index[train["identity"].isin(held)])
    one_camera = train["camera"].nunique() == 1
    owners, cameras = table["identity"].to_numpy(), table["camera"].to_numpy()
    for identity in held:
        query, gallery = (cameras[rows[owners[rows] == identity]] for rows in (split.val_query, split.val_gallery))
        # exactly one query for each camera that saw the identity
        assert sorted(query) == sorted(set(cameras[owners == identity]))
        # and at least one query has a match that the camera rule leaves
        assert any(one_camera or one != other for one in query for other in gallery)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    texts = [make_split(regular(20), val_fraction=0.3, seed=seed).text() for seed in (0, 0, 1)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_larger_fraction_holds_out_more_of_the_same() -> None:
    few, many = (make_split(regular(20), val_fraction=fraction, seed=3) for fraction in (0.2, 0.5))
    assert set(few.val_identities) < set(many.val_identities)


def test_every_identity_and_every_image_of_a_camera_can_be_drawn() -> None:
    splits = [make_split(regular(6), val_fraction=0.34, seed=seed) for seed in range(60)]
    assert {int(i) for split in splits for i in split.val_identities} == set(range(1, 7))
    assert {int(row) for split in splits for row in split.val_query} == set(range(36))


def test_the_test_split_keeps_distractors_and_drops_junk() -> None:
    split = make_split(regular(10), val_fraction=0.2, seed=0)
    assert split.query.tolist() == [60]
    assert split.gallery.tolist() == [62, 63]  # 61 is junk


def test_identities_without_a_match_are_never_held_out() -> None:
    seen_twice = [(i, c) for i in (1, 2) for c in (1, 1, 2)]
    one_camera_only = [(i, 1) for i in (3, 4, 5) for _ in range(5)]
    no_gallery_left = [(i, c) for i in (6, 7) for c in (1, 2)]
    table = manifest(seen_twice + one_camera_only + no_gallery_left)
    for seed in range(20):
        assert make_split(table, val_fraction=0.29, seed=seed).val_identities.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"asks for 3, but only 2 can be held out .*lower it to 0.29 or less"):
        make_split(table, val_fraction=0.43, seed=0)


def test_a_set_with_one_camera_can_be_split() -> None:
    table = manifest([(i, 1) for i in range(1, 9) for _ in range(3)] + [(9, 1)])
    split = make_split(table, val_fraction=0.5, seed=0)
    assert len(split.val_query) == 4
    assert len(split.val_gallery) == 8
    assert 9 not in split.val_identities


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_must_be_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"val_fraction is .*, allowed: above 0 and below 1"):
        make_split(regular(10), val_fraction=fraction, seed=0)


def test_too_few_held_out_or_left_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"0.1 of 10 training identities holds out 1, .*raise it to 0.2 or more"):
        make_split(regular(10), val_fraction=0.1, seed=0)
    with pytest.raises(ValueError, match=r"0.9 of 10 training identities leaves 1 to train on"):
        make_split(regular(10), val_fraction=0.9, seed=0)
    with pytest.raises(ValueError, match="3 training identities are too few"):
        make_split(regular(3), val_fraction=0.5, seed=0)


def test_a_split_survives_the_disk(tmp_path: Path) -> None:
    split = make_split(regular(10), val_fraction=0.3, seed=5)
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json")
    assert loaded.text() == split.text() == (tmp_path / "split.json").read_text()
    assert loaded.val_query.dtype == loaded.gallery.dtype == np.int64
    assert (loaded.val_fraction, loaded.seed) == (0.3, 5)
    np.testing.assert_array_equal(loaded.val_gallery, split.val_gallery)


def test_an_empty_part_survives_the_disk(tmp_path: Path) -> None:
    split = make_split(regular(10).query("split == 'train'"), val_fraction=0.3, seed=5)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json").query.dtype == np.int64


@pytest.mark.parametrize("text", ["", "[1]", '{"seed": 1}', "\x00"])
def test_what_is_not_a_split_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split.json is not a split"):
        Split.load(tmp_path / "split.json")


@pytest.mark.parametrize("rule", ["leave_one_out", "one_shot"])
def test_where_images_are_ranked_among_themselves_all_of_them_play_both_parts(rule: Rule) -> None:
    table = regular(10).assign(camera=0)
    table.loc[table["split"] != "train", "split"] = "test"
    lonely = table[table["identity"] == 1].index[1:]  # one image of it is left, which would have no match
    table = table[table["identity"] > 0].drop(lonely).reset_index(drop=True)
    for seed in range(20):
        split = make_split(table, val_fraction=0.3, seed=seed, rule=rule)
        held = np.flatnonzero(table["identity"].isin(split.val_identities))
        assert 1 not in split.val_identities
        assert np.array_equal(split.val_query, held)
        assert np.array_equal(split.val_gallery, held)
        assert np.array_equal(split.query, np.flatnonzero(table["split"] == "test"))
        assert np.array_equal(split.gallery, split.query)
