"""The split: which identities are held out for validation, and which rows are query and gallery."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reid.config import BOTH_PARTS, Rule
from reid.data.manifest import atomically

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of the packed array by the part they play; all int64, ascending.

    `val_identities` are training identities held out of training when a trial is scored on them; `val_query` and
    `val_gallery` are their images. `query` and `gallery` are the test split: junk left out, distractors kept. Where the
    rule ranks images among themselves, every image is in both.
    """

    val_fraction: float
    seed: int
    val_identities: Rows
    val_query: Rows
    val_gallery: Rows
    query: Rows
    gallery: Rows

    def text(self) -> str:
        """The split as JSON, one line a field: equal splits have equal text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        return "{\n" + ",\n".join(f'  "{name}": {json.dumps(value)}' for name, value in plain.items()) + "\n}\n"

    def save(self, path: Path) -> None:
        """Write split.json, atomically."""
        with atomically(path) as temporary:
            temporary.write_text(self.text())

    @classmethod
    def load(cls, path: Path) -> "Split":
        """Read split.json.

        Raises:
            ValueError: the file is not a split.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            rows = {name: np.array(value, dtype=np.int64) for name, value in content.items() if isinstance(value, list)}
            return cls(**(content | rows))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a split: {error}") from error


def make_split(manifest: pd.DataFrame, *, val_fraction: float, seed: int, rule: Rule = "cross_camera") -> Split:
    """Hold out a share of the training identities and lay out their images as the test set is laid out.

    As in Market-1501, one image of every (identity, camera), drawn at random, is a query and the rest are the gallery.
    An identity without a match for any of its queries in another camera cannot be held out, except in a set with one
    camera, which can only be scored without the camera rule. Under a rule that ranks images among themselves, all
    images of the held-out identities play both parts, and an identity needs two. With the same seed, a larger fraction
    holds out a superset of identities.

    Args:
        manifest: one row an image.
        val_fraction: share of the training identities, above 0 and below 1; at least two identities.
        seed: of the draw.
        rule: how the data set is scored.

    Raises:
        ValueError: the fraction is out of range, or holds out or leaves too few identities; the message says what
            works.
    """
    train = manifest[(manifest["split"] == "train") & (manifest["identity"] > 0)]
    generator = np.random.default_rng(seed)
    both = rule in BOTH_PARTS
    chosen = _hold_out(train, val_fraction, generator, cameras=not both)
    held = train[train["identity"].isin(chosen)]
    drawn = held.iloc[generator.permutation(len(held))].drop_duplicates(["identity", "camera"])
    gallery = manifest["split"].isin(["gallery", "test"]) & (manifest["identity"] != -1)
    return Split(
        val_fraction=val_fraction,
        seed=seed,
        val_identities=chosen,
        val_query=_rows(held.index if both else drawn.index),
        val_gallery=_rows(held.index if both else held.index.difference(drawn.index)),
        query=_rows(manifest.index[manifest["split"].isin(["query", "test"])]),
        gallery=_rows(manifest.index[gallery]),
    )


def _hold_out(train: pd.DataFrame, val_fraction: float, generator: np.random.Generator, *, cameras: bool) -> Rows:
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}, allowed: above 0 and below 1")
    total = train["identity"].nunique()
    if total < 4:
        raise ValueError(f"{total} training identities are too few to hold any out: at least 4 are needed")
    eligible, wanted = _eligible(train, cameras=cameras), round(val_fraction * total)
    share = f"val_fraction {val_fraction} of {total} training identities"
    if wanted < 2:
        raise ValueError(f"{share} holds out {wanted}, a ranking needs at least 2: raise it to {2 / total:.2g} or more")
    if total - wanted < 2:
        raise ValueError(f"{share} leaves {total - wanted} to train on, at least 2 are needed: lower it")
    if wanted > len(eligible):
        raise ValueError(
            f"{share} asks for {wanted}, but only {len(eligible)} can be held out (a query of theirs has a match"
            f"{' in another camera' if cameras else ''}): lower it to {len(eligible) / total:.2g} or less"
        )
    return np.sort(generator.permutation(eligible)[:wanted])


def _eligible(train: pd.DataFrame, *, cameras: bool) -> Rows:
    """The identities of which at least one query would have a match."""
    by_identity = train.groupby("identity")["camera"]
    images, seen_by = by_identity.size(), by_identity.nunique()
    # One image a camera becomes the query. A second one in some camera stays in the gallery, where the query of any
    # other camera finds it.
    if not cameras or train["camera"].nunique() == 1:
        return _rows(images.index[images >= 2])
    return _rows(images.index[(seen_by >= 2) & (images > seen_by)])


def _rows(index: "pd.Index[int]") -> Rows:
    return np.sort(index.to_numpy(dtype=np.int64))
