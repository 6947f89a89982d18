"""What tests of running trials share."""

import shutil
from pathlib import Path

import pytest

from reid.data import synthetic
from reid.data.manifest import read as read_manifest
from reid.data.market1501 import read
from reid.data.pack import pack
from reid.data.split import make_split


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn data set, packed and split, and the same under the name of another."""
    folder = tmp_path_factory.mktemp("data")
    small = synthetic.SyntheticConfig(train_identities=8, test_identities=4, distractors=2, junk=2)
    synthetic.draw(folder / "raw", small)
    pack(folder / "raw", read(folder / "raw"), folder / "synthetic", image_size=(64, 32), workers=1)
    split = make_split(read_manifest(folder / "synthetic" / "manifest.parquet"), val_fraction=0.4, seed=0)
    split.save(folder / "synthetic" / "split.json")
    shutil.copytree(folder / "synthetic", folder / "market1501")
    return folder
