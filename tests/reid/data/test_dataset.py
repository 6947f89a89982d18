import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reid.data import manifest as manifests
from reid.data.dataset import ReidData
from reid.data.market1501 import read
from reid.data.pack import pack
from reid.data.split import make_split

NAMES = {
    "bounding_box_train": [f"{i:04}_c{c}s1_{n}.png" for i in (2, 5, 7, 9) for c in (1, 2) for n in (1, 2)]
    + ["0000_c1.png", "-1_c1.png"],
    "query": ["0003_c1.png", "0004_c1.png"],
    "bounding_box_test": ["-1_c1.png", "0000_c3.png", "0003_c2.png", "0004_c2.png"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared and split data set."""
    for name, files in NAMES.items():
        (tmp_path / name).mkdir()
        for number, file in enumerate(files):
            Image.new("RGB", (4, 8), (number, len(name), 0)).save(tmp_path / name / file)
    folder = tmp_path / "data" / "synthetic"
    pack(tmp_path, read(tmp_path), folder, image_size=(8, 4), workers=1)
    split(folder, seed=0)
    return folder


def split(folder: Path, seed: int) -> None:
    make_split(manifests.read(folder / "manifest.parquet"), val_fraction=0.5, seed=seed).save(folder / "split.json")


def test_a_prepared_set_is_loaded(folder: Path) -> None:
    data = ReidData.load(folder)
    manifest = manifests.read(folder / "manifest.parquet")
    assert data.name == "synthetic"
    assert data.images.shape == (24, 8, 4, 3)
    assert isinstance(data.images, np.memmap)
    assert data.identities.dtype == data.cameras.dtype == np.int64
    assert data.identities.tolist() == manifest["identity"].tolist()
    assert data.cameras.tolist() == manifest["camera"].tolist()
    assert data.digest == json.loads((folder / "info.json").read_text())["digest"]


def test_final_trials_train_on_every_training_identity(folder: Path) -> None:
    data = ReidData.load(folder)
    training = data.training("test")
    assert training.num_ids == 4
    assert data.identities[training.rows].tolist() == sorted([2, 5, 7, 9] * 4)
    known = np.array([2, 5, 7, 9])
    np.testing.assert_array_equal(known[training.labels], data.identities[training.rows])
    assert training.rows.dtype == training.labels.dtype == np.int64


def test_validation_trials_never_see_the_held_out_identities(folder: Path) -> None:
    data = ReidData.load(folder)
    training, (query, gallery) = data.training("val"), data.scored("val")
    assert training.num_ids == 2
    assert sorted(set(training.labels.tolist())) == [0, 1]
    trained = set(data.identities[training.rows].tolist())
    scored = set(data.identities[query].tolist()) | set(data.identities[gallery].tolist())
    assert trained | scored == {2, 5, 7, 9}
    assert not trained & scored
    assert sorted([*training.rows, *query, *gallery]) == sorted(data.training("test").rows)


def test_the_test_split_is_scored_without_junk(folder: Path) -> None:
    data = ReidData.load(folder)
    query, gallery = data.scored("test")
    assert data.identities[query].tolist() == [3, 4]
    assert data.identities[gallery].tolist() == [0, 3, 4]


def test_a_gathered_batch_is_ready_for_torch(folder: Path) -> None:
    data = ReidData.load(folder)
    batch = torch.from_numpy(data.images[np.array([5, 0, 5])])
    assert batch[:, 0, 0, 0].tolist() == [data.images[row, 0, 0, 0] for row in (5, 0, 5)]


def test_a_new_validation_draw_changes_the_digest_of_validation_trials_alone(folder: Path) -> None:
    before = ReidData.load(folder)
    split(folder, seed=1)
    after = ReidData.load(folder)
    assert before.digest_for("test") == after.digest_for("test") == before.digest
    assert before.digest_for("val") != after.digest_for("val")
    split(folder, seed=0)
    assert ReidData.load(folder).digest_for("val") == before.digest_for("val")


@pytest.mark.parametrize(
    ("name", "stage"),
    [("info.json", "prepare"), ("manifest.parquet", "prepare"), ("images.npy", "prepare"), ("split.json", "split")],
)
def test_a_missing_file_names_the_stage_to_run(folder: Path, name: str, stage: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing; run: python -m pipeline {stage} synthetic"):
        ReidData.load(folder)


def test_a_manifest_of_another_packing_is_refused(folder: Path) -> None:
    manifest = manifests.read(folder / "manifest.parquet")
    manifests.write(manifest.assign(camera=1), folder / "manifest.parquet")
    with pytest.raises(ValueError, match="do not belong together; run: python -m pipeline prepare synthetic"):
        ReidData.load(folder)


def test_an_array_of_another_length_is_refused(folder: Path) -> None:
    np.save(folder / "images.npy", np.load(folder / "images.npy")[:-1])
    with pytest.raises(ValueError, match="do not belong together"):
        ReidData.load(folder)


def test_a_cut_off_array_is_refused(folder: Path) -> None:
    content = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"images.npy is damaged .*run: python -m pipeline prepare synthetic"):
        ReidData.load(folder)


def test_another_fit_is_another_packing(folder: Path) -> None:
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps(info | {"fit": "pad"}))
    with pytest.raises(ValueError, match="do not belong together"):
        ReidData.load(folder)


def test_a_manifest_of_an_earlier_version_is_refused(folder: Path) -> None:
    manifests.read(folder / "manifest.parquet").drop(columns="box").to_parquet(folder / "manifest.parquet")
    with pytest.raises(ValueError, match=r"manifest.parquet has the columns .*: prepare again$"):
        ReidData.load(folder)


@pytest.mark.parametrize("change", ["query", "gallery", "train"])
def test_a_split_of_another_manifest_is_refused(folder: Path, change: str) -> None:
    manifest = manifests.read(folder / "manifest.parquet")
    rows = {"query": "split == 'query'", "gallery": "split == 'gallery'", "train": "identity in @held"}
    held = ReidData.load(folder).splits.val_identities  # noqa: F841 - used by the query
    other: pd.DataFrame = manifest.drop(manifest.query(rows[change]).index[:1]).reset_index(drop=True)
    make_split(other, val_fraction=0.5, seed=0).save(folder / "split.json")
    with pytest.raises(ValueError, match=r"was made for another manifest; run: python -m pipeline split synthetic"):
        ReidData.load(folder)
