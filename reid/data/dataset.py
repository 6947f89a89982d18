"""A prepared data set: the packed images by memory map, their labels, and who trains and who is scored."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reid.data import manifest as manifests
from reid.data.split import Rows, Split

EvaluateOn = Literal["val", "test"]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a trial trains on: rows of the packed array and their labels 0 to `num_ids` - 1, both int64 [n]."""

    rows: Rows
    labels: Rows
    num_ids: int


@dataclass(frozen=True, eq=False)
class ReidData:
    """A prepared and split data set.

    `images` is uint8 [N, H, W, 3], RGB, a memory map; `identities` and `cameras` are int64 [N]; `digest` names the
    content. `name` is the data set's key.
    """

    name: str
    images: NDArray[np.uint8]
    identities: Rows
    cameras: Rows
    splits: Split
    digest: str

    @classmethod
    def load(cls, folder: Path) -> "ReidData":
        """Open `data/<dataset>`.

        Raises:
            FileNotFoundError: a stage has not been run; the message names it.
            ValueError: the files do not belong together or are damaged; the message names the stage to run again.
        """
        prepare = f"python -m pipeline prepare {folder.name}"
        split = f"python -m pipeline split {folder.name}"
        for name in ("info.json", "manifest.parquet", "images.npy"):
            _require(folder / name, prepare)
        _require(folder / "split.json", split)
        manifest = manifests.read(folder / "manifest.parquet")
        info = json.loads((folder / "info.json").read_text())
        images = _open_images(folder / "images.npy", prepare)
        if len(images) != len(manifest) or manifests.digest(manifest, images.shape, fit=info["fit"]) != info["digest"]:
            raise ValueError(f"{folder}: manifest, images and info.json do not belong together; run: {prepare}")
        splits = Split.load(folder / "split.json")
        if not _fits(splits, manifest):
            raise ValueError(f"{folder / 'split.json'} was made for another manifest; run: {split}")
        identities, cameras = (manifest[name].to_numpy(dtype=np.int64) for name in ("identity", "camera"))
        return cls(folder.name, images, identities, cameras, splits, info["digest"])

    def training(self, evaluate_on: EvaluateOn) -> TrainingSet:
        """The training set: all training identities for `test`, without the held-out ones for `val`.

        Whatever has an identity and is not in the test split is for training.
        """
        train = self.identities > 0
        train[self.splits.query] = False
        train[self.splits.gallery] = False
        if evaluate_on == "val":
            train &= ~np.isin(self.identities, self.splits.val_identities)
        rows = np.flatnonzero(train)
        known, labels = np.unique(self.identities[rows], return_inverse=True)
        return TrainingSet(rows, labels, len(known))

    def scored(self, evaluate_on: EvaluateOn) -> tuple[Rows, Rows]:
        """The rows of the queries and of the gallery."""
        if evaluate_on == "val":
            return self.splits.val_query, self.splits.val_gallery
        return self.splits.query, self.splits.gallery

    def digest_for(self, evaluate_on: EvaluateOn) -> str:
        """What a trial's key hashes of the data; on the test split, the validation draw does not move the result."""
        if evaluate_on == "test":
            return self.digest
        return hashlib.sha256((self.digest + self.splits.text()).encode()).hexdigest()


def _require(path: Path, command: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run: {command}")


def _open_images(path: Path, command: str) -> NDArray[np.uint8]:
    try:
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); run: {command}") from error
    return images


def _fits(splits: Split, manifest: pd.DataFrame) -> bool:
    """Whether the rows of the split play in the manifest the parts that the split gives them."""
    identities, part = manifest["identity"], manifest["split"]
    held = np.flatnonzero((part == "train") & identities.isin(splits.val_identities))
    return (
        np.array_equal(splits.query, np.flatnonzero(part.isin(["query", "test"])))
        and np.array_equal(splits.gallery, np.flatnonzero(part.isin(["gallery", "test"]) & (identities != -1)))
        and np.array_equal(np.union1d(splits.val_query, splits.val_gallery), held)
    )
