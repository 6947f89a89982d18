"""The manifest: one row an image, in the order of the packed array, and the digest that names its content."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from reid.config import BOTH_PARTS, Rule

SplitName = Literal["train", "query", "gallery", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
_RULES: tuple[Rule, ...] = get_args(Rule)

Box = tuple[int, int, int, int]

_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "box": pa.string(),
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
    gallery is drawn from them. `box` is the part of the image that is packed: left, top, right and bottom in pixels of
    the upright image, counted from 0, the last two exclusive; None is all of it. An image may have several.
    """

    path: str
    identity: int
    camera: int
    split: SplitName
    box: Box | None = None


@dataclass(frozen=True)
class Expected:
    """The size of a split of the real data set; `identities` counts those above 0. None is what is not known."""

    images: int | None
    identities: int | None = None


def tabulate(records: Iterable[Record]) -> pd.DataFrame:
    """The records as a table in manifest order (train, query, gallery, test; path; box), still without `sha256`.

    A box is text there, its four numbers with commas between them; the whole image has none.

    Raises:
        ValueError: an identity is in both train and test, or a query has no identity; the message lists them.
    """
    rows = sorted(records, key=lambda record: (SPLITS.index(record.split), record.path, record.box or ()))
    table = pd.DataFrame(
        {
            "path": pd.Series([row.path for row in rows], dtype="str"),
            "box": pd.Series([",".join(map(str, row.box or ())) for row in rows], dtype="str"),
            "identity": pd.Series([row.identity for row in rows], dtype="int64"),
            "camera": pd.Series([row.camera for row in rows], dtype="int64"),
            "split": pd.Series([row.split for row in rows], dtype="str"),
        }
    )
    _check_identities(table)
    return table


def box_of(text: str) -> Box | None:
    """The box that a manifest's row has."""
    if not text:
        return None
    left, top, right, bottom = map(int, text.split(","))
    return left, top, right, bottom


def _check_identities(table: pd.DataFrame) -> None:
    train = table["split"] == "train"
    shared = sorted({i for i in table.loc[train, "identity"] if i > 0} & set(table.loc[~train, "identity"]))
    if shared:
        raise ValueError(
            f"{len(shared)} identities are in both the training and the test split: {_shorten(map(str, shared))}; "
            f"number them anew where they are somebody else, and take their images out of one of the two where not"
        )
    nameless = table.loc[table["split"].isin(["query", "test"]) & (table["identity"] <= 0), "path"]
    if len(nameless):
        raise ValueError(
            f"{len(nameless)} query images are junk or distractors: {_shorten(nameless)}; give them an identity, which "
            f"counts from 1, or take them out"
        )


def match_warnings(manifest: pd.DataFrame, rule: Rule) -> list[str]:
    """One warning if queries have no match by a rule: they are not scored, and means are over the others.

    Raises:
        ValueError: no query has one, or the rule is not for the splits there are; the message has the reason, and names
            another rule where one would do.
    """
    if fault := _fault(manifest, rule):
        raise ValueError(f"{fault}; {_remedy(manifest)}")
    queries = _queries(manifest, rule)
    lost = queries.loc[~queries["match"], "path"]
    if lost.empty:
        return []
    said = f"{len(lost):,} of {len(queries):,} queries have no match by the rule {rule} and will not be scored"
    return [f"{said}: {_reasons(queries)}: {_shorten(lost)}"]


def _fault(manifest: pd.DataFrame, rule: Rule) -> str:
    """Why nothing can be scored by a rule; empty if something can."""
    both = int((manifest["split"] == "test").sum())
    if rule in BOTH_PARTS and not both:
        return f"the rule {rule} ranks the images of the split test among themselves, and there are none"
    if rule == "query_gallery" and both:
        return f"by the rule {rule}, each of the {both:,} images of the split test would find itself"
    queries = _queries(manifest, rule)
    return "" if queries["match"].any() else f"no query has a match by the rule {rule}: {_reasons(queries)}"


def _queries(manifest: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """The queries, with whether an image of their identity is `known`, and whether one is a `match`."""
    queries = manifest[manifest["split"].isin(["query", "test"])]
    gallery = manifest[manifest["split"].isin(["gallery", "test"])]
    found = _counted(queries, gallery, ["identity"])
    if rule == "one_shot":  # the only image of an identity is always in the drawn gallery, and never a query
        queries, found = queries[found > 1], found[found > 1]
    itself = 1 if rule in BOTH_PARTS else 0
    dropped = _counted(queries, gallery, ["identity", "camera"]) if rule == "cross_camera" else itself
    return queries.assign(known=found > itself, match=found > dropped)


def _counted(queries: pd.DataFrame, gallery: pd.DataFrame, labels: list[str]) -> NDArray[np.int64]:
    """How many gallery images have a query's labels, for each query."""
    sizes = gallery.groupby(labels).size().rename("size").reset_index()
    return queries[labels].merge(sizes, how="left", on=labels)["size"].fillna(0).to_numpy(dtype=np.int64)


def _reasons(queries: pd.DataFrame) -> str:
    """Why some of the queries have no match."""
    strangers, seen = (int((~queries["match"] & (queries["known"] == known)).sum()) for known in (False, True))
    reasons = [f"{strangers:,} have an identity of which no other image is ranked"] * bool(strangers)
    reasons += [f"{seen:,} have theirs in their own camera alone, where they are not ranked"] * bool(seen)
    return " and ".join(reasons) or "there are no queries"


def _remedy(manifest: pd.DataFrame) -> str:
    """A rule by which some query has a match, if there is one."""
    fit = [rule for rule in _RULES if not _fault(manifest, rule)]
    if not fit:
        return "mend identities and splits"
    return f"mend identities, cameras and splits, or set in the profile's overrides: recipe.protocol.rule: {fit[0]}"


def duplicate_warnings(manifest: pd.DataFrame) -> list[str]:
    """One warning if an image of the test split, byte for byte and box for box, is also in the training split."""
    same = ["sha256", "box"]
    train = manifest[manifest["split"] == "train"].drop_duplicates(same)
    pairs = manifest[manifest["split"] != "train"].merge(train, on=same, suffixes=("", "_train"))
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


def digest(manifest: pd.DataFrame, packed_shape: Sequence[int], *, fit: str) -> str:
    """Name the data by its content: SHA-256, as hex, of the manifest's rows in order and of how they were packed.

    The path is left out: it says where an image lay, and the same data set unpacked elsewhere is the same data set.

    Args:
        manifest: with `sha256`.
        packed_shape: that of images.npy.
        fit: how images were brought to that size, see `reid.data.decode`.
    """
    columns = [manifest[name].tolist() for name in ("sha256", "box", "identity", "camera", "split")]
    content = {"shape": list(packed_shape), "fit": fit, "rows": list(zip(*columns, strict=True))}
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
        raise ValueError(
            f"{path} has the columns {list(manifest.columns)}, a manifest has {_SCHEMA.names}: prepare again"
        )
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
