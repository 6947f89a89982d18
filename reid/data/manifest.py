"""The manifest: one row an image, in the order of the packed array, and the digest that names its content."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import pyarrow as pa

SplitName = Literal["train", "query", "gallery", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "identity": pa.int64(),
        "camera": pa.int64(),
        "split": pa.string(),
        "sha256": pa.string(),
    }
)
_SHOWN = 10


@dataclass(frozen=True)
class Record:
    """One image as a reader found it.

    `path` is relative and posix. Identity -1 is junk, 0 a distractor. Cameras count from 1; a set without cameras has 0
    everywhere. An image of the split `test` is query and gallery both: each is asked for among the others, or the
    gallery is drawn from them.
    """

    path: str
    identity: int
    camera: int
    split: SplitName


@dataclass(frozen=True)
class Expected:
    """The size of a split of the real data set; `identities` counts those above 0. None is what is not known."""

    images: int | None
    identities: int | None = None


def tabulate(records: Iterable[Record]) -> pd.DataFrame:
    """The records as a table in manifest order (train, query, gallery, test; then path), still without `sha256`.

    Raises:
        ValueError: an identity is in both train and test, or a query has no identity; the message lists them.
    """
    rows = sorted(records, key=lambda record: (SPLITS.index(record.split), record.path))
    table = pd.DataFrame(
        {
            "path": pd.Series([row.path for row in rows], dtype="str"),
            "identity": pd.Series([row.identity for row in rows], dtype="int64"),
            "camera": pd.Series([row.camera for row in rows], dtype="int64"),
            "split": pd.Series([row.split for row in rows], dtype="str"),
        }
    )
    _check_identities(table)
    return table


def _check_identities(table: pd.DataFrame) -> None:
    train = table["split"] == "train"
    shared = sorted({i for i in table.loc[train, "identity"] if i > 0} & set(table.loc[~train, "identity"]))
    if shared:
        listed = ", ".join(map(str, shared))
        raise ValueError(f"{len(shared)} identities are in both the training and the test split: {listed}")
    nameless = table.loc[table["split"].isin(["query", "test"]) & (table["identity"] <= 0), "path"]
    if len(nameless):
        raise ValueError(f"{len(nameless)} query images are junk or distractors: {_shorten(nameless)}")


def duplicate_warnings(manifest: pd.DataFrame) -> list[str]:
    """One warning if an image of the test split, byte for byte, is also in the training split."""
    train = manifest[manifest["split"] == "train"].drop_duplicates("sha256")
    pairs = manifest[manifest["split"] != "train"].merge(train, on="sha256", suffixes=("", "_train"))
    if pairs.empty:
        return []
    named = _shorten([f"{one} = {other}" for one, other in zip(pairs["path"], pairs["path_train"], strict=True)])
    return [f"{len(pairs)} test images are also in the training split: {named}"]


def count_warnings(manifest: pd.DataFrame, expected: Mapping[str, Expected]) -> list[str]:
    """A warning for every split whose counts are not those of the real data set."""
    found = counts(manifest)
    warnings = []
    for split, wanted in expected.items():
        images, identities = (found[split][name] if split in found else 0 for name in ("images", "identities"))
        if wanted.images is not None and images != wanted.images:
            warnings.append(f"{split} has {images:,} images, the published set has {wanted.images:,}")
        if wanted.identities is not None and identities != wanted.identities:
            warnings.append(f"{split} has {identities:,} identities, the published set has {wanted.identities:,}")
    return warnings


def counts(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Images, identities above 0 and cameras (0: none are known) of every split that has images."""
    parts = {split: manifest[manifest["split"] == split] for split in SPLITS}
    return {
        split: {
            "images": len(part),
            "identities": int(part.loc[part["identity"] > 0, "identity"].nunique()),
            "cameras": int(part.loc[part["camera"] > 0, "camera"].nunique()),
        }
        for split, part in parts.items()
        if len(part)
    }


def digest(manifest: pd.DataFrame, packed_shape: Sequence[int]) -> str:
    """Name the data by its content: SHA-256, as hex, of the manifest's rows in order and the packed array's shape.

    The path is left out: it says where an image lay, and the same data set unpacked elsewhere is the same data set.
    """
    columns = [manifest[name].tolist() for name in ("sha256", "identity", "camera", "split")]
    content = {"shape": list(packed_shape), "rows": list(zip(*columns, strict=True))}
    return hashlib.sha256(json.dumps(content, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def write(manifest: pd.DataFrame, path: Path) -> None:
    """Write the manifest as parquet, atomically."""
    with atomically(path) as temporary:
        manifest.to_parquet(temporary, index=False, schema=_SCHEMA)


def read(path: Path) -> pd.DataFrame:
    """The manifest at `path`.

    Raises:
        ValueError: the file is not a manifest; the message says which columns it should have.
    """
    try:
        manifest = pd.read_parquet(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    if list(manifest.columns) != _SCHEMA.names:
        raise ValueError(f"{path} has the columns {list(manifest.columns)}, a manifest has {_SCHEMA.names}")
    return manifest


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, flushed to disk, when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _shorten(items: Iterable[str]) -> str:
    listed = list(items)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
